{{/*
Rules that the schema cannot express, because two values contradict each other. Each rule adds one line: the path, what is
wrong, what to do. All lines are shown at once.
*/}}
{{- define "hybridserve.errors" -}}
{{- include "hybridserve.errors.decisions" . -}}
{{- include "hybridserve.errors.images" . -}}
{{- include "hybridserve.errors.settings" . -}}
{{- include "hybridserve.errors.plan" . -}}
{{- include "hybridserve.errors.weights" . -}}
{{- include "hybridserve.errors.resources" . -}}
{{- include "hybridserve.errors.exposure" . -}}
{{- include "hybridserve.errors.objects" . -}}
{{- include "hybridserve.errors.autoscaling" . -}}
{{- include "hybridserve.errors.guard" . -}}
{{- if eq .Values.mode "rayservice" }}{{ include "hybridserve.errors.ray" . }}{{ end -}}
{{- end -}}

{{/* What only a person can decide. Profile demo asks for nothing; a waiver is judged by the check. */}}
{{- define "hybridserve.errors.decisions" -}}
{{- $profile := dig "server" "profile" "demo" .Values.settings }}
{{- if ne $profile "demo" }}
{{- $license := default dict .Values.settings.license }}
{{- $waived := or $license.waivers $license.waivers_file }}
{{- if and (not $license.accepted) (not $waived) }}
settings.license.accepted: profile {{ $profile }} requires that a person accepted each license; read them (`hybridserve explain --licenses`), then add {license: ID, by: NAME, accepted: DATE}
{{- end }}
{{- if and (eq (dig "guard" "kind" "none" .Values.settings) "none") (not $waived) }}
settings.guard.kind: profile {{ $profile }} requires a guard for prompts and answers; set kind and model, with url and networkPolicy.guard, or guard.deploy.enabled
{{- end }}
{{- if not (include "hybridserve.keysSecret" .) }}
auth.existingSecret: profile {{ $profile }} requires API keys; name a Secret with the file that `hybridserve key new` writes
{{- end }}
{{- end }}
{{- end -}}

{{- define "hybridserve.errors.settings" -}}
{{- $settings := .Values.settings -}}
{{- $owned := dict "server.host" "" "server.port" "service.port" "server.ready_timeout_s" "startupSeconds"
      "server.drain_timeout_s" "drainSeconds" "access.keys_file" "auth.existingSecret" "access.limits_password_file" "auth.limitsSecret" "license.bundle" "notice.files" "telemetry.metrics_host" "" "telemetry.metrics_port" "" -}}
{{- range $path, $instead := $owned }}
{{- $parts := splitList "." $path }}
{{- if hasKey (default dict (get $settings (first $parts))) (last $parts) }}
settings.{{ $path }}: the chart sets it; {{ if $instead }}set {{ $instead }} instead{{ else }}remove it{{ end }}
{{- end }}
{{- end }}
{{- if and .Values.image.digest (dig "license" "image" "" $settings) }}
settings.license.image: the chart sets it from image.digest; remove it
{{- end }}
{{- $accelerator := include "hybridserve.acceleratorId" . }}
{{- if not (hasKey (include "hybridserve.facts" . | fromYaml).accelerators $accelerator) }}
settings.accelerator.name: {{ $accelerator }} is not in the catalog; use one of {{ keys (include "hybridserve.facts" . | fromYaml).accelerators | sortAlpha | join ", " }}
{{- end }}
{{- $least := dig "scaling" "min_replicas" 1 $settings | int }}
{{- $most := dig "scaling" "max_replicas" 1 $settings | int }}
{{- if gt $least $most }}
settings.scaling.min_replicas: {{ $least }} is above max_replicas {{ $most }}; lower it
{{- end }}
{{- range $name := list "host" "port" "uds" "api-key" "api_key" "middleware" "root-path" "root_path" "ssl-keyfile" "ssl_keyfile" "trust-remote-code" "trust_remote_code" }}
{{- if hasKey (default dict (dig "engine" "extra_args" dict $settings)) $name }}
settings.engine.extra_args: {{ $name }} changes how the engine is reached or which code it runs; remove it
{{- end }}
{{- end }}
{{- if and (eq (dig "server" "profile" "demo" $settings) "production") (not .Values.check.enabled) }}
check.enabled: profile production requires the check before an install; set it to true
{{- end }}
{{- $guard := default dict $settings.guard }}
{{- if and (has (default "none" $guard.kind) (list "model" "nemo")) (not .Values.guard.deploy.enabled) (not $guard.url) }}
settings.guard.url: is empty, and the chart runs no guard; set it{{ if eq $guard.kind "model" }}, or set guard.deploy.enabled to true{{ end }}
{{- else if and .Values.networkPolicy.enabled (has (default "none" $guard.kind) (list "model" "nemo")) (not .Values.guard.deploy.enabled) (not .Values.networkPolicy.guard) (not .Values.networkPolicy.extraEgress) }}
networkPolicy.guard: no egress rule allows {{ $guard.url }} (settings.guard.url); name its pods or addresses as peers
{{- end }}
{{- /* A container beside the engine shares its network; without one nothing listens there. */}}
{{- if and (regexMatch "^https?://(localhost|127[.][0-9.]+|\\[::1\\])([:/]|$)" (default "" $guard.url)) (not .Values.extraContainers) (not .Values.guard.deploy.enabled) }}
settings.guard.url: {{ $guard.url }} is the pod itself, where no guard listens; {{ if eq (default "none" $guard.kind) "model" }}remove it and set guard.deploy.enabled to true, so that the chart runs the guard, or {{ end }}set an address that pods reach
{{- end }}
{{- end -}}

