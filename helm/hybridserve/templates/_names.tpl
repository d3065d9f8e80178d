{{/*
Base of every object name: the release name as a DNS-1035 label of at most 40 characters, so that every suffix of the
chart and of KubeRay fits. A shortened or changed name gets a hash, so that two releases never share a name.
*/}}
{{- define "hybridserve.fullname" -}}
{{- $name := .Values.fullnameOverride -}}
{{- if not $name -}}
{{- $name = .Release.Name -}}
{{- if .Values.nameOverride -}}
{{- $name = printf "%s-%s" $name .Values.nameOverride -}}
{{- else if not .Chart.IsRoot -}}
{{- $name = printf "%s-%s" $name .Chart.Name -}}
{{- end -}}
{{- end -}}
{{- $safe := $name | replace "." "-" -}}
{{- if not (regexMatch "^[a-z]" $safe) -}}{{- $safe = printf "hs-%s" $safe -}}{{- end -}}
{{- if or (ne $safe $name) (gt (len $safe) 40) -}}
{{- $safe = printf "%s-%s" (trunc 31 $safe | trimSuffix "-") (sha256sum $name | trunc 8) -}}
{{- end -}}
{{- $safe -}}
{{- end -}}

{{- define "hybridserve.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{/* Labels of objects, and selector of the Deployment. No user value is in here, because selectors are immutable. */}}
{{- define "hybridserve.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/*
Selector of pods in both modes, for policies, budgets and monitors. Ray pods must not carry app.kubernetes.io/name:
KubeRay's head Service selects its own value of that label.
*/}}
{{- define "hybridserve.podSelector" -}}
hybridserve.io/release: {{ .root.Release.Name | quote }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* Component of the pods that run an engine. */}}
{{- define "hybridserve.engineComponent" -}}
{{- ternary "engine" "worker" (eq .Values.mode "standalone") -}}
{{- end -}}

{{/*
Metadata of an object. Arguments: root, suffix (of the name; optional), component (optional), annotations and labels
(optional mappings).
*/}}
{{- define "hybridserve.metadata" -}}
{{- $root := .root -}}
{{- $labels := dict "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63)
      "app.kubernetes.io/version" ($root.Chart.AppVersion | replace "+" "_")
      "app.kubernetes.io/managed-by" $root.Release.Service
      "app.kubernetes.io/part-of" "hybridserve" -}}
{{- $labels = mustMerge $labels (include "hybridserve.selector" . | fromYaml) (default dict .labels) $root.Values.commonLabels -}}
{{- $annotations := mustMerge dict (default dict .annotations) $root.Values.commonAnnotations -}}
name: "{{ include "hybridserve.fullname" $root }}{{ with .suffix }}-{{ . }}{{ end }}"
namespace: {{ include "hybridserve.namespace" $root | quote }}
labels: {{- toYaml $labels | nindent 2 }}
{{- with $annotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* "yes" when KubeRay's own Gateway receives the traffic; the chart then makes no Service. */}}
{{- define "hybridserve.byGateway" -}}
{{- if and (eq .Values.mode "rayservice") (eq .Values.ray.upgradeStrategy "NewClusterWithIncrementalUpgrade") }}yes{{ end -}}
{{- end -}}

{{- define "hybridserve.keysSecret" -}}
{{- if .Values.auth.existingSecret -}}
{{- .Values.auth.existingSecret -}}
{{- else if .Values.auth.keys -}}
{{- include "hybridserve.fullname" . -}}-keys
{{- end -}}
{{- end -}}

{{- define "hybridserve.hubSecret" -}}
{{- if .Values.weights.existingSecret -}}
{{- .Values.weights.existingSecret -}}
{{- else if .Values.weights.token -}}
{{- include "hybridserve.fullname" . -}}-hub-token
{{- end -}}
{{- end -}}

{{/* Empty: KubeRay creates a token for each cluster. */}}
{{- define "hybridserve.raySecret" -}}
{{- if .Values.ray.token.existingSecret -}}
{{- .Values.ray.token.existingSecret -}}
{{- else if .Values.ray.token.value -}}
{{- include "hybridserve.fullname" . -}}-ray-token
{{- end -}}
{{- end -}}

{{/* Objects that KubeRay's Redis cleanup Job mounts must outlive the release when Redis is used. */}}
{{- define "hybridserve.keepForCleanup" -}}
{{- if and (eq .Values.mode "rayservice") .Values.ray.redis.address }}{helm.sh/resource-policy: keep}{{ else }}{}{{ end -}}
{{- end -}}

{{- define "hybridserve.serviceAccount" -}}
{{- default (ternary (printf "%s-engine" (include "hybridserve.fullname" .)) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "hybridserve.headServiceAccount" -}}
{{- default (ternary (printf "%s-head" (include "hybridserve.fullname" .)) "default" .Values.serviceAccount.create) .Values.serviceAccount.headName -}}
{{- end -}}

{{/* Arguments: root, image, and fallback for the tag. */}}
{{- define "hybridserve.imageOf" -}}
{{- with default .root.Values.global.imageRegistry .image.registry }}{{ . }}/{{ end -}}
{{- .image.repository -}}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ default .fallback .image.tag }}{{ end -}}
{{- end -}}

{{- define "hybridserve.image" -}}
{{- $platform := ternary "cpu" "gpu" (eq (include "hybridserve.accelerator" .) "cpu") -}}
{{- include "hybridserve.imageOf" (dict "root" . "image" .Values.image "fallback" (printf "%s-%s" .Chart.AppVersion $platform)) -}}
{{- end -}}

{{/* The small image, from the engine's registry unless it names its own; the engine image without a repository. */}}
{{- define "hybridserve.checkImage" -}}
{{- if .Values.check.image.repository -}}
{{- $image := mustMerge (dict "registry" (default .Values.image.registry .Values.check.image.registry)) .Values.check.image -}}
{{- include "hybridserve.imageOf" (dict "root" . "image" $image "fallback" (printf "%s-control" .Chart.AppVersion)) -}}
{{- else -}}
{{- include "hybridserve.image" . -}}
{{- end -}}
{{- end -}}

{{- define "hybridserve.pullSecrets" -}}
{{- with concat .Values.global.imagePullSecrets .Values.imagePullSecrets | uniq -}}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
