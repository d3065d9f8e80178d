{{- define "hybridserve.podSecurityContext" -}}
{{- $context := dict "runAsNonRoot" true "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- with .Values.runAsUser -}}
{{- $context = mustMerge $context (dict "runAsUser" (int64 .) "runAsGroup" (int64 .) "fsGroup" (int64 .) "fsGroupChangePolicy" "OnRootMismatch") -}}
{{- end -}}
{{- mustMergeOverwrite $context (deepCopy .Values.podSecurityContext) | toYaml -}}
{{- end -}}

{{- define "hybridserve.containerSecurityContext" -}}
{{- $context := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "runAsNonRoot" true
      "capabilities" (dict "drop" (list "ALL")) "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- with .Values.runAsUser }}{{ $_ := set $context "runAsUser" (int64 .) }}{{ end -}}
{{- mustMergeOverwrite $context (deepCopy .Values.containerSecurityContext) | toYaml -}}
{{- end -}}

{{/* Environment of every process that may run an engine. The root file system is read-only, so caches go elsewhere. */}}
{{- define "hybridserve.env" -}}
- {name: HOME, value: /tmp}
- {name: HF_HOME, value: /models/huggingface}
# Weights come from the download container, a claim or a folder, and never from the engine itself.
- {name: HF_HUB_OFFLINE, value: "1"}
- {name: XDG_CACHE_HOME, value: /var/cache/hybridserve}
- {name: VLLM_CACHE_ROOT, value: /var/cache/hybridserve/vllm}
- {name: TORCHINDUCTOR_CACHE_DIR, value: /var/cache/hybridserve/inductor}
- {name: TRITON_CACHE_DIR, value: /var/cache/hybridserve/triton}
- {name: VLLM_NO_USAGE_STATS, value: "1"}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
- {name: TOKENIZERS_PARALLELISM, value: "false"}
{{- end -}}

{{- define "hybridserve.extraEnv" -}}
{{- with .Values.extraEnv }}
{{- toYaml . }}
{{- end }}
{{- end -}}

{{/* Names of environment variables that extraEnv may not set, because the chart, KubeRay or Ray set them. */}}
{{- define "hybridserve.reservedEnv" -}}
^(HOME|HF_HOME|HF_HUB_OFFLINE|XDG_CACHE_HOME|VLLM_CACHE_ROOT|TORCHINDUCTOR_CACHE_DIR|TRITON_CACHE_DIR|VLLM_NO_USAGE_STATS|TOKENIZERS_PARALLELISM|CUDA_VISIBLE_DEVICES|REPOSITORY|REVISION|RAY_.*|REDIS_PASSWORD|REDIS_USERNAME|FQ_RAY_IP|KUBERAY_.*|HYBRIDSERVE_.*)$
{{- end -}}

{{- define "hybridserve.engineMounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: shm, mountPath: /dev/shm}
- {name: weights, mountPath: /models}
- {name: compile-cache, mountPath: /var/cache/hybridserve}
{{- include "hybridserve.fileMounts" . }}
{{- end -}}

{{/* Files that settings name: read by the engine, and by the Ray head when it builds the application. */}}
{{- define "hybridserve.fileMounts" -}}
{{- if .Values.auth.limitsSecret }}
- {name: limits-password, mountPath: /etc/hybridserve-limits, readOnly: true}
{{- end }}
{{- if include "hybridserve.keysSecret" . }}
- {name: keys, mountPath: /etc/hybridserve-keys, readOnly: true}
{{- end }}
{{- if .Values.verify.reference }}
- {name: verify, mountPath: /etc/hybridserve-verify, readOnly: true}
{{- end }}
{{- if .Values.guard.keySecret }}
- {name: guard-key, mountPath: /etc/hybridserve-guard-key, readOnly: true}
{{- end }}
{{- if .Values.files }}
- {name: files, mountPath: /etc/hybridserve-files, readOnly: true}
{{- end }}
{{- if .Values.notice.files }}
- {name: notice, mountPath: /etc/hybridserve-notice, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "hybridserve.fileVolumes" -}}
{{- with .Values.auth.limitsSecret }}
- name: limits-password
  secret:
    secretName: {{ . | quote }}
    items: [{key: {{ $.Values.auth.limitsSecretKey | quote }}, path: password}]
{{- end }}
{{- with include "hybridserve.keysSecret" . }}
- name: keys
  secret:
    secretName: {{ . | quote }}
    items: [{key: {{ $.Values.auth.secretKey | quote }}, path: keys}]
{{- end }}
{{- if .Values.verify.reference }}
- name: verify
  configMap: {name: "{{ include "hybridserve.fullname" . }}-verify"}
{{- end }}
{{- with .Values.guard.keySecret }}
- name: guard-key
  secret:
    secretName: {{ . | quote }}
    items: [{key: {{ $.Values.guard.keySecretKey | quote }}, path: key}]
{{- end }}
{{- if .Values.files }}
- name: files
  configMap: {name: "{{ include "hybridserve.fullname" . }}-files"}
{{- end }}
{{- if .Values.notice.files }}
- name: notice
  configMap: {name: "{{ include "hybridserve.fullname" . }}-notice"}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "hybridserve.scratchVolumes" -}}
- name: tmp
  emptyDir: {sizeLimit: {{ .Values.tmpSize | quote }}}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ .Values.shmSize | quote }}}
{{- end -}}

