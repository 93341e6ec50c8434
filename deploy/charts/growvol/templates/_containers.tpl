{{- /* Security context of the controller's containers and the node's sidecars: no rights. */ -}}
{{- define "growvol.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "growvol.pluginArgs" -}}
- --backend={{ .Values.backend }}
- --endpoint=unix:///csi/csi.sock
{{- with .Values.driverName }}
- --driver-name={{ . }}
{{- end }}
- --log-format={{ .Values.logFormat }}
- --log-level={{ .Values.logLevel }}
{{- if eq .Values.backend "loop" }}
- --loop-dir={{ .Values.loop.dir }}
- --node-id=$(NODE_NAME)
{{- else if eq .Values.backend "rbd" }}
- --ceph-config=/etc/ceph/clusters/config.json
- --ceph-keys=/etc/ceph/keys
{{- else if not .Values.cinder.topology }}
- --with-topology=false
{{- end }}
{{- end }}

{{- /* "true" if the plugins of the rbd backend fence lost nodes, otherwise empty. */ -}}
{{- define "growvol.fencing" -}}
{{- if and (eq .Values.backend "rbd") .Values.rbd.fencing -}}true{{- end -}}
{{- end }}

{{- /* "true" if the nodes of the rbd backend have a topology, otherwise empty. */ -}}
{{- define "growvol.cephTopology" -}}
{{- if and (eq .Values.backend "rbd") .Values.rbd.domainLabels -}}true{{- end -}}
{{- end }}

{{- /* "true" if the node plugin of the rbd backend uses its Node in Kubernetes, otherwise empty. */ -}}
{{- define "growvol.usesNodes" -}}
{{- if and (eq .Values.backend "rbd") (or .Values.rbd.fencing .Values.rbd.crushLocationLabels .Values.rbd.domainLabels) -}}true{{- end -}}
{{- end }}

{{- /* "true" if the node plugin changes its Node in Kubernetes, otherwise empty. */ -}}
{{- define "growvol.changesNode" -}}
{{- if or .Values.node.startupTaint.enabled (include "growvol.fencing" .) -}}true{{- end -}}
{{- end }}

{{- /* "true" if the node plugin has a token of the API server, otherwise empty. */ -}}
{{- define "growvol.nodeHasToken" -}}
{{- if or (include "growvol.changesNode" .) (include "growvol.usesNodes" .) -}}true{{- end -}}
{{- end }}

{{- /* "true" if a container of the node pods has a token of the API server, otherwise empty. */ -}}
{{- define "growvol.nodePodHasToken" -}}
{{- if or .Values.sidecars.csiAddons.enabled (include "growvol.nodeHasToken" .) -}}true{{- end -}}
{{- end }}

{{- /* The sidecar of csi-addons, which runs ReclaimSpaceJobs: a dict of root and port. */ -}}
{{- define "growvol.csiAddons" -}}
{{- $sidecar := .root.Values.sidecars.csiAddons -}}
- name: csi-addons
  image: {{ include "growvol.image" (dict "root" .root "image" $sidecar.image) }}
  imagePullPolicy: {{ $sidecar.image.pullPolicy }}
  args:
    - --csi-addons-address=unix:///csi/csi.sock
    - --node-id=$(NODE_NAME)
    - --pod=$(POD_NAME)
    - --namespace=$(POD_NAMESPACE)
    - --pod-uid=$(POD_UID)
    - --controller-port={{ .port }}
    - --stagingpath={{ .root.Values.kubeletDir }}/plugins/kubernetes.io/csi/
    - --leader-election-namespace=$(POD_NAMESPACE)
    - --v={{ .root.Values.sidecars.logLevel }}
    {{- with $sidecar.extraArgs }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  env:
    - {name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
  ports:
    - {name: csi-addons, containerPort: {{ .port }}}
  securityContext:
    {{- include "growvol.restricted" . | nindent 4 }}
  {{- with $sidecar.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    - {name: socket, mountPath: /csi}
    {{- include "growvol.tokenMount" . | nindent 4 }}
{{- end }}

{{- /* The components that have pods, with commas in between. */ -}}
{{- define "growvol.components" -}}
controller,node{{ if .Values.operator.enabled }},operator{{ end }}
{{- end }}

{{- /* "true" if csi-snapshotter takes group snapshots, which only rbd has, otherwise empty. */ -}}
{{- define "growvol.groupSnapshots" -}}
{{- if and (eq .Values.backend "rbd") .Values.sidecars.snapshotter.groupSnapshots -}}true{{- end -}}
{{- end }}

{{- /* Mounts and volumes of the clusters and keys of Ceph. */ -}}
{{- define "growvol.cephMounts" -}}
- {name: clusters, mountPath: /etc/ceph/clusters, readOnly: true}
- {name: keys, mountPath: /etc/ceph/keys, readOnly: true}
{{- end }}

{{- /* The volumes: a dict of root and node (true: for the node plugin). */ -}}
{{- define "growvol.cephVolumes" -}}
{{- $node := .node -}}
{{- with .root.Values.rbd -}}
- name: clusters
  configMap: {name: {{ include "growvol.cephConfigMap" $.root | quote }}}
- name: keys
  projected:
    defaultMode: 0440
    sources:
      - secret: {name: {{ and $node .nodeSecret | default .existingSecret | quote }}}
      {{- range .clusterSecrets }}
      - secret:
          name: {{ and $node .nodeSecret | default .secret | quote }}
          items:
            - {key: userID, path: {{ printf "%s/userID" .clusterID | quote }}}
            - {key: userKey, path: {{ printf "%s/userKey" .clusterID | quote }}}
      {{- end }}
{{- end }}
{{- end }}

{{- /* nodeSelector: a dict of root and selector. */ -}}
{{- define "growvol.nodeSelector" -}}
{{- $selector := .selector | default dict -}}
{{- if and (eq .root.Values.backend "loop") .root.Values.loop.nodeName -}}
{{- $selector = merge (dict "kubernetes.io/hostname" .root.Values.loop.nodeName) $selector -}}
{{- end -}}
{{- with $selector }}{{ toYaml . }}{{ end -}}
{{- end }}

{{- /* environment: a dict of nodeName (true: set NODE_NAME) and env. */ -}}
{{- define "growvol.environment" -}}
{{- if or .env .nodeName -}}
env:
  {{- if .nodeName }}
  # Name of the Node; the loop backend uses it as the place of the volumes.
  - name: NODE_NAME
    valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
  {{- end }}
  {{- with .env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}
{{- end }}

{{- /* A sidecar of the controller: a dict of root, key, name, port, args, and env. */ -}}
{{- define "growvol.controllerSidecar" -}}
{{- $sidecar := index .root.Values.sidecars .key -}}
{{- $kubeAPI := .root.Values.sidecars.kubeAPI -}}
- name: {{ .name }}
  image: {{ include "growvol.image" (dict "root" .root "image" $sidecar.image) }}
  imagePullPolicy: {{ $sidecar.image.pullPolicy }}
  args:
    - --csi-address=/csi/csi.sock
    - --v={{ .root.Values.sidecars.logLevel }}
    - --timeout={{ $sidecar.timeout }}
    - --kube-api-qps={{ $kubeAPI.qps }}
    - --kube-api-burst={{ $kubeAPI.burst }}
    - --http-endpoint=:{{ .port }}
    {{- if .root.Values.controller.leaderElection }}
    - --leader-election
    {{- end }}
    {{- range .args }}
    - {{ . }}
    {{- end }}
    {{- with $sidecar.extraArgs }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .env }}
  env:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    - {name: {{ .key }}, containerPort: {{ .port }}}
  {{- if .root.Values.controller.leaderElection }}
  # Fails if the sidecar has not renewed its lease in time.
  livenessProbe:
    httpGet: {path: /healthz/leader-election, port: {{ .key }}}
    initialDelaySeconds: 10
    periodSeconds: 20
    timeoutSeconds: 10
    failureThreshold: 3
  {{- end }}
  securityContext:
    {{- include "growvol.restricted" . | nindent 4 }}
  {{- with $sidecar.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    - {name: socket, mountPath: /csi}
    {{- include "growvol.tokenMount" . | nindent 4 }}
{{- end }}

{{- /* Token and certificate for clients of the API server, mounted into single containers. */ -}}
{{- define "growvol.tokenVolume" -}}
- name: token
  projected:
    defaultMode: 0444
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3607}
      - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
      - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
{{- end }}

{{- define "growvol.tokenMount" -}}
- {name: token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}

{{- /*
Options of the readings at /volumes: a dict of root, port and hasToken (true: the container has
the certificate of the API server with its token).
*/ -}}
{{- define "growvol.readingsArgs" -}}
- --volumes-endpoint=:{{ .port }}
{{- if not .hasToken }}
- --service-account-dir=/etc/growvol/api-server
{{- end }}
{{- end }}

{{- /* The certificate of the API server without a token, to have tokens of callers reviewed. */ -}}
{{- define "growvol.apiServerVolume" -}}
- name: api-server
  configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}], defaultMode: 0444}
{{- end }}

{{- define "growvol.apiServerMount" -}}
- {name: api-server, mountPath: /etc/growvol/api-server, readOnly: true}
{{- end }}

{{- /* Serves the plugin's Probe as /healthz: a dict of root and port. */ -}}
{{- define "growvol.livenessprobe" -}}
{{- $sidecar := .root.Values.sidecars.livenessprobe -}}
- name: livenessprobe
  image: {{ include "growvol.image" (dict "root" .root "image" $sidecar.image) }}
  imagePullPolicy: {{ $sidecar.image.pullPolicy }}
  args:
    - --csi-address=/csi/csi.sock
    - --http-endpoint=:{{ .port }}
    - --probe-timeout=8s
    - --v={{ .root.Values.sidecars.logLevel }}
    {{- with $sidecar.extraArgs }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  securityContext:
    {{- include "growvol.restricted" . | nindent 4 }}
  {{- with $sidecar.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    - {name: socket, mountPath: /csi}
{{- end }}

{{- /*
hostUsers is "false" if the controller's pods get a user namespace of their own, otherwise
empty. Kubernetes supports it from a version on; a node, depending on kernel and runtime,
which Helm reads from the cluster. `lookup` finds no nodes if the chart is only rendered.
A user who installs the chart may list nodes: otherwise Kubernetes would refuse to let the
user create the provisioner's role.
*/ -}}
{{- define "growvol.hostUsers" -}}
{{- $wanted := .Values.controller.hostUsers | toString -}}
{{- if eq $wanted "auto" -}}
{{- $wanted = "true" -}}
{{- if and (ne .Values.backend "loop") (semverCompare ">=1.36.0-0" .Capabilities.KubeVersion.Version) -}}
{{- $wanted = "false" -}}
{{- range (lookup "v1" "Node" "" "").items -}}
{{- if eq .status.nodeInfo.operatingSystem "linux" -}}
{{- /* From Linux 6.3 on tmpfs, which holds kubelet's Secrets and tokens, can map users. */ -}}
{{- $kernel := regexFind `^[0-9]+\.[0-9]+` (.status.nodeInfo.kernelVersion | default "") | default "0.0" -}}
{{- $kernelCan := semverCompare ">=6.3" $kernel -}}
{{- $runtimeCan := false -}}
{{- range .status.runtimeHandlers -}}
{{- if and (not .name) .features .features.userNamespaces -}}{{- $runtimeCan = true -}}{{- end -}}
{{- end -}}
{{- if not (and $kernelCan $runtimeCan) -}}{{- $wanted = "true" -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if eq $wanted "false" -}}false{{- end -}}
{{- end }}
