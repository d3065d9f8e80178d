{{/*
What stands inside rayClusterConfig. A change there starts a second RayCluster, with as many GPUs again; so it carries
no chart version, no common labels and no checksums, and settings go through serveConfigV2 alone.
*/}}
{{- define "hybridserve.rayEnv" -}}
{{ include "hybridserve.env" . }}
- {name: RAY_worker_niceness, value: "0"}
- {name: RAY_metrics_report_interval_ms, value: "2000"}
- {name: RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S, value: "1"}
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
{{- end -}}

{{/* The raylet lives. Ray's agent answers here on every node. */}}
{{- define "hybridserve.rayletProbe" -}}
httpGet: {path: /api/healthz, port: 52365}
{{- end -}}

{{- define "hybridserve.rayHead" -}}
rayStartParams:
  # Nothing of ours runs on the head.
  num-cpus: "0"
  num-gpus: "0"
  dashboard-host: 0.0.0.0
template:
  metadata:
    labels: {{- mustMerge (include "hybridserve.selector" (dict "root" . "component" "head") | fromYaml) .Values.podLabels | toYaml | nindent 6 }}
    {{- with .Values.podAnnotations }}
    annotations: {{- toYaml . | nindent 6 }}
    {{- end }}
  spec:
    serviceAccountName: {{ include "hybridserve.headServiceAccount" . | quote }}
    # The autoscaler beside the head is a client of the API server; nothing else of the release is.
    automountServiceAccountToken: {{ .Values.ray.autoscaler.enabled }}
    enableServiceLinks: false
    terminationGracePeriodSeconds: {{ include "hybridserve.graceSeconds" . }}
    securityContext: {{- include "hybridserve.podSecurityContext" . | nindent 6 }}
    {{- with .Values.imagePullSecrets }}
    imagePullSecrets: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.priorityClassName }}
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
    containers:
      - name: ray-head
        image: {{ include "hybridserve.image" . | quote }}
        imagePullPolicy: {{ .Values.image.pullPolicy }}
        env: {{- include "hybridserve.rayEnv" . | nindent 10 }}
        ports:
          - {name: gcs-server, containerPort: 6379, protocol: TCP}
          - {name: dashboard, containerPort: 8265, protocol: TCP}
          - {name: client, containerPort: 10001, protocol: TCP}
          - {name: serve, containerPort: 8000, protocol: TCP}
          - {name: metrics, containerPort: 8080, protocol: TCP}
          - {name: as-metrics, containerPort: 44217, protocol: TCP}
          - {name: dash-metrics, containerPort: 44227, protocol: TCP}
          {{- include "hybridserve.metricsPortList" 1 | nindent 10 }}
        startupProbe:
          {{- include "hybridserve.rayletProbe" . | nindent 10 }}
          periodSeconds: 5
          timeoutSeconds: 5
          failureThreshold: 60
        readinessProbe:
          {{- include "hybridserve.rayletProbe" . | nindent 10 }}
          periodSeconds: 5
          timeoutSeconds: 5
          failureThreshold: 6
        livenessProbe:
          {{- include "hybridserve.rayletProbe" . | nindent 10 }}
          periodSeconds: 10
          timeoutSeconds: 10
          failureThreshold: 12
        securityContext: {{- include "hybridserve.containerSecurityContext" . | nindent 10 }}
        resources: {{- include "hybridserve.resources" .Values.ray.head.resources | nindent 10 }}
        volumeMounts:
          - {name: tmp, mountPath: /tmp}
          - {name: shm, mountPath: /dev/shm}
          {{- if include "hybridserve.keysSecret" . }}
          - {name: keys, mountPath: /etc/hybridserve-keys, readOnly: true}
          {{- end }}
          {{- if .Values.notice.files }}
          - {name: notice, mountPath: /etc/hybridserve-notice, readOnly: true}
          {{- end }}
    volumes:
      - name: tmp
        emptyDir: {sizeLimit: 4Gi}
      - name: shm
        emptyDir: {medium: Memory, sizeLimit: {{ .Values.shmSize | quote }}}
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
{{- end -}}

{{/* Arguments: root, group. */}}
{{- define "hybridserve.rayWorkers" -}}
{{- $root := .root -}}
{{- $group := .group -}}
{{- $worker := dict "root" $root "component" "worker" -}}
groupName: {{ $group.name | quote }}
replicas: {{ $group.replicas }}
minReplicas: {{ $group.minReplicas }}
maxReplicas: {{ $group.maxReplicas }}
numOfHosts: 1
rayStartParams: {}
{{- with $group.acceleratorType }}
# Ray asks for a device by its type, which the autoscaler cannot see on a node that does not run yet.
resources: {{ dict (printf "accelerator_type:%s" .) "1" | toJson }}
{{- end }}
template:
  metadata:
    labels: {{- mustMerge (include "hybridserve.selector" $worker | fromYaml) $root.Values.podLabels | toYaml | nindent 6 }}
    {{- with $root.Values.podAnnotations }}
    annotations: {{- toYaml . | nindent 6 }}
    {{- end }}
  spec:
    serviceAccountName: {{ include "hybridserve.serviceAccount" $root | quote }}
    automountServiceAccountToken: false
    enableServiceLinks: false
    terminationGracePeriodSeconds: {{ include "hybridserve.graceSeconds" $root }}
    securityContext: {{- include "hybridserve.podSecurityContext" $root | nindent 6 }}
    {{- with $root.Values.imagePullSecrets }}
    imagePullSecrets: {{- toYaml . | nindent 6 }}
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
    topologySpreadConstraints: {{- include "hybridserve.spread" $worker | nindent 6 }}
    {{- if $root.Values.weights.download }}
    initContainers: {{- include "hybridserve.downloadContainer" $root | nindent 6 }}
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
        startupProbe:
          {{- include "hybridserve.rayletProbe" $root | nindent 10 }}
          periodSeconds: 5
          timeoutSeconds: 5
          failureThreshold: 60
        # The proxy of this node answers for a replica that may serve. KubeRay's own probe would need wget and bash.
        readinessProbe:
          httpGet: {path: /ready, port: serve}
          periodSeconds: 5
          timeoutSeconds: 5
          failureThreshold: 2
        livenessProbe:
          {{- include "hybridserve.rayletProbe" $root | nindent 10 }}
          periodSeconds: 10
          timeoutSeconds: 10
          failureThreshold: 12
        lifecycle:
          preStop:
            # Off every list first; then open streams may run on; then Ray ends.
            exec: {command: [/bin/sh, -c, "sleep {{ add (include "hybridserve.preStopSeconds" $root) $root.Values.drainSeconds }}; ray stop"]}
        securityContext: {{- include "hybridserve.containerSecurityContext" $root | nindent 10 }}
        resources: {{- include "hybridserve.resources" (default $root.Values.resources $group.resources) | nindent 10 }}
        volumeMounts: {{- include "hybridserve.engineMounts" $root | nindent 10 }}
    volumes: {{- include "hybridserve.engineVolumes" $root | nindent 6 }}
{{- end -}}
