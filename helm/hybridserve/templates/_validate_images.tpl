{{/* Images that move, or whose registry would be named twice. Format of the lines: _validate.tpl. */}}
{{- define "hybridserve.errors.images" -}}
{{- range $path, $image := dict "image" .Values.image "check.image" .Values.check.image }}
{{- if eq $image.tag "latest" }}
{{ $path }}.tag: latest is another image after each push; set a version, or leave it empty and set {{ $path }}.digest
{{- end }}
{{- $from := printf "%s.registry" $path }}
{{- if and (not $image.registry) $.Values.image.registry }}{{ $from = "image.registry" }}
{{- else if not $image.registry }}{{ $from = "global.imageRegistry" }}{{ end }}
{{- $registry := coalesce $image.registry $.Values.image.registry $.Values.global.imageRegistry }}
{{- if and $registry (hasPrefix (printf "%s/" (splitList "/" $registry | first)) $image.repository) }}
{{ $path }}.repository: {{ $image.repository }} names the registry, which {{ $from }} ({{ $registry }}) adds; keep one of them
{{- end }}
{{- end }}
{{- end -}}
