{{/* Labels and annotations of a pod template: the selector's and the user's, and none that changes with the chart's version.
     Arguments: root; app; own, the component's values; annotations as YAML. */}}
{{- define "cm.podMetadata" -}}
{{- include "cm.checkLabels" (list .app .root.Values.commonLabels .root.Values.podLabels .own.podLabels) -}}
labels:
  {{- mergeOverwrite (dict) .root.Values.commonLabels .root.Values.podLabels (.own.podLabels | default dict) (dict "app" .app) | toYaml | nindent 2 }}
{{- with mergeOverwrite (dict) .root.Values.podAnnotations (.own.podAnnotations | default dict) (.annotations | default "" | fromYaml) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Refuses a user's label `app`, by which selectors find the pods. Argument: list of the pod's `app`, and maps of labels. */}}
{{- define "cm.checkLabels" -}}
{{- range rest . }}
{{- if hasKey (. | default dict) "app" }}
{{- fail (printf "commonLabels and podLabels: `app` is the label by which the chart finds its pods (here app=%s); choose another, such as app.example.org/name" (first $)) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The metadata of a `helm test` pod. Arguments: root; name; weight. */}}
{{- define "cm.testMetadata" -}}
{{- include "cm.checkLabels" (list "comment-monitoring-test" .root.Values.tests.podLabels) -}}
name: {{ .name }}
labels:
  {{- mergeOverwrite (dict) .root.Values.podLabels .root.Values.tests.podLabels (include "cm.labels" (list .root "test") | fromYaml) (dict "app" "comment-monitoring-test") | toYaml | nindent 2 }}
annotations:
  {{- with mergeOverwrite (dict) .root.Values.podAnnotations .root.Values.tests.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  "helm.sh/hook": test
  "helm.sh/hook-weight": {{ .weight | quote }}
  # A failed pod is kept for its log.
  "helm.sh/hook-delete-policy": before-hook-creation,hook-succeeded
{{- end }}

{{/* The first part of a pod's spec. Arguments: root; own, the component's values; server: true for a third-party image, which
     has its own user and the default service account; token: true if the pod calls the Kubernetes API. */}}
{{- define "cm.podSpec" -}}
{{- $root := .root }}
{{- $own := .own }}
{{- if not .server }}
serviceAccountName: {{ include "cm.serviceAccount" $root }}
{{- end }}
automountServiceAccountToken: {{ .token | default false }}
enableServiceLinks: false
securityContext:
  {{- ternary $own.podSecurityContext $root.Values.podSecurityContext (.server | default false) | default dict | toYaml | nindent 2 }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ if kindIs "string" . }}{{ . }}{{ else }}{{ .name }}{{ end }}
  {{- end }}
{{- end }}
{{- with $own.priorityClassName | default $root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $own.nodeSelector | default $root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations | default $root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.affinity | default $root.Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "cm.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary "comment-monitoring-sa" "default") }}
{{- end }}

{{- define "cm.containerSecurity" -}}
{{ .Values.securityContext | default dict | toYaml }}
{{- end }}

{{/* Requests and limits. A request above its limit fails here; the API server would refuse it in the middle of an upgrade.
     Argument: list of the path of the values, and the values. */}}
{{- define "cm.resources" -}}
{{- $path := index . 0 }}
{{- $resources := index . 1 | default dict }}
{{- range $kind := list "memory" "ephemeral-storage" "cpu" }}
{{- $request := dig "requests" $kind "" $resources }}
{{- $limit := dig "limits" $kind "" $resources }}
{{- if and (ne (toString $request) "") (ne (toString $limit) "") }}
{{- if gt (include "cm.amount" $request | float64) (include "cm.amount" $limit | float64) }}
{{- fail (printf "%s: the %s requested, %v, is more than its limit, %v" $path $kind $request $limit) }}
{{- end }}
{{- end }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{/* Spreads pods over nodes and zones where possible, or by the user's constraints.
     Argument: list of the pods' `app` and the user's constraints. */}}
{{- define "cm.spread" -}}
{{- $app := index . 0 }}
{{- if kindIs "invalid" (index . 1) }}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      app: {{ $app }}
{{- end }}
{{- else }}
{{- range index . 1 }}
{{- list (merge (dict) . (dict "labelSelector" (dict "matchLabels" (dict "app" $app)))) | toYaml | nindent 0 }}
{{- end }}
{{- end }}
{{- end }}

{{/* A probe. Argument: list of its httpGet and its timing. */}}
{{- define "cm.probe" -}}
{{- mergeOverwrite (dict) (index . 1) (dict "httpGet" (index . 0)) | toYaml }}
{{- end }}

{{/* The volume mounts of this program's containers: a writable folder, the log level, and the user's mounts.
     Arguments: root; own; service: true if the process follows the level while it runs. (A subPath mount is never updated.) */}}
{{- define "cm.mounts" -}}
- name: scratch
  mountPath: /tmp
{{- if .service }}
- name: log-level
  mountPath: /etc/comment-monitor
  readOnly: true
{{- end }}
{{- with concat .root.Values.extraVolumeMounts (.own.extraVolumeMounts | default list) }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- define "cm.volumes" -}}
- name: scratch
  emptyDir:
    sizeLimit: 256Mi
{{- if .service }}
- name: log-level
  configMap:
    name: comment-monitoring-log-level
{{- end }}
{{- include "cm.moreVolumes" (concat .root.Values.extraVolumes (.own.extraVolumes | default list)) }}
{{- end }}

{{/* The user's volumes. Argument: a list of volumes. */}}
{{- define "cm.moreVolumes" -}}
{{- range . }}
{{- if has .name (list "scratch" "log-level") }}
{{- fail (printf "extraVolumes: a volume %q is in the pod already; choose another name" .name) }}
{{- end }}
{{- end }}
{{- with . }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Checksums that replace pods when the data they read changes. Only the data is hashed: its object's labels change with each
     version. */}}
{{- define "cm.checksums" -}}
checksum/config: {{ include "cm.configData" . | sha256sum }}
checksum/secrets: {{ cat (include "cm.postgresSecretData" .) (include "cm.redisSecretData" .) (include "cm.rabbitmqSecretData" .) | sha256sum }}
{{- end }}
{{- define "cm.configData" -}}
LOG_LEVEL: {{ .Values.logLevel | quote }}
{{- end }}
