{{- /* SPDX-License-Identifier: BSD-3-Clause */ -}}

{{- define "sealroom.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "sealroom.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "sealroom.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "sealroom.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* Selectors: never change these, or an upgrade has to delete what runs. Argument: dict root, component. */ -}}
{{- define "sealroom.selector" -}}
app.kubernetes.io/name: {{ include "sealroom.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "sealroom.labels" -}}
{{ include "sealroom.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: sealroom
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "sealroom.meta" -}}
name: {{ include "sealroom.fullname" .root }}-{{ .name | default .component }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "sealroom.labels" . | nindent 2 }}
{{- end -}}

{{- /* Labels that the spawner puts on every notebook server, and that policies select by. */ -}}
{{- define "sealroom.notebookSelector" -}}
sealroom/release: {{ .Release.Name }}
sealroom/role: notebook
{{- end -}}

{{- /* An image by digest, or by tag where that is allowed. Argument: dict root, image, where. */ -}}
{{- define "sealroom.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else if .root.Values.images.digestsOnly -}}
{{- fail (printf "images.digestsOnly: %s.digest is missing (sha256:…)" .where) -}}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "sealroom.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "sealroom.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: { drop: [ALL] }
{{- end -}}

{{- /* What decides where a pod runs. Argument: dict root, pod (the component's values), component. */ -}}
{{- define "sealroom.scheduling" -}}
{{- with .pod.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- if or .pod.priorityClassName .root.Values.priorityClasses.create }}
priorityClassName: {{ .pod.priorityClassName | default (printf "%s-core" (include "sealroom.fullname" .root)) }}
{{- end }}
{{- with .pod.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .pod.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range .pod.topologySpreadConstraints }}
  - labelSelector:
      matchLabels:
        {{- include "sealroom.selector" $ | nindent 8 }}
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- /* Of pods. No version among the labels: a new chart must not restart a pod that is as before. */ -}}
{{- define "sealroom.podMeta" -}}
labels:
  {{- include "sealroom.selector" . | nindent 2 }}
  app.kubernetes.io/part-of: sealroom
  {{- with .pod.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .pod.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "sealroom.secretName" -}}
{{ .Values.secrets.existingSecret | default (printf "%s-hub" (include "sealroom.fullname" .)) }}
{{- end -}}

{{- define "sealroom.environmentsConfigMap" -}}
{{- if .Values.environments.existingConfigMap -}}
{{ .Values.environments.existingConfigMap }}
{{- else -}}
{{ include "sealroom.fullname" . }}-environments
{{- end -}}
{{- end -}}

{{- define "sealroom.hubUrl" -}}
http://{{ include "sealroom.fullname" . }}-hub.{{ .Release.Namespace }}.svc:8081
{{- end -}}

{{- define "sealroom.brokerUrl" -}}
{{- if .Values.broker.url -}}
{{ .Values.broker.url }}
{{- else if .Values.broker.enabled -}}
{{ ternary "https" "http" (ne .Values.broker.tls.existingSecret "") }}://{{ include "sealroom.fullname" . }}-broker.{{ .Release.Namespace }}.svc:8200
{{- else -}}
{{- fail "broker.url is needed where broker.enabled is false" -}}
{{- end -}}
{{- end -}}

{{- /* Egress to networks, never to the metadata address. Argument: a `destinations`. */ -}}
{{- define "sealroom.to" -}}
{{- if .cidrs }}
- to:
    {{- range .cidrs }}
    - ipBlock:
        cidr: {{ . | quote }}
        {{- if eq . "0.0.0.0/0" }}
        except: ["169.254.0.0/16"]
        {{- else if eq . "::/0" }}
        except: ["fd00:ec2::254/128", "fe80::/10"]
        {{- end }}
    {{- end }}
  ports:
    {{- range .ports }}
    - { protocol: TCP, port: {{ . }} }
    {{- end }}
{{- end }}
{{- end -}}

{{- define "sealroom.toDns" -}}
- to:
    - namespaceSelector:
        matchLabels:
          {{- toYaml .Values.networkPolicy.dns.namespaceLabels | nindent 10 }}
      podSelector:
        matchLabels:
          {{- toYaml .Values.networkPolicy.dns.podLabels | nindent 10 }}
  ports:
    - { protocol: UDP, port: {{ .Values.networkPolicy.dns.port }} }
    - { protocol: TCP, port: {{ .Values.networkPolicy.dns.port }} }
{{- end -}}

{{- /* A peer: the pods of a component of this release. */ -}}
{{- define "sealroom.peer" -}}
- podSelector:
    matchLabels:
      {{- include "sealroom.selector" . | nindent 6 }}
{{- end -}}

{{- define "sealroom.notebookPeer" -}}
- podSelector:
    matchLabels:
      {{- include "sealroom.notebookSelector" . | nindent 6 }}
{{- end -}}

{{- define "sealroom.monitoringPeer" -}}
{{- with .Values.networkPolicy.monitoring.namespaceLabels }}
- namespaceSelector:
    matchLabels:
      {{- toYaml . | nindent 6 }}
{{- end }}
{{- end -}}
