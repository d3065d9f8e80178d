{{/*
What the schema cannot say, because it takes two values to be wrong. Each rule adds a line: the path, what is wrong, what
to do. All of them are shown at once.
*/}}
{{- define "hybridserve.errors" -}}
{{- include "hybridserve.errors.settings" . -}}
{{- include "hybridserve.errors.plan" . -}}
{{- include "hybridserve.errors.objects" . -}}
{{- if eq .Values.mode "rayservice" }}{{ include "hybridserve.errors.ray" . }}{{ end -}}
{{- end -}}

{{- define "hybridserve.errors.settings" -}}
{{- $settings := .Values.settings -}}
{{- $owned := dict "server.host" "" "server.port" "service.port" "server.ready_timeout_s" "startupSeconds"
      "server.drain_timeout_s" "drainSeconds" "access.keys_file" "auth.existingSecret" "license.bundle" "notice.files" "telemetry.metrics_host" "" "telemetry.metrics_port" "" -}}
{{- range $path, $instead := $owned }}
{{- $parts := splitList "." $path }}
{{- if hasKey (default dict (get $settings (first $parts))) (last $parts) }}
settings.{{ $path }}: the chart sets it; {{ if $instead }}set {{ $instead }} instead{{ else }}remove it{{ end }}
{{- end }}
{{- end }}
{{- if and .Values.image.digest (dig "license" "image" "" $settings) }}
settings.license.image: the chart sets it from image.digest; remove it
{{- end }}
{{- $gpus := dig "limits" "nvidia.com/gpu" 0 .Values.resources | int }}
{{- $devices := include "hybridserve.devices" . | int }}
{{- $most := dig "scaling" "max_replicas" 1 $settings | int }}
{{- if eq (include "hybridserve.accelerator" .) "cpu" }}
{{- if gt $gpus 0 }}
resources.limits: asks for {{ $gpus }} GPUs, and settings.accelerator.name is cpu; name the GPU there, or remove nvidia.com/gpu
{{- end }}
{{- else if eq .Values.mode "standalone" }}
{{- if ne $gpus (mul $devices $most | int) }}
resources.limits: nvidia.com/gpu is {{ $gpus }}, and {{ $most }} replicas of {{ $devices }} devices run in one pod; set it to {{ mul $devices $most }}
{{- end }}
{{- end }}
{{- if .Values.weights.download }}
{{- $source := dig "model" "source" "" $settings }}
{{- if or (not $source) (hasPrefix "/" $source) }}
weights.download: needs a repository in settings.model.source, which is {{ default "empty" $source }}; set it, or turn the download off
{{- end }}
{{- if not (regexMatch "^[0-9a-f]{40}$" (default "" (dig "model" "revision" "" $settings))) }}
settings.model.revision: weights are fetched at one commit only; set its 40 hex digits, or turn weights.download off
{{- end }}
{{- end }}
{{- $guard := default dict $settings.guard }}
{{- if and .Values.networkPolicy.enabled (has (default "none" $guard.kind) (list "model" "nemo")) (not .Values.networkPolicy.guard) (not .Values.networkPolicy.extraEgress) }}
networkPolicy.guard: settings.guard.url is {{ $guard.url }}, and no way leads there; name its pods or addresses as peers
{{- end }}
{{- end -}}

{{- define "hybridserve.errors.plan" -}}
{{- with .Values.plan }}
{{- $settings := $.Values.settings }}
{{- $id := dig "model" "id" "demo" $settings }}
{{- if ne .model $id }}
plan.model: planned for {{ .model }}, and settings.model.id is {{ $id }}; run `hybridserve render helm` again, or remove the plan
{{- end }}
{{- $name := include "hybridserve.accelerator" $ }}
{{- if ne .accelerator $name }}
plan.accelerator: planned for {{ .accelerator }}, and settings.accelerator.name is {{ $name }}; run `hybridserve render helm` again, or remove the plan
{{- end }}
{{- if ne (int .devices) (include "hybridserve.devices" $ | int) }}
plan.devices: planned for {{ .devices }} devices, and the settings spread over {{ include "hybridserve.devices" $ }}; run `hybridserve render helm` again, or remove the plan
{{- end }}
{{- $seqs := dig "engine" "max_num_seqs" 0 $settings | int }}
{{- if and .maxNumSeqs (gt $seqs (int .maxNumSeqs)) }}
settings.engine.max_num_seqs: {{ $seqs }} exceeds the {{ .maxNumSeqs }} Mamba cache blocks of the plan, and the engine would refuse to start; set at most {{ .maxNumSeqs }}
{{- end }}
{{- $length := dig "engine" "max_model_len" 0 $settings | int }}
{{- if gt $length (int .maxModelLen) }}
settings.engine.max_model_len: {{ $length }} tokens do not fit into the {{ .maxModelLen }} of the plan; set at most {{ .maxModelLen }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "hybridserve.errors.objects" -}}
{{- if and .Values.auth.keys .Values.auth.existingSecret }}
auth.keys: auth.existingSecret is set as well; keep one of them
{{- end }}
{{- if and .Values.weights.token .Values.weights.existingSecret }}
weights.token: weights.existingSecret is set as well; keep one of them
{{- end }}
{{- if and (or .Values.weights.token .Values.weights.existingSecret) (not .Values.weights.download) }}
weights.download: a token is given, and nothing is downloaded; set it to true, or remove the token
{{- end }}
{{- if and .Values.weights.cache.persistent .Values.weights.cache.existingClaim }}
weights.cache.persistent: weights.cache.existingClaim is set as well; keep one of them
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
ingress.hosts: the Ingress has no host; add [{host: NAME}]
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
httpRoute.parentRefs: the route hangs on no Gateway; add [{name: NAME}]
{{- end }}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) }}
serviceAccount.name: none is made (serviceAccount.create is false); name one
{{- end }}
{{- range .Values.extraVolumes }}
{{- if has .name (list "tmp" "shm" "weights" "compile-cache" "keys" "notice" "hub-token" "settings") }}
extraVolumes: {{ .name }} is a volume of the chart; give yours another name
{{- end }}
{{- end }}
{{- range .Values.extraEnv }}
{{- if and (hasKey . "value") (regexMatch "(?i)(token|secret|password|api_?key)$" .name) }}
extraEnv: {{ .name }} holds a secret as plain text; take it from a Secret with valueFrom.secretKeyRef
{{- end }}
{{- end }}
{{- end -}}