{{/* The claim with the weights; empty where there is none. */}}
{{- define "hybridserve.weightsClaim" -}}
{{- with .Values.weights.cache -}}
{{- if .existingClaim }}{{ .existingClaim }}{{ else if .persistent }}{{ include "hybridserve.fullname" $ }}-weights{{ end -}}
{{- end -}}
{{- end -}}

{{- define "hybridserve.weightsVolume" -}}
{{- $cache := .Values.weights.cache -}}
- name: weights
{{- if include "hybridserve.weightsClaim" . }}
  persistentVolumeClaim: {claimName: {{ include "hybridserve.weightsClaim" . | quote }}}
{{- else if $cache.perPod }}
  ephemeral:
    volumeClaimTemplate:
      spec:
        accessModes: [ReadWriteOnce]
        {{- with $cache.storageClassName }}
        storageClassName: {{ . | quote }}
        {{- end }}
        resources:
          requests: {storage: {{ $cache.size | quote }}}
{{- else }}
  emptyDir: {sizeLimit: {{ $cache.size | quote }}}
{{- end }}
{{- end -}}

{{- define "hybridserve.engineVolumes" -}}
{{- include "hybridserve.scratchVolumes" . }}
{{ include "hybridserve.weightsVolume" . }}
- name: compile-cache
{{- if .Values.compileCache.existingClaim }}
  persistentVolumeClaim: {claimName: {{ .Values.compileCache.existingClaim | quote }}}
{{- else }}
  emptyDir: {sizeLimit: {{ .Values.compileCache.size | quote }}}
{{- end }}
{{- if .Values.weights.download }}
{{- with include "hybridserve.hubVolumes" . | trim }}
{{ . }}
{{- end }}
{{- end }}
{{- include "hybridserve.fileVolumes" . }}
{{- end -}}

{{/* Token and certificates for the download. */}}
{{- define "hybridserve.hubVolumes" -}}
{{- with include "hybridserve.hubSecret" . }}
- name: hub-token
  secret:
    secretName: {{ . | quote }}
    items: [{key: {{ $.Values.weights.secretKey | quote }}, path: token}]
{{- end }}
{{- with .Values.weights.caConfigMap }}
- name: hub-ca
  configMap:
    name: {{ . | quote }}
    items: [{key: {{ $.Values.weights.caKey | quote }}, path: ca.crt}]
{{- end }}
{{- end -}}