{{- define "hybridserve.errors.plan" -}}
{{- with .Values.plan }}
{{- $settings := $.Values.settings }}
{{- $id := dig "model" "id" "demo" $settings }}
{{- if ne .model $id }}
plan.model: planned for {{ .model }}, and settings.model.id is {{ $id }}; run `hybridserve render helm` again, or remove the plan
{{- end }}
{{- $engine := dig "engine" "version" "" $settings | default "" }}
{{- if and $engine (ne .engine $engine) }}
plan.engine: planned for vLLM {{ .engine }}, and settings.engine.version is {{ $engine }}; run `hybridserve render helm` again, or remove the plan
{{- end }}
{{- $name := include "hybridserve.accelerator" $ }}
{{- if ne .accelerator $name }}
plan.accelerator: planned for {{ .accelerator }}, and settings.accelerator.name is {{ $name }}; run `hybridserve render helm` again, or remove the plan
{{- end }}
{{- if ne (int .devices) (include "hybridserve.devices" $ | int) }}
plan.devices: planned for {{ .devices }} devices, and the settings use {{ include "hybridserve.devices" $ }}; run `hybridserve render helm` again, or remove the plan
{{- end }}
{{- $seqs := dig "engine" "max_num_seqs" 0 $settings | int }}
{{- if and .maxNumSeqs (gt $seqs (int .maxNumSeqs)) }}
settings.engine.max_num_seqs: {{ $seqs }} exceeds the {{ .maxNumSeqs }} with which the engine starts in the plan; set at most {{ .maxNumSeqs }}, or run `hybridserve render helm` again
{{- end }}
{{- $length := dig "engine" "max_model_len" 0 $settings | int }}
{{- if gt $length (int .maxModelLen) }}
settings.engine.max_model_len: {{ $length }} tokens do not fit into the {{ .maxModelLen }} of the plan; set at most {{ .maxModelLen }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "hybridserve.errors.resources" -}}
{{- $accelerator := include "hybridserve.accelerator" . }}
{{- $gpus := include "hybridserve.gpus" .Values.resources | int }}
{{- $devices := include "hybridserve.devices" . | int }}
{{- $most := include "hybridserve.replicasPerPod" . | int }}
{{- if eq $accelerator "cpu" }}
{{- if gt $gpus 0 }}
resources.limits: {{ $gpus }} GPUs, and settings.accelerator.name is cpu; name the GPU there, or remove it from the limits
{{- end }}
{{- else if and (eq .Values.mode "standalone") (not .Values.resources.claims) }}
{{- if ne $gpus (mul $devices $most | int) }}
resources.limits: {{ $gpus }} GPUs, and one pod runs {{ $most }} replicas of {{ $devices }} devices; set it to {{ mul $devices $most }}, or use replicaCount or autoscaling.scaler for more pods
{{- end }}
{{- end }}
{{- $parts := dict "resources" .Values.resources "autoscaling.resources" .Values.autoscaling.resources "check.resources" .Values.check.resources "guard.deploy.resources" .Values.guard.deploy.resources "test.resources" .Values.test.resources "ray.head.resources" .Values.ray.head.resources "ray.autoscaler.resources" .Values.ray.autoscaler.resources }}
{{- range $index, $group := .Values.ray.workerGroups }}
{{- with $group.resources }}{{ $_ := set $parts (printf "ray.workerGroups[%d].resources" $index) . }}{{ end }}
{{- end }}
{{- range $path, $resources := $parts }}
{{- $requests := default dict $resources.requests }}
{{- $limits := default dict $resources.limits }}
{{- range $name, $amount := $requests }}
{{- $limit := get $limits $name }}
{{- if and (contains "/" $name) (ne (toString $amount) (toString $limit)) }}
{{ $path }}.requests: {{ $name }} is {{ $amount }}, and its limit is {{ default "missing" $limit }}; extended resources need equal requests and limits
{{- else if and $limit (gt (include "hybridserve.bytes" $amount | float64) (include "hybridserve.bytes" $limit | float64)) }}
{{ $path }}.requests: {{ $name }} {{ $amount }} is above the limit {{ $limit }}; raise the limit
{{- end }}
{{- end }}
{{- end }}
{{- with dig "limits" "memory" "" .Values.resources }}
{{- if ge (include "hybridserve.bytes" $.Values.shmSize | float64) (include "hybridserve.bytes" . | float64) }}
shmSize: {{ $.Values.shmSize }} counts as memory of the container and does not fit into the limit {{ . }}; lower it
{{- end }}
{{- end }}
{{- if and (eq .Values.strategy "RollingUpdate") (eq (toString .Values.rollingUpdate.maxSurge) "0") (eq (toString .Values.rollingUpdate.maxUnavailable) "0") }}
rollingUpdate.maxUnavailable: 0 together with maxSurge 0 replaces no pod; set one of them to 1
{{- end }}
{{- end -}}

