{{/* Names are resolved by the cluster's DNS and by nothing else. */}}
{{- define "hybridserve.dnsEgress" -}}
- to:
    - namespaceSelector: {}
      podSelector: {matchLabels: {k8s-app: kube-dns}}
  ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end -}}

{{/* Who may send requests to the public port. */}}
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

{{/* What every pod that runs an engine may reach: DNS, the guard, the model hub while it downloads, the user's own. */}}
{{- define "hybridserve.engineEgress" -}}
{{ include "hybridserve.dnsEgress" . }}
{{- with .Values.networkPolicy.guard }}
- to: {{- toYaml . | nindent 4 }}
  ports:
    - {port: {{ include "hybridserve.portOf" (dict "url" (dig "guard" "url" "" $.Values.settings) "port" "80") }}, protocol: TCP}
{{- end }}
{{- if .Values.weights.download }}
- to:
    - ipBlock: {cidr: 0.0.0.0/0}
    - ipBlock: {cidr: "::/0"}
  ports:
    - {port: 443, protocol: TCP}
{{- end }}
{{- with .Values.networkPolicy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end -}}
