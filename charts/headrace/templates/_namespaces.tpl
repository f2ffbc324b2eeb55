{{/* The operator reads nothing in namespaces that it does not serve. */}}
{{- define "headrace.checkNamespaces" -}}
{{- $served := .Values.operator.watchNamespaces -}}
{{- if $served -}}
{{- $lists := dict "sharing.modelNamespaces" .Values.sharing.modelNamespaces "webhooks.secretNamespaces" .Values.webhooks.secretNamespaces -}}
{{- range $value, $names := $lists -}}
{{- range $names -}}
{{- if not (has . $served) -}}
{{- fail (printf "%s names %q, which operator.watchNamespaces does not: add it there, or take it out here" $value .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