{{- define "hybridserve.errors.exposure" -}}
{{- $public := list }}
{{- if ne .Values.service.type "ClusterIP" }}{{ $public = append $public (printf "service.type %s" .Values.service.type) }}{{ end }}
{{- if .Values.ingress.enabled }}{{ $public = append $public "ingress.enabled" }}{{ end }}
{{- if .Values.httpRoute.enabled }}{{ $public = append $public "httpRoute.enabled" }}{{ end }}
{{- if include "hybridserve.byGateway" . }}{{ $public = append $public "ray.upgradeStrategy NewClusterWithIncrementalUpgrade" }}{{ end }}
{{- range $public }}
{{- if and $.Values.networkPolicy.enabled (not $.Values.networkPolicy.clients) }}
networkPolicy.clients: {{ . }} needs clients outside of this namespace, and none are allowed; name the peers of the controller, Gateway or clients
{{- end }}
{{- end }}
{{- if and (int .Values.service.nodePort) (eq .Values.service.type "ClusterIP") }}
service.nodePort: type ClusterIP has no node port; set service.type to NodePort or LoadBalancer
{{- end }}
{{- if and (or .Values.service.loadBalancerClass .Values.service.loadBalancerSourceRanges) (ne .Values.service.type "LoadBalancer") }}
service.type: load balancer fields are set, and the type is {{ .Values.service.type }}; set it to LoadBalancer
{{- end }}
{{- end -}}