{{- define "hybridserve.errors.ray" -}}
{{- $ray := .Values.ray }}
{{- if ne (int .Values.replicaCount) 1 }}
replicaCount: belongs to mode standalone; set settings.scaling.max_replicas and ray.workerGroups
{{- end }}
{{- if eq (dig "server" "data_path" "auto" .Values.settings) "single" }}
settings.server.data_path: single is one engine without Ray; set mode to standalone, or take haproxy or proxy
{{- end }}
{{- if and $ray.token.enabled (not $ray.token.existingSecret) (not $ray.token.value) }}
ray.token.existingSecret: the cluster asks for a token, and none is given; name a Secret with the key auth_token
{{- end }}
{{- if and $ray.token.existingSecret $ray.token.value }}
ray.token.value: ray.token.existingSecret is set as well; keep one of them
{{- end }}
{{- if and $ray.redis.existingSecret (not $ray.redis.address) }}
ray.redis.address: a password is named, and no Redis; set redis://HOST:6379
{{- end }}
{{- if and $ray.redis.address .Values.networkPolicy.enabled (not .Values.networkPolicy.redis) (not .Values.networkPolicy.extraEgress) }}
networkPolicy.redis: ray.redis.address is {{ $ray.redis.address }}, and no way leads there; name its pods or addresses as peers
{{- end }}
{{- if eq $ray.upgradeStrategy "NewClusterWithIncrementalUpgrade" }}
{{- if not $ray.autoscaler.enabled }}
ray.autoscaler.enabled: incremental upgrades need the autoscaler; set it to true
{{- end }}
{{- if not $ray.incrementalUpgrade.gatewayClassName }}
ray.incrementalUpgrade.gatewayClassName: incremental upgrades move traffic through a Gateway; name its class
{{- end }}
{{- if gt (int $ray.incrementalUpgrade.stepSizePercent) (int $ray.incrementalUpgrade.maxSurgePercent) }}
ray.incrementalUpgrade.stepSizePercent: {{ $ray.incrementalUpgrade.stepSizePercent }} is above maxSurgePercent {{ $ray.incrementalUpgrade.maxSurgePercent }}; lower it
{{- end }}
{{- if or .Values.ingress.enabled .Values.httpRoute.enabled }}
ray.upgradeStrategy: incremental upgrades bring their own Gateway and HTTPRoute; turn ingress and httpRoute off
{{- end }}
{{- end }}
{{- $names := dict }}
{{- $most := 0 }}
{{- $platform := include "hybridserve.accelerator" . }}
{{- $devices := include "hybridserve.devices" . | int }}
{{- $replicas := dig "scaling" "max_replicas" 1 .Values.settings | int }}
{{- range $index, $group := $ray.workerGroups }}
{{- if hasKey $names $group.name }}
ray.workerGroups[{{ $index }}].name: {{ $group.name }} stands there twice; rename one
{{- end }}
{{- $_ := set $names $group.name true }}
{{- if gt (int $group.minReplicas) (int $group.maxReplicas) }}
ray.workerGroups[{{ $index }}].minReplicas: {{ $group.minReplicas }} is above maxReplicas {{ $group.maxReplicas }}; lower it
{{- else if or (lt (int $group.replicas) (int $group.minReplicas)) (gt (int $group.replicas) (int $group.maxReplicas)) }}
ray.workerGroups[{{ $index }}].replicas: {{ $group.replicas }} is not between minReplicas {{ $group.minReplicas }} and maxReplicas {{ $group.maxReplicas }}
{{- end }}
{{- $gpus := dig "limits" "nvidia.com/gpu" 0 (default $.Values.resources $group.resources) | int }}
{{- if and (ne $platform "cpu") (eq $gpus 0) }}
ray.workerGroups[{{ $index }}].resources: no nvidia.com/gpu in the limits, and settings.accelerator.name is {{ $platform }}; add it here or in resources
{{- end }}
{{- $most = add $most (mul (int $group.maxReplicas) $gpus) }}
{{- end }}
{{- if and (ne $platform "cpu") (lt (int $most) (mul $devices $replicas | int)) }}
ray.workerGroups: hold {{ $most }} GPUs at most, and {{ $replicas }} replicas of {{ $devices }} need {{ mul $devices $replicas }}; raise maxReplicas, or lower settings.scaling.max_replicas
{{- end }}
{{- end -}}
