{{/* How many pods a Deployment is told to have. Where the number is an autoscaler's or a person's to set (autoscaling, or
     `replicas: null`), what runs is kept: leaving the number out would set it to 1 at the upgrade that first leaves it out.
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
{{- /* The autoscaler comes with this upgrade, and would never begin from none. */}}
{{- $count = max $count (int $values.autoscaling.minReplicas) }}
{{- end -}}
replicas: {{ $count }}
{{- end }}
{{- else if and $scaled (lookup "v1" "ConfigMap" $root.Release.Namespace "kube-root-ca.crt") -}}
{{- /* Every namespace has that ConfigMap. Without a cluster to ask (helm template, Argo CD) this may be no installation, and
       a number would take the autoscaler's away at each synchronisation. */ -}}
replicas: {{ $values.autoscaling.minReplicas }}
{{- end }}
{{- end }}
{{- end }}

{{/* Whether Helm has to name the number of pods that there is, for it not to be lost: always where it updates by patches
     (Helm 3); where it applies on the server's side, only while the field is Helm's alone. Said by another (an autoscaler,
     kubectl scale), it stays without being named, and would be a conflict once that one changes it. */}}
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

{{/* Argument: the values of an autoscaler, with the name of its part as `part`. */}}
{{- define "cm.replicaBounds" -}}
{{- if gt (int .minReplicas) (int .maxReplicas) }}
{{- fail (printf "%s.autoscaling: minReplicas %v is more than maxReplicas %v" .part .minReplicas .maxReplicas) }}
{{- end }}
{{- end }}
