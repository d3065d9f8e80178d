{{/* What scales the pods: keda, hpa or nothing. Mode rayservice has Ray's own autoscaler. */}}
{{- define "hybridserve.scaler" -}}
{{- if eq .Values.mode "standalone" }}{{ .Values.autoscaling.scaler }}{{ end -}}
{{- end -}}

{{/* Fewest and most pods of the Deployment. */}}
{{- define "hybridserve.leastPods" -}}
{{- if include "hybridserve.scaler" . -}}
{{- dig "scaling" "min_replicas" 1 .Values.settings -}}
{{- else -}}
{{- .Values.replicaCount -}}
{{- end -}}
{{- end -}}

{{- define "hybridserve.mostPods" -}}
{{- if include "hybridserve.scaler" . -}}
{{- dig "scaling" "max_replicas" 1 .Values.settings -}}
{{- else -}}
{{- .Values.replicaCount -}}
{{- end -}}
{{- end -}}

{{/* Engines of one pod of the Deployment. */}}
{{- define "hybridserve.replicasPerPod" -}}
{{- if include "hybridserve.scaler" . }}1{{ else }}{{ dig "scaling" "max_replicas" 1 .Values.settings }}{{ end -}}
{{- end -}}

{{/* Settings of one pod. The limits of scaling are the controller's, so a changed limit restarts no pod. */}}
{{- define "hybridserve.podSettings" -}}
{{- $settings := include "hybridserve.settings" . | fromYaml -}}
{{- if and (include "hybridserve.scaler" .) $settings.scaling -}}
{{- range $name := list "min_replicas" "max_replicas" }}{{ $_ := unset $settings.scaling $name }}{{ end -}}
{{- if not $settings.scaling }}{{ $_ := unset $settings "scaling" }}{{ end -}}
{{- end -}}
{{- toYaml $settings -}}
{{- end -}}

{{/* The policy already waits, limits steps and holds after a peak: the HPA only follows it. */}}
{{- define "hybridserve.scalingBehavior" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  policies: [{type: Percent, value: 900, periodSeconds: 15}]
scaleDown:
  stabilizationWindowSeconds: 0
  policies: [{type: Percent, value: 100, periodSeconds: 15}]
{{- end -}}

{{- define "hybridserve.errors.autoscaling" -}}
{{- $scaling := default dict .Values.settings.scaling }}
{{- $least := dig "scaling" "min_replicas" 1 .Values.settings | int }}
{{- if and .Values.autoscaling.scaler (eq .Values.mode "rayservice") }}
autoscaling.scaler: Ray's autoscaler scales mode rayservice, and a second one would work against it; leave this empty and set settings.scaling
{{- end }}
{{- if include "hybridserve.scaler" . }}
{{- if ne (int .Values.replicaCount) 1 }}
replicaCount: autoscaling.scaler {{ .Values.autoscaling.scaler }} sets the number of pods; remove it, and set settings.scaling.min_replicas
{{- end }}
{{- if eq $least 0 }}
settings.scaling.min_replicas: without a pod nothing would queue the first request; set 1 or more, or use mode rayservice
{{- end }}
{{- if eq (default "hybrid" $scaling.policy) "queue_length" }}
settings.scaling.policy: queue_length is Ray Serve's own policy; set hybrid
{{- end }}
{{- if has (dig "server" "data_path" "auto" .Values.settings) (list "haproxy" "proxy") }}
settings.server.data_path: with autoscaling.scaler each pod runs one engine without Ray; remove it
{{- end }}
{{- if and .Values.podDisruptionBudget.enabled (gt (int .Values.podDisruptionBudget.minAvailable) 0) (ge (int .Values.podDisruptionBudget.minAvailable) $least) }}
podDisruptionBudget.minAvailable: {{ .Values.podDisruptionBudget.minAvailable }} of the {{ $least }} pods that always run must stay, which blocks node drains; lower it
{{- end }}
{{- end }}
{{- end -}}
