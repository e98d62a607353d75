{{/* Labels of every object. */}}
{{- define "cm.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "cm.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* What the standard "restricted" asks of a pod. The user is the image's. */}}
{{- define "cm.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "cm.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The Secret of a server: the one that is named, or the one that this chart makes for its own. */}}
{{- define "cm.postgresSecret" -}}
{{ .Values.postgres.existingSecret | default "orchestrator-db" }}
{{- end }}
{{- define "cm.redisSecret" -}}
{{ .Values.redis.existingSecret | default "orchestrator-redis" }}
{{- end }}
{{- define "cm.rabbitmqSecret" -}}
{{ .Values.rabbitmq.existingSecret | default "orchestrator-rabbitmq" }}
{{- end }}

{{/* What every container of ours has: its settings, and the servers' addresses. */}}
{{- define "cm.environment" -}}
envFrom:
  - configMapRef:
      name: comment-monitoring-config
env:
  - name: POSTGRES_DSN
    valueFrom:
      secretKeyRef:
        name: {{ include "cm.postgresSecret" . }}
        key: {{ .Values.postgres.existingSecretKey }}
  {{- if or .Values.redis.enabled .Values.redis.existingSecret }}
  - name: REDIS_URL
    valueFrom:
      secretKeyRef:
        name: {{ include "cm.redisSecret" . }}
        key: {{ .Values.redis.existingSecretKey }}
  {{- end }}
  - name: CELERY_BROKER_URL
    valueFrom:
      secretKeyRef:
        name: {{ include "cm.rabbitmqSecret" . }}
        key: {{ .Values.rabbitmq.existingSecretKey }}
{{- end }}

{{/* The same for what runs on and on: also where its traces go, and under which name. */}}
{{- define "cm.serviceEnvironment" -}}
{{ include "cm.environment" . }}
  {{- if .Values.tracing.endpoint }}
  - name: POD_NAME
    valueFrom:
      fieldRef:
        fieldPath: metadata.name
  - name: OTEL_RESOURCE_ATTRIBUTES
    value: k8s.namespace.name={{ .Release.Namespace }},k8s.pod.name=$(POD_NAME)
  {{- with .Values.tracing.existingSecret }}
  - name: OTEL_EXPORTER_OTLP_HEADERS
    valueFrom:
      secretKeyRef:
        name: {{ . }}
        key: {{ $.Values.tracing.existingSecretKey }}
  {{- end }}
  {{- end }}
{{- end }}

{{/* The level as a file, which follows its ConfigMap while the pod runs. A subPath would not. */}}
{{- define "cm.logLevelMount" -}}
- name: log-level
  mountPath: /etc/comment-monitor
  readOnly: true
{{- end }}
{{- define "cm.logLevelVolume" -}}
- name: log-level
  configMap:
    name: comment-monitoring-log-level
{{- end }}

{{/* To where the traces go. */}}
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

{{/* A change of settings or of this chart's own Secrets makes new pods. */}}
{{- define "cm.checksums" -}}
checksum/config: {{ include (print .Template.BasePath "/configmap.yaml") . | sha256sum }}
checksum/secrets: {{ cat (include (print .Template.BasePath "/postgres-secret.yaml") .) (include (print .Template.BasePath "/redis-secret.yaml") .) (include (print .Template.BasePath "/rabbitmq-secret.yaml") .) | sha256sum }}
{{- end }}

{{/* The only place where our containers may write. */}}
{{- define "cm.scratchMount" -}}
- name: scratch
  mountPath: /tmp
{{- end }}
{{- define "cm.scratchVolume" -}}
- name: scratch
  emptyDir:
    sizeLimit: 256Mi
{{- end }}

{{/* One pod a node, one zone after the other, as far as there are any. Argument: the pods' `app`. */}}
{{- define "cm.spread" -}}
{{- $app := . }}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      app: {{ $app }}
{{- end }}
{{- end }}

{{- define "cm.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Whether the objects of a kind of the Prometheus operator are to be made. Argument: list of root context and kind. */}}
{{- define "cm.operator" -}}
{{- $root := index . 0 }}
{{- $monitoring := $root.Values.monitoring.prometheus }}
{{- $known := $root.Capabilities.APIVersions.Has (print "monitoring.coreos.com/v1/" (index . 1)) }}
{{- if and $monitoring.enabled (or (eq (toString $monitoring.crds) "true") (and (eq (toString $monitoring.crds) "auto") $known)) }}true{{ end }}
{{- end }}

{{/* Egress to where names are resolved. */}}
{{- define "cm.egressDns" -}}
- to:
    {{- toYaml .Values.orchestrator.commentMonitoring.networkPolicy.dns | nindent 4 }}
  ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end }}

{{/* Egress to a server: the pod of this chart, or the peers outside. Argument: list of root context and its name. */}}
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
    - {protocol: TCP, port: {{ $outside.port }}}
  {{- with $outside.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Fast up, slowly down. */}}
{{- define "cm.behavior" -}}
scaleUp:
  stabilizationWindowSeconds: {{ .scaleUpStabilization }}
  selectPolicy: Max
  policies:
    - {type: Percent, value: 100, periodSeconds: 15}
    - {type: Pods, value: 4, periodSeconds: 15}
scaleDown:
  stabilizationWindowSeconds: {{ .scaleDownStabilization }}
  selectPolicy: Max
  policies:
    - {type: Percent, value: 25, periodSeconds: 60}
    - {type: Pods, value: 1, periodSeconds: 60}
{{- end }}

{{/* A quantity of memory, such as 1.5Gi, in bytes. */}}
{{- define "cm.bytes" -}}
{{- $units := dict "" 1 "k" 1000 "K" 1000 "M" 1000000 "G" 1000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 }}
{{- /* A number in a values file is a float: written out, a large one would have an exponent. */}}
{{- $quantity := kindIs "string" . | ternary . (int64 . | toString) }}
{{- mulf (regexFind "^[0-9.]+" $quantity | float64) (index $units (regexFind "[kKMGi]*$" $quantity)) | int64 }}
{{- end }}

{{/* The volume of a server of this chart. Argument: its values. */}}
{{- define "cm.claim" -}}
{{- if .storage -}}
volumeClaimTemplates:
  - metadata:
      name: data
    spec:
      accessModes: [ReadWriteOnce]
      {{- with .storageClassName }}
      storageClassName: {{ . }}
      {{- end }}
      resources:
        requests:
          storage: {{ .storage }}
{{- end }}
{{- end }}

{{/* How a test asks: the NetworkPolicies may know a new pod some seconds after its start only. */}}
{{- define "cm.curl" -}}
curl --fail --silent --show-error --connect-timeout 3 --retry 30 --retry-connrefused --retry-delay 2
{{- end }}

{{/* A Secret that this release made goes with the upgrade that no longer makes it, though its pods are told to read it.
     Arguments: list of root context, name of the Secret, name of the server. */}}
{{- define "cm.keepsSecret" -}}
{{- $root := index . 0 }}
{{- with index . 1 }}
{{- $found := lookup "v1" "Secret" $root.Release.Namespace . }}
{{- if and $found (eq (dig "metadata" "annotations" "meta.helm.sh/release-name" "" $found) $root.Release.Name) }}
{{- fail (printf "%s: the Secret %s is this release's own and would be removed by this upgrade; make one of another name and give it in %s.existingSecret" (index $ 2) . (index $ 2)) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Argument: the values of an autoscaler, with the name of its part as `part`. */}}
{{- define "cm.replicaBounds" -}}
{{- if gt (int .minReplicas) (int .maxReplicas) }}
{{- fail (printf "%s.autoscaling: minReplicas %v is more than maxReplicas %v" .part .minReplicas .maxReplicas) }}
{{- end }}
{{- end }}
