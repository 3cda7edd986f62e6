{{- define "canal.selector" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/name: {{ .Chart.Name }}
{{- end }}

{{- define "canal.labels" -}}
{{ include "canal.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* An image's reference: a dict of values and image. */ -}}
{{- define "canal.image" -}}
{{ .values.global.systemDefaultRegistry | default .image.registry }}/{{ .image.repository }}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag }}{{ end }}
{{- end }}

{{- /* The pods' ranges, as an object in JSON: v4, v6, and which comes first. */ -}}
{{- define "canal.ranges" -}}
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

{{- define "canal.loopback" -}}
{{ ternary "::1" "127.0.0.1" (eq (include "canal.ranges" . | fromJson).first "v6") }}
{{- end }}

{{- /* Every program asks the API server itself: kube-proxy may not be there yet. */ -}}
{{- define "canal.apiserver" -}}
- {name: KUBERNETES_SERVICE_HOST, value: {{ .Values.apiServer.host | default (include "canal.loopback" .) | quote }}}
- {name: KUBERNETES_SERVICE_PORT, value: {{ .Values.apiServer.port | quote }}}
{{- end }}

{{- /* What Felix reads, of Calico's own; chart rke2-canal-crd defines it. */ -}}
{{- define "canal.resources" -}}
bgpconfigurations,clusterinformations,felixconfigurations,globalnetworkpolicies,globalnetworksets,hostendpoints,ippools,networkpolicies,networksets
{{- end }}

{{- /* Felix's settings. Nothing is told to anybody outside, and there is no BPF. */ -}}
{{- define "canal.felix" -}}
FELIX_BPFENABLED: false
FELIX_DATASTORETYPE: kubernetes
FELIX_DEFAULTENDPOINTTOHOSTACTION: {{ .Values.calico.endpointToHostAction }}
FELIX_ENDPOINTSTATUSPATHPREFIX: /run/calico
FELIX_HEALTHENABLED: true
FELIX_HEALTHHOST: {{ include "canal.loopback" . | quote }}
FELIX_HEALTHPORT: {{ .Values.calico.healthPort }}
FELIX_IPTABLESBACKEND: {{ .Values.calico.iptablesBackend }}
FELIX_IPTABLESREFRESHINTERVAL: 60
FELIX_IPV6SUPPORT: {{ hasKey (include "canal.ranges" . | fromJson) "v6" }}
FELIX_LOGSEVERITYSCREEN: {{ .Values.calico.logLevel }}
FELIX_PROMETHEUSMETRICSENABLED: {{ .Values.calico.metrics.enabled }}
FELIX_PROMETHEUSMETRICSPORT: {{ .Values.calico.metrics.port }}
FELIX_USAGEREPORTINGENABLED: false
FELIX_XDPENABLED: false
{{- end }}
