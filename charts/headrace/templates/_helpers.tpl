{{- define "headrace.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough for the longest suffix below and for a StatefulSet's pod names. */}}
{{- define "headrace.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Call with (list $ "component"). */}}
{{- define "headrace.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "headrace.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "headrace.labels" -}}
{{- $root := index . 0 -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "headrace.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: headrace
{{- end -}}

{{- define "headrace.operatorServiceAccount" -}}
{{- default (printf "%s-operator" (include "headrace.fullname" .)) .Values.operator.serviceAccount.name -}}
{{- end -}}

{{- define "headrace.keysNamespace" -}}
{{- default (printf "%s-keys" .Release.Namespace | trunc 63) .Values.facade.apiKeys.namespace -}}
{{- end -}}

{{- define "headrace.operatorUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "headrace.operatorServiceAccount" . }}
{{- end -}}

{{- define "headrace.operatorImage" -}}
{{- default (printf "ghcr.io/headrace/headrace-operator:%s" .Chart.AppVersion) .Values.images.operator -}}
{{- end -}}

{{- define "headrace.runnerImage" -}}
{{- default (printf "ghcr.io/headrace/headrace-runner:%s" .Chart.AppVersion) .Values.images.runner -}}
{{- end -}}

{{/* As an LLMQuota's spec; numbers that Helm reads from a file are floats. */}}
{{- define "headrace.defaultQuota" -}}
{{- $spec := dict -}}
{{- range $member, $value := .Values.quota.default -}}
{{- if ne $value nil -}}
{{- $_ := set $spec $member (kindIs "bool" $value | ternary $value (int64 $value)) -}}
{{- end -}}
{{- end -}}
{{- toJson $spec -}}
{{- end -}}

{{/* As the operator reads it; numbers that Helm reads from a file are floats. */}}
{{- define "headrace.weights" -}}
{{- $weights := deepCopy .Values.weights -}}
{{- $_ := set $weights "bandwidthBytesPerSecond" (int64 $weights.bandwidthBytesPerSecond) -}}
{{- $_ := set $weights "parallel" (int64 $weights.parallel) -}}
{{- $_ := set $weights "cache" (dict "nodeDirectory" (default "" $weights.cache.nodeDirectory) "limitBytes" (int64 $weights.cache.limitBytes)) -}}
{{- range $member := list "allowedHosts" "hostPaths" -}}
{{- $_ := set $weights $member (default list (index $weights $member)) -}}
{{- end -}}
{{- $_ := set $weights "resources" (default dict $weights.resources) -}}
{{- toJson $weights -}}
{{- end -}}

{{/* Names, comma-separated, as the operator reads them. */}}
{{- define "headrace.runnerPullSecrets" -}}
{{- $names := list -}}
{{- range .Values.runner.pullSecrets -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- join "," $names -}}
{{- end -}}

{{/* Environment of operator and facade; the operator passes it on to runners, but for the headers. */}}
{{- define "headrace.tracingEnv" -}}
{{- with .Values.tracing.endpoint -}}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ . | quote }}}
- {name: OTEL_TRACES_SAMPLER, value: parentbased_traceidratio}
- {name: OTEL_TRACES_SAMPLER_ARG, value: {{ $.Values.tracing.samplingRatio | quote }}}
{{- with $.Values.tracing.headersSecret }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom: {secretKeyRef: {name: {{ . }}, key: headers, optional: true}}
{{- end }}
{{- end -}}
{{- end -}}

{{/* Where a pod may run. Call with (list $ .Values.<part>). */}}
{{- define "headrace.placement" -}}
{{- $root := index . 0 -}}
{{- $part := index . 1 -}}
{{- with $root.Values.images.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $part.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "headrace.podMetadata" -}}
{{- $part := index . 2 -}}
labels:
  {{- with $part.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- include "headrace.labels" (list (index . 0) (index . 1)) | nindent 2 }}
{{- end -}}

{{- define "headrace.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "headrace.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Call with (list $ "component" .Values.<part>). */}}
{{- define "headrace.podDisruptionBudget" -}}
{{- $root := index . 0 -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "headrace.fullname" $root }}-{{ index . 1 }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "headrace.labels" (list $root (index . 1)) | nindent 4 }}
spec:
  maxUnavailable: {{ (index . 2).podDisruptionBudget.maxUnavailable }}
  selector:
    matchLabels: {{- include "headrace.selectorLabels" (list $root (index . 1)) | nindent 6 }}
{{- end -}}
