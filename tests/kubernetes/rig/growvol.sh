# Installs what is not the cluster's own: the snapshot controller, as the
# distributions of Kubernetes bring it, and growvol. Sourced.
# shellcheck shell=bash

install_snapshot_controller() {
	local log=$LOG/install.log
	[ ! -e "$STATE/snapshot-controller" ] || return 0
	within kubectl apply --server-side -f "$BIN/../manifests" >>"$log" 2>&1 || fail "$log" "the snapshot controller's manifests"
	within kubectl wait --for=condition=Established crd --all --timeout=5m >>"$log" 2>&1 || fail "$log" "the snapshot controller's resources"
	within kubectl apply --server-side -f "$RIG/snapshot-controller.yaml" >>"$log" 2>&1 || fail "$log" "the snapshot controller"
	touch "$STATE/snapshot-controller"
}

# install_release RELEASE VALUES... installs the chart or upgrades to it, in a
# namespace of the release's name. Images have one tag: the annotation says
# which they are.
install_release() {
	local release=$1 log=$LOG/install.log files=() file
	shift
	for file in "$RIG/images.yaml" "$@"; do files+=(--values "$file"); done
	within helm upgrade --install "$release" "$SOURCE/deploy/charts/growvol" --namespace "$release" --create-namespace \
		"${files[@]}" --wait --timeout 5m \
		--set-string "controller.podAnnotations.image=$(cat "$IMAGES/growvol-controller.id")" \
		--set-string "node.podAnnotations.image=$(cat "$IMAGES/growvol-node.id")" >>"$log" 2>&1 || fail "$log" "helm upgrade $release"
}

# install_loop: with the class that stays when growvol is removed.
install_loop() {
	local log=$LOG/install.log
	install_release growvol "$RIG/loop.yaml"
	within kubectl apply --server-side -f "$RIG/class.yaml" >>"$log" 2>&1 || fail "$log" "the storage class"
	await 180 "$LOG/kubelet.log" "kubelet knows the driver" driver_known "$NODE" loop.growvol.io
}

# install_cinder VALUES NODE: the values have credentials.
install_cinder() {
	user_namespaces || say "$(runc --version | head -n 1) of $NODE has no user namespaces for pods: the chart leaves the controller in the node's"
	install_release growvol-cinder "$RIG/cinder.yaml" "$1"
	await 180 "" "kubelet of $2 knows the driver" driver_known "$2" cinder.csi.openstack.org
}

# user_namespaces: what the chart asks nodes for as well (controller.hostUsers).
user_namespaces() {
	within kubectl get node "$NODE" -o 'jsonpath={.status.runtimeHandlers[?(@.name=="")].features.userNamespaces}' | grep -q true
}

driver_known() { within kubectl get csinode "$1" -o 'jsonpath={.spec.drivers[*].name}' | grep -qF "$2"; }

# uninstall_release RELEASE
uninstall_release() {
	within helm uninstall "$1" --namespace "$1" --wait >>"$LOG/install.log" 2>&1 || fail "$LOG/install.log" "helm uninstall $1"
	say "$1 is removed"
}
