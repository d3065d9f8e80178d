{{/*
Contents of rayClusterConfig. A change here starts a second RayCluster with as many GPUs again. It therefore carries no
chart version, no common labels and no checksums; settings go through serveConfigV2 only.
*/}}
{{- define "hybridserve.rayEnv" -}}
{{ include "hybridserve.env" . }}
- {name: RAY_worker_niceness, value: "0"}
- {name: RAY_metrics_report_interval_ms, value: "2000"}
- {name: RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S, value: "1"}
- {name: RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S, value: "30"}
- {name: RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING, value: {{ ternary "1" "0" .Values.ray.preferLocalNode | quote }}}
# Ray rotates the files of its processes only with these.
- {name: RAY_ROTATION_MAX_BYTES, value: "10485760"}
- {name: RAY_ROTATION_BACKUP_COUNT, value: "2"}
{{- if .Values.ray.logToStderr }}
- {name: RAY_LOG_TO_STDERR, value: "1"}
{{- end }}
{{- if eq (dig "server" "data_path" "auto" .Values.settings) "haproxy" }}
- {name: RAY_SERVE_ENABLE_HA_PROXY, value: "1"}
- {name: RAY_SERVE_HAPROXY_METRICS_REPORT_INTERVAL_S, value: "2"}
- {name: RAY_SERVE_HAPROXY_BINARY_PATH, value: {{ .Values.ray.haproxyPath | quote }}}
- {name: RAY_SERVE_HAPROXY_NBTHREAD, value: "4"}
- {name: RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S, value: {{ max 3600 .Values.drainSeconds | quote }}}
- {name: RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S, value: "3"}
- {name: RAY_SERVE_HAPROXY_RETRY_ON, value: "conn-failure empty-response"}
- {name: RAY_SERVE_HAPROXY_RETRIES, value: "1"}
- {name: RAY_SERVE_HAPROXY_TUNE_BUFSIZE, value: "131072"}
{{- end }}
{{ include "hybridserve.extraEnv" . }}
{{- end -}}

{{/* Ray's agent answers on this port of every node while the raylet runs. Arguments: root, kind of the probe, over. */}}
{{- define "hybridserve.rayletProbe" -}}
{{- $probe := dict "httpGet" (dict "path" "/api/healthz" "port" 52365) -}}
{{- if eq .kind "startup" -}}
{{- $probe = merge $probe (dict "periodSeconds" 5 "timeoutSeconds" 5 "failureThreshold" (div (add .root.Values.ray.startupSeconds 4) 5)) -}}
{{- else if eq .kind "readiness" -}}
{{- $probe = merge $probe (dict "periodSeconds" 5 "timeoutSeconds" 5 "failureThreshold" 6) -}}
{{- else -}}
{{- $probe = merge $probe (dict "periodSeconds" 10 "timeoutSeconds" 10 "failureThreshold" 12) -}}
{{- end -}}
{{- include "hybridserve.probe" (dict "probe" $probe "over" (default dict .over)) -}}
{{- end -}}

{{/* Annotations of Ray pods. With newClusterOnResize they change with the fields that KubeRay leaves out of its hash. */}}
{{- define "hybridserve.rayAnnotations" -}}
{{- $made := deepCopy .Values.podAnnotations -}}
{{- with .Values.files -}}
{{- /* A mounted file reaches running pods late, so a file that is read at start has a new name, and needs new pods. */ -}}
{{- $_ := set $made "hybridserve.io/files" (keys . | sortAlpha | join " " | sha256sum | trunc 16) -}}
{{- end -}}
{{- if .Values.ray.newClusterOnResize -}}
{{- $sizes := list .Values.tolerations .Values.ray.head.tolerations -}}
{{- range .Values.ray.workerGroups -}}
{{- $sizes = append $sizes (list .name .replicas .minReplicas .maxReplicas .tolerations) -}}
{{- end -}}
{{- $_ := set $made "hybridserve.io/size" (toJson $sizes | sha256sum | trunc 16) -}}
{{- end -}}
{{- toYaml $made -}}
{{- end -}}

{{- define "hybridserve.rayLabels" -}}
{{- $pod := include "hybridserve.podSelector" . | fromYaml -}}
{{- $_ := set $pod "app.kubernetes.io/instance" .root.Release.Name -}}
{{- mustMerge $pod (default dict .labels) .root.Values.podLabels | toYaml -}}
{{- end -}}

{{- define "hybridserve.rayHead" -}}
rayStartParams:
  # No replica runs on the head.
  num-cpus: "0"
  num-gpus: "0"
  dashboard-host: 0.0.0.0
  object-store-memory: {{ mul .Values.ray.objectStoreMiB 1048576 | toString | quote }}
