{{- define "ingress-nginx.name" -}}
{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "ingress-nginx.controller" -}}
{{ include "ingress-nginx.name" . }}-controller
{{- end }}

{{- define "ingress-nginx.lease" -}}
{{ include "ingress-nginx.name" . }}-leader
{{- end }}

{{- define "ingress-nginx.selector" -}}
app.kubernetes.io/component: controller
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/name: {{ .Chart.Name }}
{{- end }}

{{- define "ingress-nginx.labels" -}}
{{ include "ingress-nginx.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "ingress-nginx.image" -}}
{{- $image := .Values.controller.image -}}
{{ .Values.global.systemDefaultRegistry | default $image.registry }}/{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag }}{{ end }}
{{- end }}

{{- /* Whether the IngressClass is the default one: "true", or nothing. */ -}}
{{- define "ingress-nginx.default" -}}
{{- $class := .Values.controller.ingressClassResource -}}
{{- if kindIs "bool" $class.default -}}
{{- if $class.default }}true{{ end -}}
{{- else if has .Values.global.systemDefaultIngressClass (list "ingress-nginx" $class.name) -}}
true
{{- end -}}
{{- end }}

{{- define "ingress-nginx.scope" -}}
{{ .Values.controller.scope.namespace | default .Release.Namespace }}
{{- end }}