{{- define "hybridserve.errors.objects" -}}
{{- if and .Values.auth.keys .Values.auth.existingSecret }}
auth.keys: auth.existingSecret is set as well; keep one of them
{{- end }}
{{- if and .Values.auth.limitsSecret (not (dig "access" "limits_url" "" .Values.settings)) }}
auth.limitsSecret: no server is named that takes the password; set settings.access.limits_url
{{- end }}
{{- if and (include "hybridserve.limitsServer" .) .Values.networkPolicy.enabled (not .Values.networkPolicy.redis) (not .Values.networkPolicy.extraEgress) }}
networkPolicy.redis: no egress rule allows {{ .Values.settings.access.limits_url }} (settings.access.limits_url); name its pods or addresses as peers
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
ingress.hosts: the Ingress has no host; add [{host: NAME}]
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
httpRoute.parentRefs: the route attaches to no Gateway; add [{name: NAME}]
{{- end }}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) }}
serviceAccount.name: serviceAccount.create is false, so name an existing account
{{- end }}
{{- $volumes := list "tmp" "shm" "weights" "compile-cache" "keys" "limits-password" "notice" "verify" "guard-key" "files" "hub-token" "hub-ca" "settings" "drain" "shared-mem" "ray-logs" }}
{{- if gt (len .Values.verify.reference) 900000 }}
verify.reference: {{ len .Values.verify.reference }} bytes do not fit into a ConfigMap; record it with fewer prompts
{{- end }}
{{- if and .Values.guard.keySecret (dig "guard" "api_key_file" "" .Values.settings) }}
guard.keySecret: settings.guard.api_key_file is set as well; keep one of them
{{- end }}
{{- if and .Values.guard.keySecret (not (has (dig "guard" "kind" "none" .Values.settings) (list "model" "nemo"))) }}
guard.keySecret: settings.guard.kind is {{ dig "guard" "kind" "none" .Values.settings }}, which has no endpoint; remove it
{{- end }}
{{- $bytes := 0 }}
{{- range .Values.files }}{{ $bytes = add $bytes (len .) }}{{ end }}
{{- if gt (int $bytes) 900000 }}
files: {{ $bytes }} bytes do not fit into a ConfigMap; mount the largest from a volume (extraVolumes)
{{- end }}
{{- if and .Values.verify.reference (dig "verify" "reference_file" "" .Values.settings) }}
verify.reference: settings.verify.reference_file is set as well; keep one of them
{{- end }}
{{- $own := list }}
{{- range .Values.extraVolumes }}
{{- if has .name $volumes }}
extraVolumes: {{ .name }} is a volume of the chart; choose another name
{{- end }}
{{- if has .name $own }}
extraVolumes: {{ .name }} is defined twice; rename one
{{- end }}
{{- if hasKey . "hostPath" }}
extraVolumes: {{ .name }} is a hostPath, which the restricted Pod Security Standard refuses; use a claim
{{- end }}
{{- $own = append $own .name }}
{{- end }}
{{- $paths := list "/tmp" "/dev/shm" "/models" "/var/cache/hybridserve" "/etc/hybridserve" "/etc/hybridserve-keys" "/etc/hybridserve-limits" "/etc/hybridserve-notice" "/etc/hybridserve-verify" "/etc/hybridserve-guard-key" "/etc/hybridserve-files" "/etc/hybridserve-drain" "/etc/hub-token" "/etc/hub-ca" "/" }}
{{- range .Values.extraVolumeMounts }}
{{- if has (default "/" (trimSuffix "/" .mountPath)) $paths }}
extraVolumeMounts: {{ .mountPath }} is a path of the chart; mount at another path
{{- end }}
{{- if not (has .name $own) }}
extraVolumeMounts: {{ .name }} is not in extraVolumes; add it there
{{- end }}
{{- end }}
{{- $reserved := include "hybridserve.reservedEnv" . }}
{{- $variables := list }}
{{- range .Values.extraEnv }}
{{- if regexMatch $reserved .name }}
extraEnv: {{ .name }} is reserved for the chart, KubeRay and Ray; use the chart's values, and settings instead of HYBRIDSERVE_*
{{- end }}
{{- if and (hasKey . "value") (hasKey . "valueFrom") }}
extraEnv: {{ .name }} has value and valueFrom; keep one of them
{{- end }}
{{- if and (hasKey . "value") (regexMatch "(?i)(token|secret|password|api_?key)$" .name) }}
extraEnv: {{ .name }} is a secret as plain text; use valueFrom.secretKeyRef
{{- end }}
{{- if has .name $variables }}
extraEnv: {{ .name }} is set twice; remove one
{{- end }}
{{- $variables = append $variables .name }}
{{- end }}
{{- range $name, $value := dict "podSecurityContext" .Values.podSecurityContext "containerSecurityContext" .Values.containerSecurityContext }}
{{- if or $value.privileged $value.allowPrivilegeEscalation (eq (toString $value.runAsNonRoot) "false") (eq (toString $value.runAsUser) "0") (dig "capabilities" "add" list $value) (eq (dig "seccompProfile" "type" "" $value) "Unconfined") }}
{{ $name }}: weakens the restricted Pod Security Standard; remove that field
{{- end }}
{{- end }}
{{- if and .Values.lifecycle.preStop (not (dig "preStop" "exec" dict .Values.lifecycle)) (not (dig "preStop" "sleep" dict .Values.lifecycle)) }}
lifecycle.preStop: has no action; give exec or sleep, or remove it
{{- end }}
{{- end -}}

