{{/* Where a server of this chart keeps its data. `claim`: on a volume of its own. `pod`: in its pod, because its `storage` is
     empty. `kept`: in its pod, because it was made so by a release before volumes were the default; what it holds would be
     lost with the pod, and so no upgrade replaces that pod. Argument: list of root context, name, values. */}}
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

{{/* Kubernetes refuses another claim for a StatefulSet that is there, in the middle of the upgrade; so it is refused here, before
     anything changes. Arguments as above. */}}
{{- define "cm.claimFits" -}}
{{- $root := index . 0 }}
{{- $name := index . 1 }}
{{- $values := index . 2 }}
{{- with dig "spec" "volumeClaimTemplates" list (lookup "apps/v1" "StatefulSet" $root.Release.Namespace $name) }}
{{- $there := (first .).spec }}
{{- $size := dig "resources" "requests" "storage" "" $there }}
{{- if ne $values.storage $size }}
{{- fail (printf "%s.storage: %q is not the size of the claim that is there, %s, and Kubernetes takes no other: give that one (kubectl edit pvc data-%s-0 makes the volume itself larger)" $name $values.storage $size $name) }}
{{- end }}
{{- $class := dig "storageClassName" "" $there }}
{{- if ne $values.storageClassName $class }}
{{- fail (printf "%s.storageClassName: %q is not that of the claim that is there, %q, and Kubernetes takes no other" $name $values.storageClassName $class) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The volume of the data, in a pod or claimed. Arguments as above. */}}
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
# Its data is in the pod, so no change is for that pod (number 0): see the notes of this release.
updateStrategy:
  type: RollingUpdate
  rollingUpdate:
    partition: 1
{{- end }}
{{- end }}

{{/* What the servers' Secrets and the ConfigMap hold, and its digests. */}}
{{- define "cm.postgresSecretData" -}}
{{- if and .Values.postgres.enabled (not .Values.postgres.existingSecret) }}
{{ .Values.postgres.existingSecretKey }}: postgresql://comments:{{ .Values.postgres.password }}@postgres:5432/comments
POSTGRES_PASSWORD: {{ required "postgres.password is needed where postgres.enabled and no postgres.existingSecret" .Values.postgres.password | quote }}
{{- end }}
{{- end }}
{{- define "cm.redisSecretData" -}}
{{- if and .Values.redis.enabled (not .Values.redis.existingSecret) }}
{{ .Values.redis.existingSecretKey }}: redis://:{{ .Values.redis.password }}@redis:6379/0
REDIS_PASSWORD: {{ required "redis.password is needed where redis.enabled and no redis.existingSecret" .Values.redis.password | quote }}
{{- end }}
{{- end }}
{{- define "cm.rabbitmqSecretData" -}}
{{- if and .Values.rabbitmq.enabled (not .Values.rabbitmq.existingSecret) }}
# With its namespace: KEDA looks into the queue from its own.
{{ .Values.rabbitmq.existingSecretKey }}: amqp://comments:{{ .Values.rabbitmq.password }}@rabbitmq.{{ .Release.Namespace }}.svc:5672//
RABBITMQ_PASSWORD: {{ required "rabbitmq.password is needed where rabbitmq.enabled and no rabbitmq.existingSecret" .Values.rabbitmq.password | quote }}
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
