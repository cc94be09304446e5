{{/*
What the programs may do: the one place to change it. No rule names Secrets: the kubelet mounts what
is needed. "traffic" and "workloads" hold in every watched namespace, "cluster" on the cluster, and
"own" in the release's namespace.
*/}}

{{- define "sluice.operator.rules.workloads" -}}
- apiGroups: [sluice.dev]
  resources: [modeldeployments]
  verbs: [get, list, watch]
- apiGroups: [sluice.dev]
  resources: [modeldeployments/status]
  verbs: [get, update, patch]
- apiGroups: [apps]
  resources: [controllerrevisions]
  verbs: [get, list, watch, create, update, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [gateway.networking.k8s.io]
  resources: [gateways]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{- define "sluice.operator.rules.cluster" -}}
- apiGroups: [sluice.dev]
  resources: [metricsources]
  verbs: [get, list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [gatewayclasses]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get, list, watch]
{{- /* Server-side apply names the object when it creates, so a name can bound even that. */}}
{{- if .Values.metricSource.url }}
- apiGroups: [sluice.dev]
  resources: [metricsources]
  resourceNames: [default]
  verbs: [create, patch]
{{- end }}
{{- if .Values.router.enabled }}
- apiGroups: [gateway.networking.k8s.io]
  resources: [gatewayclasses]
  resourceNames: [sluice]
  verbs: [create, patch]
{{- end }}
{{- end }}

{{- define "sluice.operator.rules.own" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [sluice-operator]
  verbs: [get, update, patch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [gateways]
  verbs: [get, list, watch]
{{- if .Values.gateway.create }}
- apiGroups: [gateway.networking.k8s.io]
  resources: [gateways]
  resourceNames: [{{ .Values.gateway.name }}]
  verbs: [create, patch]
{{- end }}
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [pods, services]
  verbs: [get, list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{- define "sluice.router.rules.traffic" -}}
- apiGroups: [gateway.networking.k8s.io]
  resources: [gateways, httproutes]
  verbs: [get, list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [gateways/status, httproutes/status]
  verbs: [get, update, patch]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
{{- end }}

{{- define "sluice.router.rules.cluster" -}}
- apiGroups: [gateway.networking.k8s.io]
  resources: [gatewayclasses]
  verbs: [get, list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [gatewayclasses/status]
  verbs: [get, update, patch]
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get, list, watch]
{{- /* Whose token it is that reads the stream and tells of trips. */}}
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
{{- end }}

{{- define "sluice.router.rules.own" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [sluice-router-status]
  verbs: [get, update, patch]
{{- end }}

{{/*
Roles and bindings of one program; the argument is a dict of root, component, watched (the rules of
watched namespaces), cluster, own, and namespaces (empty: all).
*/}}
{{- define "sluice.rbac" -}}
{{- $root := .root }}
{{- $component := .component }}
{{- $labels := include "sluice.labels" (dict "root" $root "component" $component) }}
{{- $subject := printf "- kind: ServiceAccount\n  name: %s\n  namespace: %s" $component $root.Release.Namespace }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $component }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- $labels | nindent 4 }}
automountServiceAccountToken: false
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ $component }}
  labels:
    {{- $labels | nindent 4 }}
rules:
  {{- .cluster | nindent 2 }}
  {{- if not .namespaces }}
  {{- .watched | nindent 2 }}
  {{- end }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ $component }}
  labels:
    {{- $labels | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ $component }}
subjects:
  {{- $subject | nindent 2 }}
{{- $roles := list (dict "namespace" $root.Release.Namespace "name" (printf "%s-own" $component) "rules" .own) }}
{{- range .namespaces }}
{{- $roles = append $roles (dict "namespace" . "name" $component "rules" $.watched) }}
{{- end }}
{{- range $roles }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ .name }}
  namespace: {{ .namespace }}
  labels:
    {{- $labels | nindent 4 }}
rules:
  {{- .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ .name }}
  namespace: {{ .namespace }}
  labels:
    {{- $labels | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ .name }}
subjects:
  {{- $subject | nindent 2 }}
{{- end }}
{{- end }}
