{{/*
Base of every object's name: the release's, made a DNS-1035 label of at most 40 characters, so that every suffix of ours
and of KubeRay still fits. A shortened or altered name carries a hash, so that two releases never share one.
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

{{/* Labels that select. They carry nothing a user can change, because selectors are immutable. */}}
{{- define "hybridserve.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
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

{{/* Whether traffic comes by KubeRay's own Gateway; then no Service of the release's name exists. */}}
{{- define "hybridserve.byGateway" -}}
{{- if and (eq .Values.mode "rayservice") (eq .Values.ray.upgradeStrategy "NewClusterWithIncrementalUpgrade") }}yes{{ end -}}
{{- end -}}

{{/* Names of things the user may bring. */}}
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

{{- define "hybridserve.raySecret" -}}
{{- default (printf "%s-ray-token" (include "hybridserve.fullname" .)) .Values.ray.token.existingSecret -}}
{{- end -}}

{{- define "hybridserve.serviceAccount" -}}
{{- default (ternary (printf "%s-engine" (include "hybridserve.fullname" .)) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "hybridserve.headServiceAccount" -}}
{{- default (ternary (printf "%s-head" (include "hybridserve.fullname" .)) "default" .Values.serviceAccount.create) .Values.serviceAccount.headName -}}
{{- end -}}

{{/* Arguments: image, and fallback for the tag. */}}
{{- define "hybridserve.imageOf" -}}
{{- with .image.registry }}{{ . }}/{{ end -}}
{{- .image.repository -}}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ default .fallback .image.tag }}{{ end -}}
{{- end -}}

{{- define "hybridserve.image" -}}
{{- $platform := ternary "cpu" "gpu" (eq (include "hybridserve.accelerator" .) "cpu") -}}
{{- include "hybridserve.imageOf" (dict "image" .Values.image "fallback" (printf "%s-%s" .Chart.AppVersion $platform)) -}}
{{- end -}}

{{/* The small image, from the engine's registry where none is named; the engine's own where no repository is. */}}
{{- define "hybridserve.checkImage" -}}
{{- if .Values.check.image.repository -}}
{{- $image := mustMerge (dict "registry" (default .Values.image.registry .Values.check.image.registry)) .Values.check.image -}}
{{- include "hybridserve.imageOf" (dict "image" $image "fallback" (printf "%s-control" .Chart.AppVersion)) -}}
{{- else -}}
{{- include "hybridserve.image" . -}}
{{- end -}}
{{- end -}}
