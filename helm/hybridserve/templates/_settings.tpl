{{- define "hybridserve.accelerator" -}}
{{- dig "accelerator" "name" "cpu" .Values.settings -}}
{{- end -}}

{{/* GPUs of one replica of the engine. */}}
{{- define "hybridserve.devices" -}}
{{- $engine := default dict .Values.settings.engine -}}
{{- mul (int (default 1 $engine.tensor_parallel_size)) (int (default 1 $engine.pipeline_parallel_size)) -}}
{{- end -}}

{{/* The settings as the engine gets them: the user's, and what only the chart can know. */}}
{{- define "hybridserve.settings" -}}
{{- $ours := dict "server" (dict "host" "0.0.0.0" "port" 8000
      "ready_timeout_s" .Values.startupSeconds "drain_timeout_s" .Values.drainSeconds) -}}
{{- if include "hybridserve.keysSecret" . -}}
{{- $ours = mustMerge $ours (dict "access" (dict "keys_file" "/etc/hybridserve-keys/keys")) -}}
{{- end -}}
{{- $licence := dict -}}
{{- with .Values.notice.files }}{{ $licence = dict "bundle" "/etc/hybridserve-notice" }}{{ end -}}
{{- if .Values.image.digest -}}
{{- $licence = mustMerge $licence (dict "image" (include "hybridserve.image" .)) -}}
{{- end -}}
{{- with $licence }}{{ $ours = mustMerge $ours (dict "licence" .) }}{{ end -}}
{{- mustMergeOverwrite (deepCopy .Values.settings) $ours | toYaml -}}
{{- end -}}

{{/* Seconds a stopping pod keeps answering, so that every proxy has taken it off its list. */}}
{{- define "hybridserve.preStopSeconds" -}}5{{- end -}}

{{/* preStop, drain, and time for Ray and the engine to end. */}}
{{- define "hybridserve.graceSeconds" -}}
{{- add (include "hybridserve.preStopSeconds" .) .Values.drainSeconds 25 -}}
{{- end -}}
