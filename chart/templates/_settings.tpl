{{/* The program's settings, as a map from variable to text. They are part of the pod templates, not of a ConfigMap: a pod of the
     previous release that restarts while an upgrade fails keeps the settings that it was created with. */}}
{{- define "cm.settings" -}}
{{- $monitoring := .Values.orchestrator.commentMonitoring }}
COMMENT_MONITORING_ENABLED: {{ $monitoring.enabled | quote }}
COMMENT_BATCH_SIZE: {{ $monitoring.batchSize | quote }}
COMMENT_DEDUP_CACHE_TTL: {{ $monitoring.dedupCacheTTL | quote }}
COMMENT_PROCESSING_TIMEOUT: {{ $monitoring.processingTimeout | quote }}
COMMENT_RATE_LIMIT_PER_MINUTE: {{ $monitoring.rateLimitPerMinute | quote }}
COMMENT_TRUSTED_PROXIES: {{ join "," $monitoring.trustedProxies | quote }}
COMMENT_MAX_RETRIES: {{ $monitoring.maxRetries | quote }}
COMMENT_BACKOFF_MULTIPLIER: {{ $monitoring.backoffMultiplier | quote }}
COMMENT_QUEUE_CAPACITY: {{ int64 $monitoring.queueCapacity | quote }}
COMMENT_RETENTION_DAYS: {{ $monitoring.retentionDays | quote }}
COMMENT_DRAIN_DELAY: {{ .Values.orchestrator.drainDelay | quote }}
LOG_LEVEL_FILE: /etc/comment-monitor/level
OTEL_EXPORTER_OTLP_ENDPOINT: {{ .Values.tracing.endpoint | quote }}
{{- if .Values.tracing.endpoint }}
OTEL_TRACES_SAMPLER: parentbased_traceidratio
OTEL_TRACES_SAMPLER_ARG: {{ .Values.tracing.sampleRatio | quote }}
{{- end }}
CELERY_TASK_EVENTS: {{ or .Values.celeryExporter.enabled .Values.worker.taskEvents | quote }}
{{- $bounds := .Files.Get "files/settings.json" | fromJson }}
{{- range $name, $value := $monitoring.settings }}
{{ $name }}: {{ include "cm.setting" (list $name $value (get $bounds $name)) | quote }}
{{- end }}
{{- end }}

{{/* An additional setting as text. Refuses a value with which the program would not start. Argument: list of name, value,
     bounds. */}}
{{- define "cm.setting" -}}
{{- $name := index . 0 }}
{{- $value := index . 1 }}
{{- $bounds := index . 2 }}
{{- $number := toString $value | float64 }}
{{- if kindIs "float64" $value }}
{{- /* Helm reads every number in a values file as a float, and prints a large float with an exponent. */}}
{{- $value = eq $bounds.type "integer" | ternary (int64 $value | toString) (toString $value) }}
{{- end }}
{{- if and (hasKey $bounds "maximum") (ne (toString $value) "") }}
{{- $low := hasKey $bounds "minimum" | ternary (ge $number (get $bounds "minimum" | default 0 | float64)) (gt $number (get $bounds "exclusiveMinimum" | default 0 | float64)) }}
{{- if not (and $low (le $number (float64 $bounds.maximum))) }}
{{- fail (printf "orchestrator.commentMonitoring.settings.%s: %s is not %s" $name (toString $value) $bounds.words) }}
{{- end }}
{{- end }}
{{- toString $value }}
{{- end }}

{{/* The address of PostgreSQL as environment variables: from one key of the Secret, or from the keys of its parts. */}}
{{- define "cm.postgresEnv" -}}
{{- $server := .Values.postgres }}
{{- $secret := include "cm.postgresSecret" . }}
{{- with $server.existingSecretKeys }}
{{- $port := not (empty .port) | ternary "$(POSTGRES_PORT)" "5432" }}
{{- $database := not (empty .database) | ternary "$(POSTGRES_DATABASE)" "comments" }}
{{- range $part := list "host" "port" "username" "database" }}
{{- with get $server.existingSecretKeys $part }}
- name: POSTGRES_{{ upper $part }}
  {{- include "cm.fromSecret" (list $secret .) | nindent 2 }}
{{- end }}
{{- end }}
# asyncpg and libpq read this password if the address has none, and it needs no quoting.
- name: PGPASSWORD
  {{- include "cm.fromSecret" (list $secret .password) | nindent 2 }}
- name: POSTGRES_DSN
  value: postgresql://$(POSTGRES_USERNAME)@$(POSTGRES_HOST):{{ $port }}/{{ $database }}{{ with $server.parameters }}?{{ . }}{{ end }}
{{- else }}
{{- if $server.parameters }}
{{- fail "postgres.parameters: they are only for an address made of postgres.existingSecretKeys; if the Secret holds the whole address, add them to it in the Secret" }}
{{- end }}
- name: POSTGRES_DSN
  {{- include "cm.fromSecret" (list $secret $server.existingSecretKey) | nindent 2 }}
{{- end }}
{{- end }}