template:
  metadata:
    labels: {{- include "hybridserve.rayLabels" (dict "root" . "component" "head" "labels" .Values.ray.head.podLabels) | nindent 6 }}
    {{- with mustMerge (deepCopy .Values.ray.head.podAnnotations) (include "hybridserve.rayAnnotations" . | fromYaml) }}
    annotations: {{- toYaml . | nindent 6 }}
    {{- end }}
  spec:
    serviceAccountName: {{ include "hybridserve.headServiceAccount" . | quote }}
    # Only the autoscaler is a client of the API server.
    automountServiceAccountToken: {{ .Values.ray.autoscaler.enabled }}
    enableServiceLinks: false
    terminationGracePeriodSeconds: {{ include "hybridserve.graceSeconds" . }}
    securityContext: {{- include "hybridserve.podSecurityContext" . | nindent 6 }}
    {{- include "hybridserve.podFields" . | nindent 4 }}
    {{- with default .Values.priorityClassName .Values.ray.head.priorityClassName }}
    priorityClassName: {{ . | quote }}
    {{- end }}
    {{- with .Values.ray.head.nodeSelector }}
    nodeSelector: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.ray.head.tolerations }}
    tolerations: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.ray.head.affinity }}
    affinity: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- if .Values.extraEnvFrom }}
    initContainers: {{- include "hybridserve.environmentCheck" . | nindent 6 }}
    {{- end }}
    containers:
      - name: ray-head
        image: {{ include "hybridserve.image" . | quote }}
        imagePullPolicy: {{ .Values.image.pullPolicy }}
        env: {{- include "hybridserve.rayEnv" . | nindent 10 }}
        {{- with .Values.extraEnvFrom }}
        envFrom: {{- toYaml . | nindent 10 }}
        {{- end }}
        ports:
          - {name: gcs-server, containerPort: 6379, protocol: TCP}
          - {name: dashboard, containerPort: 8265, protocol: TCP}
          - {name: client, containerPort: 10001, protocol: TCP}
          - {name: serve, containerPort: 8000, protocol: TCP}
          - {name: metrics, containerPort: 8080, protocol: TCP}
          - {name: as-metrics, containerPort: 44217, protocol: TCP}
          - {name: dash-metrics, containerPort: 44227, protocol: TCP}
          {{- include "hybridserve.metricsPortList" 1 | nindent 10 }}
        {{- range $kind := list "startup" "readiness" "liveness" }}
        {{ $kind }}Probe: {{- include "hybridserve.rayletProbe" (dict "root" $ "kind" $kind) | nindent 10 }}
        {{- end }}
        securityContext: {{- include "hybridserve.containerSecurityContext" . | nindent 10 }}
        resources: {{- include "hybridserve.resources" .Values.ray.head.resources | nindent 10 }}
        volumeMounts:
          - {name: tmp, mountPath: /tmp}
          - {name: shm, mountPath: /dev/shm}
          {{- if include "hybridserve.folderModel" . }}
          - {name: weights, mountPath: /models, readOnly: true}
          {{- end }}
          {{- include "hybridserve.fileMounts" . | nindent 10 }}
    volumes:
      {{- include "hybridserve.scratchVolumes" . | nindent 6 }}
      {{- if include "hybridserve.folderModel" . }}
      {{- include "hybridserve.weightsVolume" . | nindent 6 }}
      {{- end }}
      {{- include "hybridserve.fileVolumes" . | nindent 6 }}
{{- end -}}

