{{/* Where a server of this chart keeps its data. `claim`: on its own volume. `pod`: in its pod, because its `storage` is empty.
     `kept`: in its pod, because a release from before volumes were the default created it so. The data would be lost with
     the pod, so no upgrade replaces that pod. Argument: list of root context, name, values. */}}
{{- define "cm.storage" -}}
{{- $root := index . 0 }}
{{- if not (index . 2).storage }}pod
{{- else }}
{{- $live := lookup "apps/v1" "StatefulSet" $root.Release.Namespace (index . 1) }}
{{- if $live }}
{{- dig "spec" "volumeClaimTemplates" list $live | empty | ternary "kept" "claim" }}
{{- else }}claim
{{- end }}
{{- end }}
{{- end }}

{{/* Refuses a changed claim of an existing StatefulSet before anything changes; Kubernetes would refuse it in the middle of the
     upgrade. Argument as above. */}}
{{- define "cm.claimFits" -}}
{{- $root := index . 0 }}
{{- $name := index . 1 }}
{{- $values := index . 2 }}
{{- with dig "spec" "volumeClaimTemplates" list (lookup "apps/v1" "StatefulSet" $root.Release.Namespace $name) }}
{{- $there := (first .).spec }}
{{- $size := dig "resources" "requests" "storage" "" $there }}
{{- if ne $values.storage $size }}
{{- fail (printf "%s.storage: %q is not the size of the existing claim, %s, which Kubernetes does not allow to change: set that size (kubectl edit pvc data-%s-0 makes the volume itself larger)" $name $values.storage $size $name) }}
{{- end }}
{{- $class := dig "storageClassName" "" $there }}
{{- if ne $values.storageClassName $class }}
{{- fail (printf "%s.storageClassName: %q is not that of the existing claim, %q, which Kubernetes does not allow to change" $name $values.storageClassName $class) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The data volume: in the pod (cm.dataVolume) or claimed (cm.claim). Argument as above. */}}
{{- define "cm.dataVolume" -}}
{{- if ne (include "cm.storage" .) "claim" }}
- name: data
  emptyDir: {}
{{- end }}
{{- end }}
{{- define "cm.claim" -}}
{{- $values := index . 2 }}
{{- if eq (include "cm.storage" .) "claim" -}}
volumeClaimTemplates:
  - metadata:
      name: data
    spec:
      accessModes: [ReadWriteOnce]
      {{- with $values.storageClassName }}
      storageClassName: {{ . }}
      {{- end }}
      resources:
        requests:
          storage: {{ $values.storage }}
{{- end }}
{{- end }}
{{- define "cm.updateStrategy" -}}
{{- if eq (include "cm.storage" .) "kept" -}}
# The data is in the pod, so no update may replace that pod (number 0): see the notes of this release.
updateStrategy:
  type: RollingUpdate
  rollingUpdate:
    partition: 1
{{- end }}
{{- end }}

{{/* The data of the servers' Secrets and of RabbitMQ's ConfigMap, and its checksums. The checksums cover the comments in the data:
     rewording one restarts a server. */}}
{{- define "cm.postgresSecretData" -}}
{{- if and .Values.postgres.enabled (not .Values.postgres.existingSecret) }}
{{ .Values.postgres.existingSecretKey }}: postgresql://comments:{{ .Values.postgres.password }}@postgres:5432/comments
POSTGRES_PASSWORD: {{ required "postgres.password is needed if postgres.enabled is true and postgres.existingSecret is empty" .Values.postgres.password | quote }}
{{- end }}
{{- end }}
{{- define "cm.redisSecretData" -}}
{{- if and .Values.redis.enabled (not .Values.redis.existingSecret) }}
{{ .Values.redis.existingSecretKey }}: redis://:{{ .Values.redis.password }}@redis:6379/0
REDIS_PASSWORD: {{ required "redis.password is needed if redis.enabled is true and redis.existingSecret is empty" .Values.redis.password | quote }}
{{- end }}
{{- end }}
{{- define "cm.rabbitmqSecretData" -}}
{{- if and .Values.rabbitmq.enabled (not .Values.rabbitmq.existingSecret) }}
# With its namespace: KEDA looks into the queue from its own.
{{ .Values.rabbitmq.existingSecretKey }}: amqp://comments:{{ .Values.rabbitmq.password }}@rabbitmq.{{ .Release.Namespace }}.svc:5672//
RABBITMQ_PASSWORD: {{ required "rabbitmq.password is needed if rabbitmq.enabled is true and rabbitmq.existingSecret is empty" .Values.rabbitmq.password | quote }}
{{- end }}
{{- end }}
{{- define "cm.rabbitmqConfigData" -}}
# It takes the node's memory for its own otherwise, and is killed at its limit instead of slowing its senders down.
memory.conf: |
  {{- with dig "limits" "memory" "" .Values.rabbitmq.resources }}
  total_memory_available_override_value = {{ include "cm.bytes" . }}
  {{- end }}
  vm_memory_high_watermark.relative = 0.5
{{- if .Values.celeryExporter.enabled }}
# celery-exporter hears of events by a queue that is neither durable nor its own, which RabbitMQ 4.3 refuses unasked.
# In this form, because versions before 3.13 pass over it; in the other they would not start.
advanced.config: |
  [{rabbit, [{permit_deprecated_features, #{transient_nonexcl_queues => true}}]}].
{{- end }}
# For Prometheus, on port 15692.
enabled_plugins: |
  [rabbitmq_prometheus].
{{- end }}
{{- define "cm.postgresChecksums" -}}
checksum/secret: {{ include "cm.postgresSecretData" . | sha256sum }}
{{- end }}
{{- define "cm.redisChecksums" -}}
checksum/secret: {{ include "cm.redisSecretData" . | sha256sum }}
{{- end }}
{{- define "cm.rabbitmqChecksums" -}}
checksum/secret: {{ include "cm.rabbitmqSecretData" . | sha256sum }}
checksum/config: {{ include "cm.rabbitmqConfigData" . | sha256sum }}
{{- end }}
{{- define "cm.celery-exporterChecksums" -}}
checksum/secret: {{ include "cm.rabbitmqSecretData" . | sha256sum }}
{{- end }}
