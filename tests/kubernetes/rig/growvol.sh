# Installs what is not the cluster's own: the snapshot controller, as the
# distributions of Kubernetes bring it, and growvol. Sourced.
# shellcheck shell=bash

install_snapshot_controller() {
	local log=$LOG/install.log
	[ ! -e "$STATE/snapshot-controller" ] || return 0
	# Twice: the resources of the second are known once the first are established.
	within kubectl apply --server-side -f "$BIN/../manifests" >>"$log" 2>&1 || fail "$log" "the snapshot controller's manifests"
	within kubectl apply --server-side -f "$RIG/snapshot-controller.yaml" >>"$log" 2>&1 || fail "$log" "the snapshot controller"
	touch "$STATE/snapshot-controller"
}

# install_growvol installs the chart or upgrades to it, and waits until kubelet
# knows the driver. Images have one tag: the annotation says which they are.
install_growvol() {
	local log=$LOG/install.log
	within helm upgrade --install growvol "$SOURCE/deploy/charts/growvol" --namespace growvol --create-namespace \
		--values "$RIG/values.yaml" --wait --timeout 3m \
		--set-string "controller.podAnnotations.image=$(cat "$IMAGES/growvol-controller.id")" \
		--set-string "node.podAnnotations.image=$(cat "$IMAGES/growvol-node.id")" >>"$log" 2>&1 || fail "$log" "helm upgrade"
	within kubectl apply --server-side -f "$RIG/class.yaml" >>"$log" 2>&1 || fail "$log" "the storage class"
	await 60 "$LOG/kubelet.log" "kubelet knows the driver" driver_known
}

driver_known() { within kubectl get csinode "$NODE" -o 'jsonpath={.spec.drivers[*].name}' | grep -qF loop.growvol.io; }

uninstall_growvol() {
	within helm uninstall growvol --namespace growvol --wait >>"$LOG/install.log" 2>&1 || fail "$LOG/install.log" "helm uninstall"
	say "growvol is removed"
}
