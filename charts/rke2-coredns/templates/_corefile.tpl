{{- define "coredns.corefile" -}}
{{- if .Values.servers -}}
{{ include "coredns.corefile.servers" . }}
{{- else -}}
{{ include "coredns.corefile.default" . }}
{{- end -}}
{{- end }}

{{- define "coredns.corefile.default" -}}
.:53 {
    errors
    health {
        lameduck 5s
    }
    ready
    kubernetes {{ include "coredns.domain" . }} in-addr.arpa ip6.arpa {
        pods insecure
        ttl 30
        fallthrough in-addr.arpa ip6.arpa
    }
{{- if .Values.nodeHosts.enabled }}
    hosts /etc/coredns-nodes/NodeHosts {
        ttl {{ .Values.nodeHosts.ttl }}
        reload 15s
        fallthrough
    }
{{- end }}
    prometheus :9153
{{- if .Values.forward.enabled }}
    forward . {{ join " " .Values.forward.to }}
{{- with .Values.forward.options }} {
{{- range . }}
        {{ . }}
{{- end }}
    }
{{- end }}
{{- else }}
    file /etc/coredns/nothing.db .
{{- end }}
    cache {{ .Values.cacheSeconds }}
    loop
    reload
    loadbalance
{{- with .Values.extraPlugins }}
{{ . | trim | indent 4 }}
{{- end }}
}
{{- range $zone, $servers := .Values.stubDomains }}
{{ $zone }}:53 {
    errors
    cache {{ $.Values.cacheSeconds }}
    forward . {{ join " " $servers }}
}
{{- end }}
{{- end }}

{{- define "coredns.corefile.servers" -}}
{{- range .Values.servers }}
{{- $port := .port | default 53 }}
{{- range $i, $zone := .zones | default (list (dict "zone" ".")) }}{{ if $i }} {{ end }}{{ .scheme | default "" }}{{ .zone }}:{{ $port }}{{ end }} {
{{- range .plugins }}
    {{ .name }}{{ with .parameters }} {{ tpl (toString .) $ | trim }}{{ end }}
{{- with .configBlock }} {
{{ tpl . $ | trim | indent 8 }}
    }
{{- end }}
{{- end }}
}
{{ end }}
{{- end }}

{{- /* The files beside the Corefile, Corefile included: what a server's configuration is. */ -}}
{{- define "coredns.files" -}}
Corefile: |
  {{- include "coredns.corefile" . | trim | nindent 2 }}
{{- if and (not .Values.servers) (not .Values.forward.enabled) }}
nothing.db: |
  . 60 IN SOA . . 1 3600 600 86400 60
  . 60 IN NS .
{{- end }}
{{- range $name, $text := .Values.zoneFiles }}
{{ $name }}: {{ toJson $text }}
{{- end }}
{{- end }}
