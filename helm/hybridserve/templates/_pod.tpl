{{- define "hybridserve.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: {{ .Values.runAsUser | int64 }}
runAsGroup: {{ .Values.runAsUser | int64 }}
fsGroup: {{ .Values.runAsUser | int64 }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "hybridserve.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: {{ .Values.runAsUser | int64 }}
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Environment of everything that runs an engine. The root file system is read-only: all that writes is led elsewhere. */}}
{{- define "hybridserve.env" -}}
- {name: HOME, value: /tmp}
- {name: HF_HOME, value: /models/huggingface}
{{- if .Values.weights.download }}
- {name: HF_HUB_OFFLINE, value: "1"}
{{- end }}
- {name: XDG_CACHE_HOME, value: /var/cache/hybridserve}
- {name: VLLM_CACHE_ROOT, value: /var/cache/hybridserve/vllm}
- {name: TORCHINDUCTOR_CACHE_DIR, value: /var/cache/hybridserve/inductor}
- {name: TRITON_CACHE_DIR, value: /var/cache/hybridserve/triton}
- {name: VLLM_NO_USAGE_STATS, value: "1"}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
- {name: TOKENIZERS_PARALLELISM, value: "false"}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "hybridserve.engineMounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: shm, mountPath: /dev/shm}
- {name: weights, mountPath: /models}
- {name: compile-cache, mountPath: /var/cache/hybridserve}
{{- if include "hybridserve.keysSecret" . }}
- {name: keys, mountPath: /etc/hybridserve-keys, readOnly: true}
{{- end }}
{{- if .Values.notice.files }}
- {name: notice, mountPath: /etc/hybridserve-notice, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "hybridserve.engineVolumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 2Gi}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ .Values.shmSize | quote }}}
- name: weights
{{- if or .Values.weights.cache.persistent .Values.weights.cache.existingClaim }}
  persistentVolumeClaim: {claimName: {{ default (printf "%s-weights" (include "hybridserve.fullname" .)) .Values.weights.cache.existingClaim | quote }}}
{{- else }}
  emptyDir: {sizeLimit: {{ .Values.weights.cache.size | quote }}}
{{- end }}
- name: compile-cache
{{- if .Values.compileCache.existingClaim }}
  persistentVolumeClaim: {claimName: {{ .Values.compileCache.existingClaim | quote }}}
{{- else }}
  emptyDir: {sizeLimit: {{ .Values.compileCache.size | quote }}}
{{- end }}
{{- with include "hybridserve.keysSecret" . }}
- name: keys
  secret:
    secretName: {{ . | quote }}
    items: [{key: {{ $.Values.auth.secretKey | quote }}, path: keys}]
{{- end }}
{{- if .Values.notice.files }}
- name: notice
  configMap: {name: "{{ include "hybridserve.fullname" . }}-notice"}
{{- end }}
{{- if .Values.weights.download }}
{{- with include "hybridserve.hubSecret" . }}
- name: hub-token
  secret:
    secretName: {{ . | quote }}
    items: [{key: {{ $.Values.weights.secretKey | quote }}, path: token}]
{{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Fetches the weights once for each revision and believes them only after every checksum was compared. */}}
{{- define "hybridserve.downloadContainer" -}}
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
    - {name: REPOSITORY, value: {{ dig "model" "source" "" .Values.settings | quote }}}
    - {name: REVISION, value: {{ dig "model" "revision" "" .Values.settings | quote }}}
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
{{- end -}}

{{/* Arguments: root, component. Several pods spread over nodes where that is possible. */}}
{{- define "hybridserve.spread" -}}
{{- if .root.Values.topologySpreadConstraints -}}
{{- toYaml .root.Values.topologySpreadConstraints -}}
{{- else -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "hybridserve.selector" . | nindent 6 }}
{{- end -}}
{{- end -}}

{{/* Requests and limits with every amount as text: servers that merge by schema take a bare 1 for no quantity. */}}
{{- define "hybridserve.resources" -}}
{{- range $part, $amounts := . }}
{{ $part }}:
  {{- range $name, $amount := $amounts }}
  {{ $name }}: {{ $amount | toString | quote }}
  {{- end }}
{{- end }}
{{- end -}}
