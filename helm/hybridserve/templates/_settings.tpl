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
      "ready_timeout_s" .Values.startupSeconds "drain_timeout_s" .Values.drainSeconds)
      "telemetry" (dict "metrics_host" "0.0.0.0" "metrics_port" 9464) -}}
{{- if include "hybridserve.keysSecret" . -}}
{{- $ours = mustMerge $ours (dict "access" (dict "keys_file" "/etc/hybridserve-keys/keys")) -}}
{{- end -}}
{{- $license := dict -}}
{{- with .Values.notice.files }}{{ $license = dict "bundle" "/etc/hybridserve-notice" }}{{ end -}}
{{- if .Values.image.digest -}}
{{- $license = mustMerge $license (dict "image" (include "hybridserve.image" .)) -}}
{{- end -}}
{{- with $license }}{{ $ours = mustMerge $ours (dict "license" .) }}{{ end -}}
{{- mustMergeOverwrite (deepCopy .Values.settings) $ours | toYaml -}}
{{- end -}}

{{- define "hybridserve.servedName" -}}
{{- default (dig "model" "id" "demo" .Values.settings) (dig "model" "served_name" "" .Values.settings) -}}
{{- end -}}

{{/* Metrics ports of one pod in mode standalone: one for each replica, and one for the controller that scales them. */}}
{{- define "hybridserve.metricsPorts" -}}
{{- $policy := dig "scaling" "policy" "hybrid" .Values.settings -}}
{{- $controller := ternary 1 0 (and (eq $policy "hybrid") (ne (dig "server" "data_path" "auto" .Values.settings) "single")) -}}
{{- min 32 (add (dig "scaling" "max_replicas" 1 .Values.settings | int) $controller) -}}
{{- end -}}

{{/*
Metrics ports of one Ray worker: as many as replicas fit. They stand on the pod, so they do not follow settings.scaling.
Arguments: root, group.
*/}}
{{- define "hybridserve.workerMetricsPorts" -}}
{{- $gpus := dig "limits" "nvidia.com/gpu" 0 (default .root.Values.resources .group.resources) | int -}}
{{- max 1 (div $gpus (include "hybridserve.devices" .root | int)) -}}
{{- end -}}

{{/* The most metrics ports that a pod of the release has. */}}
{{- define "hybridserve.mostMetricsPorts" -}}
{{- $most := include "hybridserve.metricsPorts" . | int -}}
{{- if eq .Values.mode "rayservice" -}}
{{- $most = 1 -}}
{{- range .Values.ray.workerGroups -}}
{{- $most = max $most (include "hybridserve.workerMetricsPorts" (dict "root" $ "group" .) | int) -}}
{{- end -}}
{{- end -}}
{{- $most -}}
{{- end -}}

{{/* Argument: how many. */}}
{{- define "hybridserve.metricsPortList" -}}
{{- range $index := until (int .) }}
- {name: replica-{{ $index }}, containerPort: {{ add 9464 $index }}, protocol: TCP}
{{- end }}
{{- end -}}

{{/* Seconds a stopping pod keeps answering, so that every proxy has taken it off its list. */}}
{{- define "hybridserve.preStopSeconds" -}}5{{- end -}}

{{/* preStop, drain, and time for Ray and the engine to end. */}}
{{- define "hybridserve.graceSeconds" -}}
{{- add (include "hybridserve.preStopSeconds" .) .Values.drainSeconds 25 -}}
{{- end -}}
