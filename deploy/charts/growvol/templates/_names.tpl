{{- define "growvol.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains "growvol" .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-growvol" .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "growvol.driverName" -}}
{{- $names := dict "cinder" "cinder.csi.openstack.org" "rbd" "rbd.csi.ceph.com" "loop" "loop.growvol.io" -}}
{{- .Values.driverName | default (get $names .Values.backend) -}}
{{- end }}

{{- /* Labels that never change: a Deployment cannot change its selector. */ -}}
{{- define "growvol.selector" -}}
app.kubernetes.io/name: growvol
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- /* Labels of an object; Helm adds its own. */ -}}
{{- define "growvol.labels" -}}
{{ include "growvol.labelsAnd" (dict "root" . "more" dict) }}
{{- end }}

{{- /* The same with more labels, which take precedence: a dict of root and more. */ -}}
{{- define "growvol.labelsAnd" -}}
{{ include "growvol.selector" .root }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- with merge (dict) (.more | default dict) (.root.Values.commonLabels | default dict) }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* image: a dict of root and image. */ -}}
{{- define "growvol.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end }}

{{- /* An image of growvol itself: a dict of root and image. */ -}}
{{- define "growvol.ownImage" -}}
{{- with .root.Values.imageRegistry }}{{ . }}/{{ end }}{{ include "growvol.image" . }}
{{- end }}

{{- /* Directory of the plugin's socket on the nodes. */ -}}
{{- define "growvol.socketDir" -}}
{{ .Values.kubeletDir }}/plugins/{{ include "growvol.driverName" . }}
{{- end }}

{{- /* The Secret with credentials: the operator's or the chart's. */ -}}
{{- define "growvol.cloudsSecret" -}}
{{- .Values.cinder.existingSecret | default (printf "%s-clouds" (include "growvol.fullname" .)) -}}
{{- end }}

{{- /* The ConfigMap with the Ceph clusters: the operator's or the chart's. */ -}}
{{- define "growvol.cephConfigMap" -}}
{{- .Values.rbd.existingConfigMap | default (printf "%s-ceph" (include "growvol.fullname" .)) -}}
{{- end }}

{{- /* Checks of values that the schema cannot express. */ -}}
{{- define "growvol.check" -}}
{{- if eq .Values.backend "cinder" -}}
{{- with .Values.cinder -}}
{{- if and .existingSecret (or .cloudsYAML .cloudConf) -}}
{{- fail "cinder.existingSecret and cinder.cloudsYAML or cinder.cloudConf: give one of them" -}}
{{- end -}}
{{- if not (or .existingSecret .cloudsYAML .cloudConf) -}}
{{- fail "backend cinder needs credentials: set cinder.existingSecret (a Secret with clouds.yaml or cloud.conf), or cinder.cloudsYAML, or cinder.cloudConf" -}}
{{- end -}}
{{- if and .existingSecret (not (or .cloudsYAMLKey .cloudConfKey)) -}}
{{- fail "cinder.existingSecret: say which of its keys has the credentials, with cinder.cloudsYAMLKey or cinder.cloudConfKey" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if eq .Values.backend "rbd" -}}
{{- with .Values.rbd -}}
{{- if and .existingConfigMap .clusters -}}
{{- fail "rbd.existingConfigMap and rbd.clusters: give one of them" -}}
{{- end -}}
{{- if not (or .existingConfigMap .clusters) -}}
{{- fail "backend rbd needs the clusters: set rbd.clusters, or rbd.existingConfigMap (a ConfigMap with config.json)" -}}
{{- end -}}
{{- if not .existingSecret -}}
{{- fail "backend rbd needs keys: set rbd.existingSecret (a Secret with userID and userKey)" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (gt (int .Values.controller.replicas) 1) (not .Values.controller.leaderElection) (ne .Values.backend "loop") -}}
{{- fail "controller.replicas above 1 needs controller.leaderElection" -}}
{{- end -}}
{{- range .Values.controller.extraArgs -}}
{{- if regexMatch "^--?http-endpoint(=|$)" . -}}
{{- fail "controller.extraArgs: --http-endpoint is set by the chart, whose liveness probe asks there" -}}
{{- end -}}
{{- end -}}
{{- with .Values.node.ports -}}
{{- if ne (len (uniq (list (int .healthz) (int .registrar) (int .metrics) (int .csiAddons) (int .volumes)))) 5 -}}
{{- fail "node.ports: five different ones are needed" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.operator.enabled .Values.operator.autoGrow.enabled (not .Values.readings.enabled) -}}
{{- fail "operator.autoGrow.enabled needs readings.enabled: the operator must know how full the filesystems are" -}}
{{- end -}}
{{- if and .Values.metrics.serviceMonitor.enabled (not .Values.metrics.enabled) -}}
{{- fail "metrics.serviceMonitor.enabled needs metrics.enabled" -}}
{{- end -}}
{{- if and .Values.metrics.prometheusRule.enabled (not .Values.metrics.enabled) -}}
{{- fail "metrics.prometheusRule.enabled needs metrics.enabled" -}}
{{- end -}}
{{- if and .Values.volumeSnapshotClasses (not .Values.sidecars.snapshotter.enabled) -}}
{{- fail "volumeSnapshotClasses need sidecars.snapshotter.enabled" -}}
{{- end -}}
{{- if and .Values.volumeGroupSnapshotClasses (not (and .Values.sidecars.snapshotter.enabled (include "growvol.groupSnapshots" .))) -}}
{{- fail "volumeGroupSnapshotClasses need the backend rbd, sidecars.snapshotter.enabled and sidecars.snapshotter.groupSnapshots" -}}
{{- end -}}
{{- with .Values.sidecars.snapshotMetadata -}}
{{- if and .enabled (ne $.Values.backend "rbd") -}}
{{- fail "sidecars.snapshotMetadata.enabled: only the backend rbd has changed blocks" -}}
{{- end -}}
{{- if and .enabled (not (and .tlsSecret .caCert)) -}}
{{- fail "sidecars.snapshotMetadata.enabled needs sidecars.snapshotMetadata.tlsSecret (a Secret with tls.crt and tls.key) and caCert (of its authority)" -}}
{{- end -}}
{{- end -}}
{{- $namespaces := list -}}
{{- range .Values.rbac.readSecrets -}}
{{- if has .namespace $namespaces -}}
{{- fail (printf "rbac.readSecrets names the namespace %s twice: put all names of its Secrets into one entry" .namespace) -}}
{{- end -}}
{{- $namespaces = append $namespaces .namespace -}}
{{- end -}}
{{- end }}
