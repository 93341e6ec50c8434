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

# install_growvol installs or upgrades it, and waits until kubelet knows the
# driver. Its images have one tag: what runs of older ones is replaced.
install_growvol() {
	local log=$LOG/install.log kind
	within kubectl apply --server-side --force-conflicts -f "$RIG/growvol.yaml" >>"$log" 2>&1 || fail "$log" "growvol's manifest"
	if [ -e "$STATE/running" ] && ! cat "$IMAGES"/growvol-*.id | cmp -s "$STATE/running" -; then
		within kubectl --namespace growvol rollout restart deployment,daemonset >>"$log" 2>&1 || fail "$log" "restart of growvol"
	fi
	cat "$IMAGES"/growvol-*.id >"$STATE/running"
	for kind in deployment/growvol-controller daemonset/growvol-node; do
		within kubectl --namespace growvol rollout status --timeout=120s "$kind" >>"$log" 2>&1 || fail "$log" "$kind does not become ready"
	done
	await 60 "$LOG/kubelet.log" "kubelet knows the driver" driver_known
	within kubectl apply -f "$RIG/../classes.yaml" >>"$log" 2>&1 || fail "$log" "the storage classes"
}

driver_known() { within kubectl get csinode "$NODE" -o 'jsonpath={.spec.drivers[*].name}' | grep -qF loop.growvol.io; }

uninstall_growvol() {
	within kubectl delete --ignore-not-found --wait -f "$RIG/growvol.yaml" >>"$LOG/install.log" 2>&1 || fail "$LOG/install.log" "removal of growvol"
	rm -f "$STATE/running"
	say "growvol is removed"
}
