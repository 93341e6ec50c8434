# Installs growvol, and the snapshot controller, which distributions of Kubernetes include.
# Sourced.
# shellcheck shell=bash

install_snapshot_controller() {
	local log=$LOG/install.log
	[ ! -e "$STATE/snapshot-controller" ] || return 0
	within kubectl apply --server-side -f "$BIN/../manifests" >>"$log" 2>&1 ||
		fail "$log" "the snapshot controller's manifests"
	within kubectl wait --for=condition=Established crd --all --timeout=5m >>"$log" 2>&1 ||
		fail "$log" "the snapshot controller's resources"
	within kubectl apply --server-side -f "$RIG/snapshot-controller.yaml" >>"$log" 2>&1 ||
		fail "$log" "the snapshot controller"
	touch "$STATE/snapshot-controller"
}

# install_release RELEASE VALUES... [OPTION...] installs or upgrades a Helm release of the packed
# chart, whose values name registry and digests of growvol's images, in a namespace of the same name.
install_release() {
	local release=$1 log=$LOG/install.log files=(--values "$RIG/images.yaml")
	shift
	while [ $# -gt 0 ] && [[ $1 != --* ]]; do
		files+=(--values "$1")
		shift
	done
	within helm upgrade --install "$release" "$RELEASE_DIR"/growvol-*.tgz --namespace "$release" --create-namespace \
		"${files[@]}" --wait --timeout 5m "$@" >>"$log" 2>&1 ||
		fail "$log" "helm upgrade $release"
}

# install_for_loop installs growvol with the loop backend, and the class of class.yaml.
install_for_loop() {
	local log=$LOG/install.log
	install_release growvol "$RIG/loop.yaml"
	within kubectl apply --server-side -f "$RIG/class.yaml" >>"$log" 2>&1 || fail "$log" "the storage class"
	await 180 "$LOG/kubelet.log" "kubelet has the driver" is_driver_registered "$NODE" loop.growvol.io
}

# install_for_cinder VALUES NODE installs growvol with the Cinder backend. VALUES is a file
# with the credentials.
install_for_cinder() {
	has_user_namespaces ||
		say "$NODE has no user namespaces for pods ($(runc --version | head -n 1)): the controller runs in the node's"
	install_release growvol-cinder "$RIG/cinder.yaml" "$1"
	await 180 "" "kubelet of $2 has the driver" is_driver_registered "$2" cinder.csi.openstack.org
}

# install_for_rbd VALUES NODE... installs growvol with the RBD backend. VALUES is a file with
# the clusters; their keys are in the Secret ceph-keys of the release's namespace.
install_for_rbd() {
	local values=$1 name
	shift
	build_release growvol-controller growvol-controller-ceph growvol-node growvol-operator
	push_release
	install_release growvol-rbd "$RIG/rbd.yaml" "$values"
	for name; do
		await 180 "" "kubelet of $name has the driver" is_driver_registered "$name" rbd.csi.ceph.com
	done
}

# has_user_namespaces tests the node for user namespaces of pods, as the chart does for
# controller.hostUsers.
has_user_namespaces() {
	within kubectl get node "$NODE" -o 'jsonpath={.status.runtimeHandlers[?(@.name=="")].features.userNamespaces}' |
		grep -q true
}

# is_driver_registered NODE DRIVER tests whether kubelet has the driver.
is_driver_registered() { within kubectl get csinode "$1" -o 'jsonpath={.spec.drivers[*].name}' | grep -qF "$2"; }

# uninstall_release RELEASE uninstalls a Helm release.
uninstall_release() {
	within helm uninstall "$1" --namespace "$1" --wait >>"$LOG/install.log" 2>&1 ||
		fail "$LOG/install.log" "helm uninstall $1"
	say "$1 is uninstalled"
}
