{{- define "flannel.selector" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/name: {{ .Chart.Name }}
{{- end }}

{{- define "flannel.labels" -}}
{{ include "flannel.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* An image's reference: a dict of values and image. */ -}}
{{- define "flannel.image" -}}
{{ .values.global.systemDefaultRegistry | default .image.registry }}/{{ .image.repository }}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag }}{{ end }}
{{- end }}

{{- /* The pods' ranges, as an object in JSON: v4, v6, and which comes first. */ -}}
{{- define "flannel.ranges" -}}
{{- $given := .Values.global.clusterCIDR -}}
{{- if not (kindIs "slice" $given) }}{{ $given = splitList "," (toString $given) }}{{ end -}}
{{- $ranges := dict -}}
{{- range $given -}}
{{- with trim (toString .) -}}
{{- $family := ternary "v6" "v4" (contains ":" .) -}}
{{- if hasKey $ranges $family }}{{ fail (printf "global.clusterCIDR has two ranges of one family: %s" (toString $.Values.global.clusterCIDR)) }}{{ end -}}
{{- if not (hasKey $ranges "first") }}{{ $_ := set $ranges "first" $family }}{{ end -}}
{{- $_ := set $ranges $family . -}}
{{- end -}}
{{- end -}}
{{- if not (hasKey $ranges "first") }}{{ fail "global.clusterCIDR is empty" }}{{ end -}}
{{- toJson $ranges -}}
{{- end }}

{{- define "flannel.loopback" -}}
{{ ternary "::1" "127.0.0.1" (eq (include "flannel.ranges" . | fromJson).first "v6") }}
{{- end }}

{{- /* Every program asks the API server itself: kube-proxy may not be there yet. */ -}}
{{- define "flannel.apiserver" -}}
- {name: KUBERNETES_SERVICE_HOST, value: {{ .Values.apiServer.host | default (include "flannel.loopback" .) | quote }}}
- {name: KUBERNETES_SERVICE_PORT, value: {{ .Values.apiServer.port | quote }}}
{{- end }}