{{/* The same for the broker. Argument: list of root context and the name of the variable. */}}
{{- define "cm.brokerEnv" -}}
{{- $server := (index . 0).Values.rabbitmq }}
{{- $secret := include "cm.rabbitmqSecret" (index . 0) }}
{{- with $server.existingSecretKeys }}
{{- $port := not (empty .port) | ternary "$(BROKER_PORT)" (include "cm.brokerPort" (index $ 0)) }}
{{- range $part := list "host" "port" "username" "password" }}
{{- with get $server.existingSecretKeys $part }}
- name: BROKER_{{ upper $part }}
  {{- include "cm.fromSecret" (list $secret .) | nindent 2 }}
{{- end }}
{{- end }}
- name: {{ index $ 1 }}
  value: {{ $server.tls | ternary "amqps" "amqp" }}://$(BROKER_USERNAME):$(BROKER_PASSWORD)@$(BROKER_HOST):{{ $port }}/{{ $server.vhost | default "/" }}
{{- else }}
{{- range $key := list "tls" "vhost" }}
{{- if get $server $key }}
{{- fail (printf "rabbitmq.%s: it is only for an address made of rabbitmq.existingSecretKeys; if the Secret holds the whole address, write amqps:// and /vhost in the Secret" $key) }}
{{- end }}
{{- end }}
- name: {{ index $ 1 }}
  {{- include "cm.fromSecret" (list $secret $server.existingSecretKey) | nindent 2 }}
{{- end }}
{{- end }}

{{/* The environment of celery-exporter. */}}
{{- define "cm.exporterEnvironment" -}}
{{ include "cm.brokerEnv" (list . "CE_BROKER_URL") }}
# Exported even while no worker announces this queue.
- {name: CE_QUEUES, value: comment-analysis}
# Otherwise each exception of the broker is logged with its variables, including the address and its password.
- {name: LOGURU_DIAGNOSE, value: "NO"}
# Without it, celery-exporter exits when the broker becomes unavailable.
- {name: CE_RETRY_INTERVAL, value: "5"}
{{- if eq (include "cm.listen" .) "::" }}
# Its server listens on IPv6 only with `::`, and on both families with `*`.
- {name: CE_HOST, value: "*"}
{{- end }}
{{- end }}

{{- define "cm.fromSecret" -}}
valueFrom:
  secretKeyRef:
    name: {{ index . 0 }}
    key: {{ index . 1 }}
{{- end }}

{{/* The environment of this program's containers. Arguments: root; own, the component's values; service: true for a long-running
     process, which exports traces. */}}
{{- define "cm.environment" -}}
{{- $root := .root }}
envFrom:
  - configMapRef:
      name: comment-monitoring-config
  {{- with concat $root.Values.extraEnvFrom (.own.extraEnvFrom | default list) }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
env:
  {{- include "cm.variables" (list (include "cm.ownEnvironment" .) (concat $root.Values.extraEnv (.own.extraEnv | default list))) | nindent 2 }}
{{- end }}

{{/* The chart's variables and the user's. A user's variable replaces the chart's of the same name, because a server-side apply
     (Helm 4) refuses duplicates. Argument: list of the chart's variables as YAML, and the user's. */}}
{{- define "cm.variables" -}}
{{- $names := list }}
{{- range index . 1 }}{{ $names = append $names .name }}{{ end }}
{{- $kept := list }}
{{- range index . 0 | fromYamlArray }}
{{- if not (has .name $names) }}{{ $kept = append $kept . }}{{ end }}
{{- end }}
{{- concat $kept (index . 1) | toYaml }}
{{- end }}

{{- define "cm.ownEnvironment" -}}
{{- $root := .root }}
{{- range $name, $value := include "cm.settings" $root | fromYaml }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{ include "cm.postgresEnv" $root }}
{{- if or $root.Values.redis.enabled $root.Values.redis.existingSecret }}
- name: REDIS_URL
  {{- include "cm.fromSecret" (list (include "cm.redisSecret" $root) $root.Values.redis.existingSecretKey) | nindent 2 }}
{{- end }}
{{ include "cm.brokerEnv" (list $root "CELERY_BROKER_URL") }}
{{- if and .service $root.Values.tracing.endpoint }}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: OTEL_RESOURCE_ATTRIBUTES
  value: k8s.namespace.name={{ $root.Release.Namespace }},k8s.pod.name=$(POD_NAME)
{{- with $root.Values.tracing.existingSecret }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  {{- include "cm.fromSecret" (list . $root.Values.tracing.existingSecretKey) | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}
