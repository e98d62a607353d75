{{/* Labels of every object except pod templates: these labels change with the chart's version, and a changed pod template
     replaces its pods. Argument: list of root context, component, and additional labels. */}}
{{- define "cm.labels" -}}
{{- $root := index . 0 }}
{{- $ours := dict
  "app.kubernetes.io/name" $root.Chart.Name
  "app.kubernetes.io/instance" $root.Release.Name
  "app.kubernetes.io/version" $root.Chart.AppVersion
  "app.kubernetes.io/component" (index . 1)
  "app.kubernetes.io/part-of" "comment-monitoring"
  "app.kubernetes.io/managed-by" $root.Release.Service
  "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version) }}
{{- mergeOverwrite (dict) $root.Values.commonLabels (gt (len .) 2 | ternary (last .) dict) $ours | toYaml }}
{{- end }}

{{- define "cm.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* The name of a server's Secret: the existing Secret, or the Secret that this chart creates. */}}
{{- define "cm.postgresSecret" -}}
{{ .Values.postgres.existingSecret | default "orchestrator-db" }}
{{- end }}
{{- define "cm.redisSecret" -}}
{{ .Values.redis.existingSecret | default "orchestrator-redis" }}
{{- end }}
{{- define "cm.rabbitmqSecret" -}}
{{ .Values.rabbitmq.existingSecret | default "orchestrator-rabbitmq" }}
{{- end }}

{{/* Egress to the collector of traces. */}}
{{- define "cm.egressCollector" -}}
{{- if .Values.tracing.endpoint }}
{{- $collector := .Values.orchestrator.commentMonitoring.networkPolicy.collector }}
- ports:
    - {protocol: TCP, port: {{ $collector.port }}}
  {{- with $collector.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* "true" if objects of a kind of the Prometheus operator are created, else empty. Argument: list of root context and kind. */}}
{{- define "cm.operator" -}}
{{- $root := index . 0 }}
{{- $monitoring := $root.Values.monitoring.prometheus }}
{{- $known := $root.Capabilities.APIVersions.Has (print "monitoring.coreos.com/v1/" (index . 1)) }}
{{- if and $monitoring.enabled (or (eq (toString $monitoring.crds) "true") (and (eq (toString $monitoring.crds) "auto") $known)) }}true{{ end }}
{{- end }}

{{/* Egress to the DNS servers. */}}
{{- define "cm.egressDns" -}}
- to:
    {{- toYaml .Values.orchestrator.commentMonitoring.networkPolicy.dns | nindent 4 }}
  ports:
    {{- range .Values.orchestrator.commentMonitoring.networkPolicy.dnsPorts }}
    - {protocol: UDP, port: {{ . }}}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end }}

{{/* Egress to a server: this chart's pod, or the peers outside the chart. Argument: list of root context and the server's name. */}}
{{- define "cm.egressServer" -}}
{{- $root := index . 0 }}
{{- $name := index . 1 }}
{{- $inside := dict "postgres" 5432 "redis" 6379 "rabbitmq" 5672 }}
{{- $server := index $root.Values $name }}
{{- $outside := index $root.Values.orchestrator.commentMonitoring.networkPolicy $name }}
{{- if $server.enabled }}
- to:
    - podSelector:
        matchLabels:
          app: {{ $name }}
  ports:
    - {protocol: TCP, port: {{ index $inside $name }}}
{{- else if $server.existingSecret }}
- ports:
    - {protocol: TCP, port: {{ $outside.port | default (eq $name "rabbitmq" | ternary (include "cm.brokerPort" $root) (index $inside $name)) }}}
  {{- with $outside.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* RabbitMQ's default port, with or without TLS. */}}
{{- define "cm.brokerPort" -}}
{{ .Values.rabbitmq.tls | ternary 5671 5672 }}
{{- end }}

{{/* A quantity, such as 1.5Gi or 200m, as a number of bytes or cores. */}}
{{- define "cm.amount" -}}
{{- $units := dict "" 1 "m" 0.001 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 }}
{{- /* Helm reads a number in a values file as a float, and prints a large float with an exponent. */}}
{{- $quantity := . }}
{{- if kindIs "float64" . }}{{ $quantity = eq (floor .) . | ternary (int64 . | toString) (toString .) }}{{ else }}{{ $quantity = toString . }}{{ end }}
{{- mulf (regexFind "^[0-9.]+" $quantity | float64) (get $units (regexFind "[kKMGTim]*$" $quantity)) }}
{{- end }}
{{- define "cm.bytes" -}}
{{- include "cm.amount" . | float64 | int64 }}
{{- end }}

{{/* The address that the program listens on. `::` accepts IPv4 too. */}}
{{- define "cm.listen" -}}
{{- if .Values.network.listenAddress }}{{ .Values.network.listenAddress }}
{{- else if has "IPv6" .Values.network.ipFamilies }}::
{{- else if hasSuffix "DualStack" .Values.network.ipFamilyPolicy }}::
{{- else }}0.0.0.0{{ end }}
{{- end }}

{{/* The IP families of a Service. */}}
{{- define "cm.ipFamilies" -}}
{{- with .Values.network.ipFamilyPolicy }}
ipFamilyPolicy: {{ . }}
{{- end }}
{{- with .Values.network.ipFamilies }}
ipFamilies: {{ toJson . }}
{{- end }}
{{- end }}

{{/* The tests' curl command. It retries because NetworkPolicies may apply to a new pod only some seconds after its start. */}}
{{- define "cm.curl" -}}
curl --fail --silent --show-error --connect-timeout 3 --retry 30 --retry-connrefused --retry-delay 2
{{- end }}

{{/* Refuses an existingSecret that this release created: the upgrade would delete that Secret although the pods read it.
     Argument: list of root context, name of the Secret, name of the server. */}}
{{- define "cm.keepsSecret" -}}
{{- $root := index . 0 }}
{{- with index . 1 }}
{{- $found := lookup "v1" "Secret" $root.Release.Namespace . }}
{{- if and $found (eq (dig "metadata" "annotations" "meta.helm.sh/release-name" "" $found) $root.Release.Name) }}
{{- fail (printf "%s: this release created the Secret %s, and this upgrade would delete it; create a Secret of another name and set it in %s.existingSecret" (index $ 2) . (index $ 2)) }}
{{- end }}
{{- end }}
{{- end }}
