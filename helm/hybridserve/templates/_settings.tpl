{{- define "hybridserve.accelerator" -}}
{{- dig "accelerator" "name" "cpu" .Values.settings -}}
{{- end -}}

{{/* Its id in the catalog, which ignores case and the vendor's name. */}}
{{- define "hybridserve.acceleratorId" -}}
{{- include "hybridserve.accelerator" . | lower | trimPrefix "nvidia " | replace " " "-" | replace "_" "-" -}}
{{- end -}}

{{/* What `make chart-files` knows from the package: Ray's version, accelerators, settings that change in place. */}}
{{- define "hybridserve.facts" -}}
{{- .Files.Get "files/facts.yaml" -}}
{{- end -}}

{{/* GPUs of one replica of the engine. */}}
{{- define "hybridserve.devices" -}}
{{- $engine := default dict .Values.settings.engine -}}
{{- mul (int (default 1 $engine.tensor_parallel_size)) (int (default 1 $engine.pipeline_parallel_size)) -}}
{{- end -}}

{{/* Settings of the engine: the user's, and those that the chart sets. */}}
{{- define "hybridserve.settings" -}}
{{- $ours := dict "server" (dict "host" "0.0.0.0" "port" 8000
      "ready_timeout_s" .Values.startupSeconds "drain_timeout_s" .Values.drainSeconds)
      "telemetry" (dict "metrics_host" "0.0.0.0" "metrics_port" 9464) -}}
{{- if include "hybridserve.scaler" . }}{{ $_ := set $ours.server "data_path" "single" }}{{ end -}}
{{- if include "hybridserve.guardDeployed" . }}{{ $_ := set $ours "guard" (include "hybridserve.guardSettings" . | fromYaml) }}{{ end -}}
{{- if include "hybridserve.keysSecret" . -}}
{{- $ours = mustMerge $ours (dict "access" (dict "keys_file" "/etc/hybridserve-keys/keys")) -}}
{{- end -}}
{{- if .Values.auth.limitsSecret -}}
{{- $ours = mustMerge $ours (dict "access" (dict "limits_password_file" "/etc/hybridserve-limits/password")) -}}
{{- end -}}
{{- if .Values.guard.keySecret -}}
{{- $ours = mustMerge $ours (dict "guard" (dict "api_key_file" "/etc/hybridserve-guard-key/key")) -}}
{{- end -}}
{{- if .Values.verify.reference -}}
{{- $_ := set $ours "verify" (dict "at_start" true "reference_file" "/etc/hybridserve-verify/reference.json") -}}
{{- end -}}
{{- $license := dict -}}
{{- with .Values.notice.files }}{{ $license = dict "bundle" "/etc/hybridserve-notice" }}{{ end -}}
{{- if .Values.image.digest -}}
{{- $license = mustMerge $license (dict "image" (include "hybridserve.image" .)) -}}
{{- end -}}
{{- with $license }}{{ $ours = mustMerge $ours (dict "license" .) }}{{ end -}}
{{- mustMergeOverwrite (deepCopy .Values.settings) $ours | toYaml -}}
{{- end -}}

{{/* Settings that running replicas take over without a restart (settings/live.py). */}}
{{- define "hybridserve.liveSettings" -}}
{{- $settings := include "hybridserve.settings" . | fromYaml -}}
{{- $live := dict -}}
{{- range $section, $names := (include "hybridserve.facts" . | fromYaml).liveSettings -}}
{{- $given := dict -}}
{{- $values := default dict (get $settings $section) -}}
{{- range $name := $names -}}
{{- if hasKey $values $name }}{{ $_ := set $given $name (get $values $name) }}{{ end -}}
{{- end -}}
{{- with $given }}{{ $_ := set $live $section . }}{{ end -}}
{{- end -}}
{{- toYaml $live -}}
{{- end -}}

