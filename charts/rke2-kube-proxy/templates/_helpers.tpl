{{- define "kube-proxy.selector" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/name: {{ .Chart.Name }}
{{- end }}

{{- define "kube-proxy.labels" -}}
{{ include "kube-proxy.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "kube-proxy.image" -}}
{{ .Values.global.systemDefaultRegistry | default .Values.image.registry }}/{{ .Values.image.repository }}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag }}{{ end }}
{{- end }}

{{- /* Where its health is asked for: the node's loopback address, of the first family. */ -}}
{{- define "kube-proxy.health" -}}
{{- $given := .Values.global.clusterCIDR -}}
{{- if not (kindIs "slice" $given) }}{{ $given = splitList "," (toString $given) }}{{ end -}}
host: {{ .Values.healthCheck.host | default (ternary "::1" "127.0.0.1" (contains ":" (first $given | toString))) | quote }}
port: {{ .Values.healthCheck.port }}
{{- end }}