{{/* Arguments: root, group. */}}
{{- define "hybridserve.rayWorkers" -}}
{{- $root := .root -}}
{{- $group := .group -}}
{{- $resources := default $root.Values.resources $group.resources -}}
{{- $accelerator := get (include "hybridserve.facts" $root | fromYaml).accelerators (include "hybridserve.acceleratorId" $root) -}}
groupName: {{ $group.name | quote }}
replicas: {{ $group.replicas }}
minReplicas: {{ $group.minReplicas }}
maxReplicas: {{ $group.maxReplicas }}
numOfHosts: 1
rayStartParams:
  object-store-memory: {{ mul $root.Values.ray.objectStoreMiB 1048576 | toString | quote }}
  {{- if $resources.claims }}
  # KubeRay counts GPUs in the limits only.
  num-gpus: {{ include "hybridserve.devices" $root | quote }}
  {{- else if not (or (hasKey (default dict $resources.limits) "nvidia.com/gpu") (hasKey (default dict $resources.limits) "amd.com/gpu")) }}
  {{- with include "hybridserve.gpus" $resources | int }}
  # Ray's autoscaler counts only resources whose name ends in gpu.
  num-gpus: {{ . | toString | quote }}
  {{- end }}
  {{- end }}
{{- with default $accelerator $group.acceleratorType }}
# A replica requests its device by type, which the autoscaler cannot see before a node runs.
resources: {{ dict (printf "accelerator_type:%s" .) "1" | toJson }}
{{- end }}
template:
  metadata:
    labels: {{- include "hybridserve.rayLabels" (dict "root" $root "component" "worker") | nindent 6 }}
    {{- with include "hybridserve.rayAnnotations" $root | fromYaml }}
    annotations: {{- toYaml . | nindent 6 }}
    {{- end }}
  spec:
    serviceAccountName: {{ include "hybridserve.serviceAccount" $root | quote }}
    automountServiceAccountToken: false
    enableServiceLinks: false
    terminationGracePeriodSeconds: {{ include "hybridserve.graceSeconds" $root }}
    securityContext: {{- include "hybridserve.podSecurityContext" $root | nindent 6 }}
    {{- include "hybridserve.podFields" $root | nindent 4 }}
    {{- with include "hybridserve.resourceClaims" (dict "root" $root "resources" $resources) }}
    resourceClaims: {{- . | nindent 6 }}
    {{- end }}
    {{- with default $root.Values.runtimeClassName $group.runtimeClassName }}
    runtimeClassName: {{ . | quote }}
    {{- end }}
    {{- with $root.Values.priorityClassName }}
    priorityClassName: {{ . | quote }}
    {{- end }}
    {{- with default $root.Values.nodeSelector $group.nodeSelector }}
    nodeSelector: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with default $root.Values.tolerations $group.tolerations }}
    tolerations: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with default $root.Values.affinity $group.affinity }}
    affinity: {{- toYaml . | nindent 6 }}
    {{- end }}
    topologySpreadConstraints: {{- include "hybridserve.spread" $root | nindent 6 }}
    {{- with include "hybridserve.initContainers" $root | trim }}
    initContainers: {{- . | nindent 6 }}
    {{- end }}
    containers:
      - name: ray-worker
        image: {{ include "hybridserve.image" $root | quote }}
        imagePullPolicy: {{ $root.Values.image.pullPolicy }}
        env: {{- include "hybridserve.rayEnv" $root | nindent 10 }}
        {{- with $root.Values.extraEnvFrom }}
        envFrom: {{- toYaml . | nindent 10 }}
        {{- end }}
        ports:
          - {name: serve, containerPort: 8000, protocol: TCP}
          - {name: metrics, containerPort: 8080, protocol: TCP}
          {{- include "hybridserve.metricsPortList" (include "hybridserve.workerMetricsPorts" .) | nindent 10 }}
        startupProbe: {{- include "hybridserve.rayletProbe" (dict "root" $root "kind" "startup" "over" $root.Values.probes.startup) | nindent 10 }}
        # A proxy that is about to stop, and a guard that fails. KubeRay's own probe would need wget, and does not ask the guard.
        readinessProbe: {{- include "hybridserve.probe" (dict "probe" (dict "exec" (dict "command" (list "python" "-IS" "/etc/hybridserve-drain/ready.py" "8000")) "periodSeconds" 5 "timeoutSeconds" 5 "failureThreshold" 2) "over" $root.Values.probes.readiness) | nindent 10 }}
        livenessProbe: {{- include "hybridserve.rayletProbe" (dict "root" $root "kind" "liveness" "over" $root.Values.probes.liveness) | nindent 10 }}
        {{- $drain := dict "preStop" (dict "exec" (dict "command" (list "python" "/etc/hybridserve-drain/drain.py" (include "hybridserve.preStopSeconds" $root) (include "hybridserve.drainSeconds" $root)))) }}
        lifecycle: {{- merge (deepCopy $root.Values.lifecycle) $drain | toYaml | nindent 10 }}
        securityContext: {{- include "hybridserve.containerSecurityContext" $root | nindent 10 }}
        resources: {{- include "hybridserve.resources" $resources | nindent 10 }}
        volumeMounts:
          {{- include "hybridserve.engineMounts" $root | nindent 10 }}
          - {name: drain, mountPath: /etc/hybridserve-drain, readOnly: true}
      {{- with $root.Values.extraContainers }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    volumes:
      {{- include "hybridserve.engineVolumes" $root | nindent 6 }}
      - name: drain
        configMap: {name: "{{ include "hybridserve.fullname" $root }}-drain"}
{{- end -}}
