{{/* Weights that no pod would find, and contradictions of their volume. Format of the lines: _validate.tpl. */}}
{{- define "hybridserve.errors.weights" -}}
{{- $settings := .Values.settings }}
{{- $cache := .Values.weights.cache }}
{{- $source := dig "model" "source" "" $settings }}
{{- if .Values.weights.download }}
{{- if or (not $source) (hasPrefix "/" $source) }}
weights.download: needs a repository in settings.model.source, which is {{ default "empty" $source }}; set it, or turn the download off
{{- end }}
{{- if not (regexMatch "^[0-9a-f]{40}$" (default "" (dig "model" "revision" "" $settings))) }}
settings.model.revision: a download needs a commit of 40 hex digits; `hybridserve fetch {{ default "OWNER/NAME" $source }} --revision main` asks the hub and names it; or turn weights.download off
{{- end }}
{{- end }}
{{- if and (or .Values.weights.token .Values.weights.existingSecret) (not (include "hybridserve.downloads" .)) }}
weights.download: a token is given, and nothing is downloaded; set it to true, or remove the token
{{- end }}
{{- if and .Values.weights.token .Values.weights.existingSecret }}
weights.token: weights.existingSecret is set as well; keep one of them
{{- end }}
{{- if and $cache.persistent $cache.existingClaim }}
weights.cache.persistent: weights.cache.existingClaim is set as well; keep one of them
{{- end }}
{{- if and $cache.perPod (or $cache.persistent $cache.existingClaim) }}
weights.cache.perPod: a claim for all pods is set as well; keep one of them
{{- end }}
{{- if and $cache.persistent (not $cache.existingClaim) }}
{{- $shared := or (has "ReadWriteMany" $cache.accessModes) (has "ReadOnlyMany" $cache.accessModes) }}
{{- $pinned := hasKey .Values.nodeSelector "kubernetes.io/hostname" }}
{{- if not (or $shared $pinned) }}
{{- if eq .Values.mode "standalone" }}
{{- if gt (include "hybridserve.mostPods" . | int) 1 }}
weights.cache.accessModes: {{ include "hybridserve.mostPods" . }} pods cannot share a {{ first $cache.accessModes }} claim; use ReadWriteMany or weights.cache.perPod
{{- end }}
{{- if and (eq .Values.strategy "RollingUpdate") (gt (int .Values.rollingUpdate.maxSurge) 0) }}
strategy: a new pod cannot mount a {{ first $cache.accessModes }} claim while the old pod uses it; use Recreate, ReadWriteMany or weights.cache.perPod
{{- end }}
{{- else }}
weights.cache.accessModes: workers and the second cluster of an upgrade cannot share a {{ first $cache.accessModes }} claim; use ReadWriteMany, weights.cache.perPod, or pin one node with nodeSelector kubernetes.io/hostname
{{- end }}
{{- end }}
{{- if and .Values.weights.download (not (or (has "ReadWriteMany" $cache.accessModes) (has "ReadWriteOnce" $cache.accessModes) (has "ReadWriteOncePod" $cache.accessModes))) }}
weights.cache.accessModes: a download cannot write to a ReadOnlyMany claim; add a mode that writes
{{- end }}
{{- end }}
{{- if and .Values.weights.download (not $cache.persistent) (not $cache.existingClaim) (not $cache.perPod) }}
{{- $limit := dig "limits" "ephemeral-storage" "" .Values.resources }}
{{- $needed := addf (include "hybridserve.bytes" $cache.size | float64) (include "hybridserve.bytes" .Values.tmpSize | float64) }}
{{- if and $limit (gt $needed (include "hybridserve.bytes" $limit | float64)) }}
resources.limits: ephemeral-storage {{ $limit }} does not hold the weights ({{ $cache.size }}) and /tmp ({{ .Values.tmpSize }}), and the pod would be evicted; raise it, or use a claim or weights.cache.perPod
{{- end }}
{{- end }}
{{- if and (ne (dig "model" "id" "demo" $settings) "demo") (not .Values.weights.download) (not $cache.existingClaim) (not $cache.persistent) (not .Values.extraVolumes) (not (hasPrefix "/" $source)) (not (hasPrefix "/" (dig "model" "id" "" $settings))) }}
weights.download: the pods have no weights of {{ dig "model" "id" "" $settings }}; turn it on, or name a claim (weights.cache.existingClaim) or a folder (settings.model.source)
{{- end }}
{{- $read := $cache.existingClaim }}
{{- range .Values.extraVolumeMounts }}{{ if hasPrefix "/models/" .mountPath }}{{ $read = true }}{{ end }}{{ end }}
{{- $profile := dig "server" "profile" "demo" $settings }}
{{- $license := default dict $settings.license }}
{{- with include "hybridserve.folderModel" . }}
{{- $folder := splitList " " . | first }}
{{- /* An init container of the user can fill the new volume. */}}
{{- if not (or $.Values.weights.download $read $cache.persistent $.Values.extraInitContainers) }}
weights.cache.existingClaim: {{ $folder }} is below /models, where each pod mounts a new, empty volume; name the claim that has the folder
{{- else if and (ne $profile "demo") $.Values.check.enabled (not $read) (not $license.waivers) (not $license.waivers_file) }}
weights.cache.existingClaim: profile {{ $profile }} checks the files of {{ $folder }} before the release makes a claim or starts a pod; name a claim that has them
{{- end }}
{{- end }}
{{- if and (or .Values.weights.endpoint .Values.weights.httpsProxy .Values.weights.caConfigMap) (not (include "hybridserve.downloads" .)) }}
weights.download: a mirror, proxy or certificate is given, and nothing is downloaded; set it to true, or remove them
{{- end }}
{{- end -}}
