{{- define "hybridserve.dnsEgress" -}}
- to:
    {{- if .Values.networkPolicy.dns }}
    {{- toYaml .Values.networkPolicy.dns | nindent 4 }}
    {{- else }}
    - namespaceSelector: {}
      podSelector: {matchLabels: {k8s-app: kube-dns}}
    # NodeLocal DNSCache answers on this address of the node.
    - ipBlock: {cidr: 169.254.20.10/32}
    {{- end }}
  ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
    # OpenShift's DNS pods listen on 5353.
    - {port: 5353, protocol: UDP}
    - {port: 5353, protocol: TCP}
{{- end -}}

{{/* Clients of the public port. */}}
{{- define "hybridserve.clientPeers" -}}
{{- if .Values.networkPolicy.clients -}}
{{- toYaml .Values.networkPolicy.clients -}}
{{- else -}}
- podSelector: {}
{{- end -}}
{{- end -}}

{{- define "hybridserve.monitoringPeers" -}}
{{- if .Values.networkPolicy.monitoring -}}
{{- toYaml .Values.networkPolicy.monitoring -}}
{{- else -}}
- namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}
{{- end -}}
{{- end -}}

{{/* Port of an address; a default where it names none. Arguments: url, port. */}}
{{- define "hybridserve.portOf" -}}
{{- $host := (urlParse .url).host -}}
{{- $port := regexFind ":[0-9]+$" $host | trimPrefix ":" -}}
{{- default (ternary "443" .port (hasPrefix "https:" .url)) $port -}}
{{- end -}}

{{/* Egress of pods that download. */}}
{{- define "hybridserve.hubEgress" -}}
- to:
    {{- if .Values.networkPolicy.hub }}
    {{- toYaml .Values.networkPolicy.hub | nindent 4 }}
    {{- else }}
    - ipBlock: {cidr: 0.0.0.0/0}
    - ipBlock: {cidr: "::/0"}
    {{- end }}
  ports:
    {{- if .Values.weights.httpsProxy }}
    - {port: {{ include "hybridserve.portOf" (dict "url" .Values.weights.httpsProxy "port" "80") }}, protocol: TCP}
    {{- else }}
    - {port: {{ include "hybridserve.portOf" (dict "url" (default "https://hub" .Values.weights.endpoint) "port" "80") }}, protocol: TCP}
    {{- end }}
{{- end -}}

{{/* Address of the server with the limits of keys; empty without one, and for a socket, which is no network peer. */}}
{{- define "hybridserve.limitsServer" -}}
{{- $url := dig "access" "limits_url" "" .Values.settings | default "" -}}
{{- if not (hasPrefix "unix:" $url) }}{{ $url }}{{ end -}}
{{- end -}}

{{/* Egress of every pod that runs an engine or builds the application: DNS, guard, limits, downloads, the user's
rules. */}}
{{- define "hybridserve.engineEgress" -}}
{{ include "hybridserve.dnsEgress" . }}
{{- with .Values.networkPolicy.guard }}
- to: {{- toYaml . | nindent 4 }}
  ports:
    - {port: {{ include "hybridserve.portOf" (dict "url" (dig "guard" "url" "" $.Values.settings) "port" "80") }}, protocol: TCP}
{{- end }}
{{- $limits := include "hybridserve.limitsServer" . }}
{{- if and $limits .Values.networkPolicy.redis }}
- to: {{- toYaml .Values.networkPolicy.redis | nindent 4 }}
  ports:
    - {port: {{ include "hybridserve.portOf" (dict "url" $limits "port" "6379") }}, protocol: TCP}
{{- end }}
{{- if include "hybridserve.guardDeployed" . }}
- to:
    - podSelector:
        matchLabels: {{- include "hybridserve.podSelector" (dict "root" . "component" "guard") | nindent 10 }}
  ports:
    - {port: 8000, protocol: TCP}
{{- end }}
{{- if .Values.weights.download }}
{{ include "hybridserve.hubEgress" . }}
{{- end }}
{{- with .Values.networkPolicy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end -}}