{{/* All other settings, without the bounds of scaling: application arguments, whose change replaces the replicas. */}}
{{- define "hybridserve.startSettings" -}}
{{- $settings := include "hybridserve.settings" . | fromYaml -}}
{{- range $section, $names := (include "hybridserve.facts" . | fromYaml).liveSettings -}}
{{- range $name := $names }}{{ $_ := unset (default dict (get $settings $section)) $name }}{{ end -}}
{{- end -}}
{{- range $name := list "min_replicas" "max_replicas" }}{{ $_ := unset (default dict $settings.scaling) $name }}{{ end -}}
{{- range $section, $values := $settings }}{{ if not $values }}{{ $_ := unset $settings $section }}{{ end }}{{ end -}}
{{- toYaml $settings -}}
{{- end -}}

{{- define "hybridserve.servedName" -}}
{{- default (dig "model" "id" "demo" .Values.settings) (dig "model" "served_name" "" .Values.settings) -}}
{{- end -}}

{{/* Whether the model is a folder below /models: then the Ray head must read it, too. */}}
{{- define "hybridserve.folderModel" -}}
{{- $model := default dict .Values.settings.model -}}
{{- range $path := list $model.source $model.id -}}
{{- if regexMatch "^/models(/|$)" (default "" $path) }}{{ $path }} {{ end -}}
{{- end -}}
{{- end -}}

{{/* Not empty where an existing claim has the model's folder, which the check then reads. */}}
{{- define "hybridserve.folderClaim" -}}
{{- if include "hybridserve.folderModel" . }}{{ .Values.weights.cache.existingClaim }}{{ end -}}
{{- end -}}

{{/* Metrics ports of one pod in mode standalone: one for each replica, and one for the controller that scales them. */}}
{{- define "hybridserve.metricsPorts" -}}
{{- $policy := dig "scaling" "policy" "hybrid" .Values.settings -}}
{{- $single := or (include "hybridserve.scaler" .) (eq (dig "server" "data_path" "auto" .Values.settings) "single") -}}
{{- $controller := ternary 0 1 (or (ne $policy "hybrid") (not (empty $single))) -}}
{{- min 32 (add (include "hybridserve.replicasPerPod" . | int) $controller) -}}
{{- end -}}

{{/* GPUs in the limits of a container, whatever the device plugin calls them. Argument: resources. */}}
{{- define "hybridserve.gpus" -}}
{{- $count := 0 -}}
{{- range $name, $amount := default dict .limits -}}
{{- if regexMatch "(^|[./])gpu(\\.shared)?$|/mig-" $name }}{{ $count = add $count (int $amount) }}{{ end -}}
{{- end -}}
{{- $count -}}
{{- end -}}

{{/*
Metrics ports of one Ray worker: as many as replicas fit. They belong to the pod, so they do not follow settings.scaling.
Arguments: root, group.
*/}}
{{- define "hybridserve.workerMetricsPorts" -}}
{{- $gpus := include "hybridserve.gpus" (default .root.Values.resources .group.resources) | int -}}
{{- max 1 (div $gpus (include "hybridserve.devices" .root | int)) -}}
{{- end -}}

{{/* The largest number of metrics ports of any pod. */}}
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

{{/* Bytes of a Kubernetes quantity. */}}
{{- define "hybridserve.bytes" -}}
{{- $text := toString . -}}
{{- $number := regexFind "^[0-9.]+" $text | float64 -}}
{{- $units := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 -}}
{{- printf "%.3f" (mulf $number (get $units (regexFind "[A-Za-z]*$" $text))) -}}
{{- end -}}

{{/* Seconds for which a stopping pod still answers, until every proxy has removed it. */}}
{{- define "hybridserve.preStopSeconds" -}}5{{- end -}}

{{/* Seconds of the preStop hook of a Ray worker. */}}
{{- define "hybridserve.drainSeconds" -}}
{{- add (include "hybridserve.preStopSeconds" .) .Values.drainSeconds -}}
{{- end -}}

{{/* preStop, drain, and time for Ray and the engine to end. */}}
{{- define "hybridserve.graceSeconds" -}}
{{- add (include "hybridserve.drainSeconds" .) 25 -}}
{{- end -}}
