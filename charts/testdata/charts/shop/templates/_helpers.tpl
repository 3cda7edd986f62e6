{{- define "shop.image" -}}
{{ .Values.global.systemDefaultRegistry | default .Values.image.registry }}/{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
