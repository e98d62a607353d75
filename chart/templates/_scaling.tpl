{{/* The field `replicas` of a Deployment. If an autoscaler or an operator sets the number (autoscaling, or `replicas: null`),
     the current number is kept: omitting the field would set it to 1 in the first upgrade that omits it.
     Argument: list of root context, name, values. */}}
{{- define "cm.replicas" -}}
{{- $root := index . 0 }}
{{- $name := index . 1 }}
{{- $values := index . 2 }}
{{- $scaled := $values.autoscaling.enabled }}
{{- if and (not $scaled) (not (kindIs "invalid" $values.replicas)) -}}
replicas: {{ $values.replicas }}
{{- else }}
{{- $live := lookup "apps/v1" "Deployment" $root.Release.Namespace $name }}
{{- if $live }}
{{- if eq (include "cm.ownsReplicas" $live) "true" }}
{{- $count := dig "spec" "replicas" 1 $live | int }}
{{- if and $scaled (not (lookup "autoscaling/v2" "HorizontalPodAutoscaler" $root.Release.Namespace $name)) }}
{{- /* This upgrade creates the autoscaler, which never scales up from zero pods. */}}
{{- $count = max $count (int $values.autoscaling.minReplicas) }}
{{- end -}}
replicas: {{ $count }}
{{- end }}
{{- else if and $scaled (lookup "v1" "ConfigMap" $root.Release.Namespace "kube-root-ca.crt") -}}
{{- /* Every namespace has that ConfigMap: its lookup shows that a cluster answers. Without a cluster (helm template, Argo CD)
       this may not be an installation, and a number would override the autoscaler's at each synchronisation. */ -}}
replicas: {{ $values.autoscaling.minReplicas }}
{{- end }}
{{- end }}
{{- end }}

{{/* Whether Helm must set `replicas` to keep the current number. If Helm updates by patches (Helm 3): always. With server-side
     apply: only while Helm alone owns the field. If another manager (an autoscaler, kubectl scale) owns the field, its value
     persists without Helm, and setting it would conflict once that manager changes it. */}}
{{- define "cm.ownsReplicas" -}}
{{- $applied := false }}
{{- $ours := false }}
{{- $others := false }}
{{- range dig "metadata" "managedFields" list . }}
{{- $spec := dig "fieldsV1" "f:spec" dict . }}
{{- $owns := hasKey $spec "f:replicas" }}
{{- if and (eq .operation "Apply") (hasKey $spec "f:template") }}
{{- $applied = true }}
{{- $ours = or $ours $owns }}
{{- else if $owns }}
{{- $others = true }}
{{- end }}
{{- end }}
{{- or (not $applied) (and $ours (not $others)) }}
{{- end }}

{{/* Scales up fast and down slowly. Argument: the values of an autoscaler. */}}
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

{{/* Refuses minReplicas above maxReplicas. Argument: the values of an autoscaler, with the component's name as `part`. */}}
{{- define "cm.replicaBounds" -}}
{{- if gt (int .minReplicas) (int .maxReplicas) }}
{{- fail (printf "%s.autoscaling: minReplicas %v is more than maxReplicas %v" .part .minReplicas .maxReplicas) }}
{{- end }}
{{- end }}