{{/*
Refuses reserved names from extraEnvFrom, which only the cluster knows. What the chart and KubeRay write into `env` wins over
`envFrom` in any case; these are the names that nobody writes there. KubeRay gives init containers RAY_IP.
*/}}
{{- define "hybridserve.environmentCheck" -}}
- name: environment
  image: {{ include "hybridserve.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [/bin/sh, -euc]
  args:
    - |
      found=$(env -0 | cut -z -d= -f1 | tr '\000' '\n' | grep -vx RAY_IP | grep -Ex 'RAY_.*|KUBERAY_.*|HYBRIDSERVE_.*|REDIS_(PASSWORD|USERNAME)|CUDA_VISIBLE_DEVICES' || true)
      [ -z "$found" ] || { echo "extraEnvFrom: $(echo $found): reserved for the chart, KubeRay and Ray; remove it from the ConfigMap or Secret, and use the chart's values"; exit 1; }
  envFrom: {{- toYaml .Values.extraEnvFrom | nindent 4 }}
  terminationMessagePolicy: FallbackToLogsOnError
  securityContext: {{- include "hybridserve.containerSecurityContext" . | nindent 4 }}
  resources:
    requests: {cpu: 10m, memory: 16Mi, ephemeral-storage: 16Mi}
    limits: {memory: 64Mi, ephemeral-storage: 16Mi}
{{- end -}}

{{- define "hybridserve.initContainers" -}}
{{- if .Values.extraEnvFrom }}
{{ include "hybridserve.environmentCheck" . }}
{{- end }}
{{- with .Values.extraInitContainers }}
{{ toYaml . }}
{{- end }}
{{- if .Values.weights.download }}
{{ include "hybridserve.downloadContainer" (dict "root" . "repository" (dig "model" "source" "" .Values.settings) "revision" (dig "model" "revision" "" .Values.settings)) }}
{{- end }}
{{- end -}}

{{/* Downloads the weights once for each revision; an attempt counts only after every checksum was verified.
Arguments: root, repository, revision. */}}
{{- define "hybridserve.downloadContainer" -}}
{{- $arguments := . -}}
{{- with .root -}}
- name: weights
  image: {{ include "hybridserve.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [/bin/sh, -euc]
  args:
    - |
      verified="$HF_HOME/verified-$(echo "$REPOSITORY" | tr / -)-$REVISION"
      if [ -e "$verified" ]; then echo "$REPOSITORY at $REVISION was verified before"; exit 0; fi
      hybridserve fetch "$REPOSITORY" --revision "$REVISION"{{ if include "hybridserve.hubSecret" . }} --token-file /etc/hub-token/token{{ end }}
      touch "$verified"
  env:
    - {name: HOME, value: /tmp}
    - {name: HF_HOME, value: /models/huggingface}
    - {name: REPOSITORY, value: {{ $arguments.repository | quote }}}
    - {name: REVISION, value: {{ $arguments.revision | quote }}}
    {{- with .Values.weights.endpoint }}
    - {name: HF_ENDPOINT, value: {{ . | quote }}}
    {{- end }}
    {{- with .Values.weights.httpsProxy }}
    - {name: HTTPS_PROXY, value: {{ . | quote }}}
    - {name: HTTP_PROXY, value: {{ . | quote }}}
    {{- end }}
    {{- with .Values.weights.noProxy }}
    - {name: NO_PROXY, value: {{ . | quote }}}
    {{- end }}
    {{- if .Values.weights.caConfigMap }}
    - {name: SSL_CERT_FILE, value: /etc/hub-ca/ca.crt}
    - {name: REQUESTS_CA_BUNDLE, value: /etc/hub-ca/ca.crt}
    {{- end }}
    {{- include "hybridserve.extraEnv" . | nindent 4 }}
  {{- with .Values.extraEnvFrom }}
  envFrom: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext: {{- include "hybridserve.containerSecurityContext" . | nindent 4 }}
  resources:
    requests: {cpu: 500m, memory: 1Gi, ephemeral-storage: 64Mi}
    limits: {memory: 4Gi, ephemeral-storage: 1Gi}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: weights, mountPath: /models}
    {{- if include "hybridserve.hubSecret" . }}
    - {name: hub-token, mountPath: /etc/hub-token, readOnly: true}
    {{- end }}
    {{- if .Values.weights.caConfigMap }}
    - {name: hub-ca, mountPath: /etc/hub-ca, readOnly: true}
    {{- end }}
    {{- with .Values.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
{{- end -}}

{{/* Pod fields that both modes share. Argument: root. */}}
{{- define "hybridserve.podFields" -}}
{{ include "hybridserve.pullSecrets" . }}
{{- range $name := list "schedulerName" "dnsPolicy" }}
{{- with get $.Values $name }}
{{ $name }}: {{ . | quote }}
{{- end }}
{{- end }}
{{- range $name := list "dnsConfig" "hostAliases" }}
{{- with get $.Values $name }}
{{ $name }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Resource claims of a pod; a claim that only a container names uses the template of its name. Arguments: root, resources. */}}
{{- define "hybridserve.resourceClaims" -}}
{{- $claims := .root.Values.resourceClaims -}}
{{- $names := list -}}
{{- range $claims }}{{ $names = append $names .name }}{{ end -}}
{{- range default list .resources.claims -}}
{{- if not (has .name $names) -}}
{{- $claims = append $claims (dict "name" .name "resourceClaimTemplateName" .name) -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- end -}}
{{- with $claims }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{/* Pod fields of the check and the test. */}}
{{- define "hybridserve.hookPodFields" -}}
{{ include "hybridserve.pullSecrets" . }}
{{- range $name := list "nodeSelector" "tolerations" "affinity" "priorityClassName" }}
{{- with get $.Values.hookPods $name }}
{{ $name }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* A probe with the user's fields. Arguments: probe (mapping), over (mapping). */}}
{{- define "hybridserve.probe" -}}
{{- mustMergeOverwrite (deepCopy .probe) (deepCopy .over) | toYaml -}}
{{- end -}}

{{/* Topology spread of the engine pods. */}}
{{- define "hybridserve.spread" -}}
{{- if .Values.topologySpreadConstraints -}}
{{- toYaml .Values.topologySpreadConstraints -}}
{{- else -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "hybridserve.podSelector" (dict "root" . "component" (include "hybridserve.engineComponent" .)) | nindent 6 }}
{{- end -}}
{{- end -}}

{{/* Requests and limits with every amount as text, because some servers do not accept a bare 1 as a quantity. */}}
{{- define "hybridserve.resources" -}}
{{- range $part, $amounts := omit . "claims" }}
{{ $part }}:
  {{- range $name, $amount := $amounts }}
  {{ $name }}: {{ $amount | toString | quote }}
  {{- end }}
{{- end }}
{{- with .claims }}
claims: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
