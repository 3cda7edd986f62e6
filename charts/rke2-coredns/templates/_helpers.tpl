{{- define "coredns.fullname" -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "coredns.autoscaler" -}}
{{ printf "%s-autoscaler" (include "coredns.fullname" . | trunc 52 | trimSuffix "-") }}
{{- end }}

{{- define "coredns.selector" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/name: {{ .Chart.Name }}
k8s-app: kube-dns
{{- end }}

{{- define "coredns.autoscaler.selector" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/name: {{ .Chart.Name }}-autoscaler
{{- end }}

{{- define "coredns.labels" -}}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
kubernetes.io/cluster-service: "true"
kubernetes.io/name: CoreDNS
{{- end }}

{{- define "coredns.image" -}}
{{ .Values.global.systemDefaultRegistry | default .Values.image.registry }}/{{ .Values.image.repository }}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag }}{{ end }}
{{- end }}

{{- /* The service's addresses, as a list in JSON. */ -}}
{{- define "coredns.addresses" -}}
{{- $given := .Values.service.clusterIP | default .Values.global.clusterDNS -}}
{{- if not (kindIs "slice" $given) }}{{ $given = splitList "," (toString $given) }}{{ end -}}
{{- $list := list -}}
{{- range $given }}{{ with trim (toString .) }}{{ $list = append $list . }}{{ end }}{{ end -}}
{{- toJson $list -}}
{{- end }}

{{- define "coredns.domain" -}}
{{ .Values.global.clusterDomain | default "cluster.local" }}
{{- end }}