{{- define "hybridserve.errors.ray" -}}
{{- $ray := .Values.ray }}
{{- if ne (int .Values.replicaCount) 1 }}
replicaCount: belongs to mode standalone; set settings.scaling.max_replicas and ray.workerGroups
{{- end }}
{{- if or (ne .Values.strategy "RollingUpdate") (ne (toString .Values.rollingUpdate.maxSurge) "1") (ne (toString .Values.rollingUpdate.maxUnavailable) "0") }}
strategy: it and rollingUpdate belong to mode standalone; remove them, and set ray.maxSurgePercent to 0 where no GPU is free
{{- end }}
{{- if eq (dig "server" "data_path" "auto" .Values.settings) "single" }}
settings.server.data_path: single is one engine without Ray; set mode to standalone, or use haproxy or proxy
{{- end }}
{{- if and (eq (dig "scaling" "policy" "hybrid" .Values.settings) "queue_length") (not (dig "scaling" "target_ongoing_requests" 0 .Values.settings)) (not (dig "engine" "max_num_seqs" 0 .Values.settings)) }}
settings.scaling.target_ongoing_requests: policy queue_length needs it here, or settings.engine.max_num_seqs; set one of them
{{- end }}
{{- $version := (include "hybridserve.facts" . | fromYaml).ray }}
{{- if and (ne $ray.version $version) (not .Values.image.tag) (not .Values.image.digest) }}
ray.version: the image of this chart has Ray {{ $version }}, and KubeRay would assume {{ $ray.version }}; remove it, or name your image
{{- end }}
{{- if and $ray.token.existingSecret $ray.token.value }}
ray.token.value: ray.token.existingSecret is set as well; keep one of them
{{- end }}
{{- if and (not $ray.token.enabled) (ne (dig "server" "profile" "demo" .Values.settings) "demo") }}
ray.token.enabled: without a token, everyone who reaches the Ray cluster can run code in it; set it to true
{{- end }}
{{- if and $ray.redis.existingSecret (not $ray.redis.address) }}
ray.redis.address: a password is given, and no Redis; set redis://HOST:6379
{{- end }}
{{- if and $ray.redis.address .Values.networkPolicy.enabled (not .Values.networkPolicy.redis) (not .Values.networkPolicy.extraEgress) }}
networkPolicy.redis: no egress rule allows {{ $ray.redis.address }} (ray.redis.address); name its pods or addresses as peers
{{- end }}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.headName) }}
serviceAccount.headName: KubeRay binds a Role to the account of the head, which would be `default`; name an existing account
{{- end }}
{{- if le (include "hybridserve.bytes" .Values.shmSize | float64) (mulf $ray.objectStoreMiB 1048576) }}
ray.objectStoreMiB: {{ $ray.objectStoreMiB }} MiB do not fit into shmSize {{ .Values.shmSize }}, and Ray would use /tmp; lower it
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
ray.upgradeStrategy: incremental upgrades create their own Gateway and HTTPRoute; turn ingress and httpRoute off
{{- end }}
{{- end }}
{{- $names := dict }}
{{- $most := 0 }}
{{- $least := 0 }}
{{- $accelerator := include "hybridserve.accelerator" . }}
{{- $devices := include "hybridserve.devices" . | int }}
{{- $tensor := dig "engine" "tensor_parallel_size" 1 .Values.settings | default 1 | int }}
{{- $replicas := dig "scaling" "max_replicas" 1 .Values.settings | int }}
{{- range $index, $group := $ray.workerGroups }}
{{- if hasKey $names $group.name }}
ray.workerGroups[{{ $index }}].name: {{ $group.name }} is used twice; rename one
{{- end }}
{{- $_ := set $names $group.name true }}
{{- if gt (int $group.minReplicas) (int $group.maxReplicas) }}
ray.workerGroups[{{ $index }}].minReplicas: {{ $group.minReplicas }} is above maxReplicas {{ $group.maxReplicas }}; lower it
{{- else if or (lt (int $group.replicas) (int $group.minReplicas)) (gt (int $group.replicas) (int $group.maxReplicas)) }}
ray.workerGroups[{{ $index }}].replicas: {{ $group.replicas }} is not between minReplicas {{ $group.minReplicas }} and maxReplicas {{ $group.maxReplicas }}
{{- end }}
{{- $resources := default $.Values.resources $group.resources }}
{{- $gpus := include "hybridserve.gpus" $resources | int }}
{{- if $resources.claims }}{{ $gpus = $devices }}{{ end }}
{{- if ne $accelerator "cpu" }}
{{- if eq $gpus 0 }}
ray.workerGroups[{{ $index }}].resources: no GPU in the limits, and settings.accelerator.name is {{ $accelerator }}; add it here or in resources
{{- else if lt $gpus $tensor }}
ray.workerGroups[{{ $index }}].resources: {{ $gpus }} GPUs, and tensor_parallel_size {{ $tensor }} would cross the network; raise the GPUs, or use pipeline_parallel_size
{{- end }}
{{- end }}
{{- $most = add $most (mul (int $group.maxReplicas) $gpus) }}
{{- $least = add $least (int $group.minReplicas) }}
{{- end }}
{{- if and (ne $accelerator "cpu") (lt (int $most) (mul $devices $replicas | int)) }}
ray.workerGroups: {{ $most }} GPUs at most, and {{ $replicas }} replicas of {{ $devices }} need {{ mul $devices $replicas }}; raise maxReplicas, or lower settings.scaling.max_replicas
{{- end }}
{{- if and .Values.podDisruptionBudget.enabled (gt (int $least) 1) (ge (int .Values.podDisruptionBudget.minAvailable) (int $least)) }}
podDisruptionBudget.minAvailable: {{ .Values.podDisruptionBudget.minAvailable }} of the {{ $least }} workers that always run must stay, which blocks every node drain; lower it
{{- end }}
{{- end -}}
