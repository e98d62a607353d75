{{/* Labels and annotations of a pod template: those of its selector, and those that somebody gave. None that changes with the
     chart's version. Arguments: root; app; own, the values of its part; annotations as YAML. */}}
{{- define "cm.podMetadata" -}}
{{- include "cm.checkLabels" (list .app .root.Values.commonLabels .root.Values.podLabels .own.podLabels) -}}
labels:
  {{- mergeOverwrite (dict) .root.Values.commonLabels .root.Values.podLabels (.own.podLabels | default dict) (dict "app" .app) | toYaml | nindent 2 }}
{{- with mergeOverwrite (dict) .root.Values.podAnnotations (.own.podAnnotations | default dict) (.annotations | default "" | fromYaml) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The label by which everything finds a pod is not somebody else's. Arguments: the pod's `app`, and maps of labels. */}}
{{- define "cm.checkLabels" -}}
{{- range rest . }}
{{- if hasKey (. | default dict) "app" }}
{{- fail (printf "commonLabels and podLabels: `app` is the label by which the chart finds its pods (here app=%s); choose another, such as app.example.org/name" (first $)) }}
{{- end }}
{{- end }}
{{- end }}

{{/* A pod of `helm test`. Arguments: root; name; weight. */}}
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
  # A pod that failed stays for its log.
  "helm.sh/hook-delete-policy": before-hook-creation,hook-succeeded
{{- end }}

{{/* The beginning of a pod's spec. Arguments: root; own, the values of its part; server: it is of another publisher's image,
     so it has a user and a service account of its own; token: it asks the Kubernetes API. */}}
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

{{/* Requests and limits; a request above its limit is refused here, and not by the API server in the middle of an upgrade.
     Argument: list of the path of the values and themselves. */}}
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

{{/* One pod a node, one zone after the other, as far as there are any; or as somebody says.
     Argument: list of the pods' `app` and the constraints given. */}}
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

{{/* A probe. Argument: list of what it asks and its times. */}}
{{- define "cm.probe" -}}
{{- mergeOverwrite (dict) (index . 1) (dict "httpGet" (index . 0)) | toYaml }}
{{- end }}

{{/* Where containers of ours may write, the level of their log, and what somebody mounts beside.
     Arguments: root; own; service: it follows the level while it runs. A subPath would not. */}}
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

{{/* What somebody mounts beside. Argument: a list of volumes. */}}
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

{{/* A change of what pods read makes new pods: of the data alone, for the labels around it change with each version. */}}
{{- define "cm.checksums" -}}
checksum/config: {{ include "cm.configData" . | sha256sum }}
checksum/secrets: {{ cat (include "cm.postgresSecretData" .) (include "cm.redisSecretData" .) (include "cm.rabbitmqSecretData" .) | sha256sum }}
{{- end }}
{{- define "cm.configData" -}}
LOG_LEVEL: {{ .Values.logLevel | quote }}
{{- end }}
