{{/* "yes" when the chart runs the guard model. */}}
{{- define "hybridserve.guardDeployed" -}}
{{- if .Values.guard.deploy.enabled }}yes{{ end -}}
{{- end -}}

{{/* Settings of the deployed guard that follow from the chart. Identity, revision and format are the user's. */}}
{{- define "hybridserve.guardSettings" -}}
url: http://{{ include "hybridserve.fullname" . }}-guard.{{ include "hybridserve.namespace" . }}.svc:8000/v1
served_name: {{ dig "guard" "served_name" "guard" .Values.settings | quote }}
weights: pulled
{{- end -}}

{{/* "yes" when some pod downloads from the hub. */}}
{{- define "hybridserve.downloads" -}}
{{- if or .Values.weights.download .Values.guard.deploy.enabled }}yes{{ end -}}
{{- end -}}

{{- define "hybridserve.errors.guard" -}}
{{- if .Values.guard.deploy.enabled }}
{{- $settings := .Values.settings }}
{{- $guard := default dict $settings.guard }}
{{- $kind := default "none" $guard.kind }}
{{- if eq $kind "rules" }}
guard.deploy.enabled: the guard of kind rules runs inside the engine pods; set it to false, or set settings.guard.kind to model
{{- else if ne $kind "model" }}
settings.guard.kind: {{ $kind }}, and guard.deploy.enabled runs a guard model; set kind to model, with model, revision and format
{{- else }}
{{- if $guard.url }}
settings.guard.url: guard.deploy.enabled runs a guard as well; remove the address, or set guard.deploy.enabled to false
{{- end }}
{{- if .Values.networkPolicy.guard }}
networkPolicy.guard: the chart opens the guard that it runs; remove it
{{- end }}
{{- if not (regexMatch "^[^/]+/[^/]+$" (default "" $guard.model)) }}
settings.guard.model: {{ default "empty" $guard.model }}, and the download needs a repository, such as Qwen/Qwen3Guard-Gen-4B
{{- end }}
{{- if not (regexMatch "^[0-9a-f]{40}$" (default "" $guard.revision)) }}
settings.guard.revision: guard.deploy.enabled downloads the guard at a commit of 40 hex digits only; set it
{{- end }}
{{- $known := get (include "hybridserve.facts" . | fromYaml).guards (default "" $guard.model) }}
{{- if $known }}
{{- if ne (default "" $guard.format) $known.format }}
settings.guard.format: {{ default "empty" $guard.format }}, and {{ $guard.model }} answers as {{ $known.format }}; set that
{{- end }}
{{- $accepted := list }}
{{- range dig "license" "accepted" list $settings }}{{ $accepted = append $accepted .license }}{{ end }}
{{- range $known.licenses }}
{{- if not (has . $accepted) }}
settings.license.accepted: nobody accepted {{ . }}, the license of {{ $guard.model }}; read it, then add {license: {{ . }}, by: NAME, accepted: DATE}
{{- end }}
{{- end }}
{{- end }}
{{- $gpus := include "hybridserve.gpus" .Values.guard.deploy.resources | int }}
{{- if eq (include "hybridserve.accelerator" .) "cpu" }}
{{- if gt $gpus 0 }}
guard.deploy.resources: {{ $gpus }} GPUs, and settings.accelerator.name cpu selects the image without GPU support; remove them from the limits (null)
{{- end }}
{{- else if and (eq $gpus 0) (not .Values.guard.deploy.resources.claims) }}
guard.deploy.resources: no GPU in the limits, and the image is that of {{ include "hybridserve.accelerator" . }}; add it
{{- end }}
{{- $limit := dig "limits" "ephemeral-storage" "" .Values.guard.deploy.resources }}
{{- $needed := addf (include "hybridserve.bytes" .Values.guard.deploy.size | float64) (include "hybridserve.bytes" .Values.tmpSize | float64) }}
{{- if and $limit (not .Values.guard.deploy.existingClaim) (gt $needed (include "hybridserve.bytes" $limit | float64)) }}
guard.deploy.resources: ephemeral-storage {{ $limit }} does not hold the weights ({{ .Values.guard.deploy.size }}) and /tmp ({{ .Values.tmpSize }}), and the pod would be evicted; raise it, or set guard.deploy.existingClaim
{{- end }}
{{- range .Values.guard.deploy.extraArgs }}
{{- if regexMatch "^--(host|port|uds|api-key|revision|served-model-name|model|trust-remote-code|middleware)([= ]|$)" . }}
guard.deploy.extraArgs: {{ . }} changes which guard runs or how it is reached; remove it
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
