# Builds Kubernetes, etcd, the sidecars, Helm and containerd from the modules in programs/.
# The cache stores the result under a hash of all inputs, so that each version is built
# once. Sourced.
# shellcheck shell=bash disable=SC2030,SC2031 # each subshell has its own environment

# programs_key prints the hash of the pins, the stand-ins, this file and the compiler.
programs_key() {
	key_of programs rig/programs.sh -not -path 'programs/cluster/agnhost/*' -not -path 'programs/cluster/suite/*'
}

# key_of PATH... [TEST...] prints a hash of the files that find selects with these
# arguments, and of the compiler's version.
key_of() {
	(
		cd "$RIG/.." || exit
		find "$@" -type f -print0 | sort -z | xargs -0 sha256sum
		go env GOVERSION GOARCH
	) | sha256sum | cut -c1-16
}

# ensure_programs sets BIN to the directory of the programs, and builds them if needed.
ensure_programs() {
	BIN=$CACHE/programs-$(programs_key)/bin
	[ ! -x "$BIN/kubelet" ] || { touch "$(dirname "$BIN")" && return 0; }
	(
		take_lock "$CACHE/programs.lock"
		if [ ! -x "$BIN/kubelet" ]; then build_programs "$(dirname "$BIN")"; fi
	)
}

# build_programs DIRECTORY builds DIRECTORY/bin. DIRECTORY appears only when it is complete.
build_programs() {
	local work=$1.partial
	say "building Kubernetes and containerd (some 13 CPU-minutes, once; log: $CACHE/build.log)"
	rm -rf "$work"
	mkdir -p "$work/bin"
	cp -r "$RIG/../programs/." "$work/source"
	add_library "$work/source/cluster"
	# In the background, because `set -e` has no effect on the left of ||.
	{ build_cluster "$work"; build_containerd "$work"; } >"$CACHE/build.log" 2>&1 &
	wait $! || fail "$CACHE/build.log" "the build"
	rm -rf "$work/source" "$1"
	# Older versions are not needed any more, unless another working tree uses them.
	find "$CACHE" -mindepth 1 -maxdepth 1 -name 'programs-*' -mtime +7 -exec rm -rf {} +
	mv "$work" "$1"
	say "built $(du -sh "$1/bin" | cut -f1) of programs"
}

# add_library MODULE adds a copy of the provisioner library to the module. csi-provisioner
# requires v13.1.0, which not every module proxy has; v13.0.0 and one type are enough.
add_library() {
	local library=sigs.k8s.io/sig-storage-lib-external-provisioner/v13@v13.0.0 dir
	dir=$(cd / && retry_once go mod download -json "$library" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
	[ -n "$dir" ] || fail "" "$library: cannot be downloaded"
	cp -r "$dir" "$1/sig-storage-lib"
	chmod -R u+w "$1/sig-storage-lib"
	cat >"$1/sig-storage-lib/controller/inuse.go" <<-END
		package controller

		// VolumeInUseError says that a volume cannot be deleted yet.
		type VolumeInUseError struct{ Reason string }

		func (e *VolumeInUseError) Error() string { return "volume in use: " + e.Reason }
	END
}

# version MODULE prints what go.mod in the current directory pins.
version() { go list -m -f '{{.Version}}' "$1"; }

# Without debug information, which the linker removes anyway, the build is faster.
GO_BUILD_FLAGS='-buildvcs=false -mod=readonly -trimpath -gcflags=all=-dwarf=false'

# retry_once COMMAND... runs a command again if it fails: one of about 700 downloads may
# fail.
retry_once() { "$@" || "$@"; }

build_cluster() (
	cd "$1/source/cluster" || exit
	export CGO_ENABLED=0 GOFLAGS=$GO_BUILD_FLAGS
	csi=github.com/kubernetes-csi
	kubernetes=$(version k8s.io/kubernetes)
	minor=${kubernetes#v1.}
	p=k8s.io/component-base/version
	flags="-s -w -X $p.gitVersion=$kubernetes -X $p.gitMajor=1 -X $p.gitMinor=${minor%%.*} -X $p.gitTreeState=clean"
	flags+=" -X $p.gitCommit=0000000000000000000000000000000000000000 -X $p.buildDate=2026-01-01T00:00:00Z"
	flags+=" -X helm.sh/helm/v3/internal/version.version=$(version helm.sh/helm/v3)"
	for part in lint/rules chartutil; do
		flags+=" -X helm.sh/helm/v3/pkg/$part.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/$part.k8sVersionMinor=${minor%%.*}"
	done
	retry_once go build -ldflags "$flags" -o "$1/bin/" \
		k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubelet,kubectl} \
		go.etcd.io/etcd/server/v3 helm.sh/helm/v3/cmd/helm \
		$csi/external-provisioner/v6/cmd/csi-provisioner $csi/external-attacher/v4/cmd/csi-attacher \
		$csi/external-resizer/v2/cmd/csi-resizer $csi/external-snapshotter/v8/cmd/{csi-snapshotter,snapshot-controller} \
		./registrar ./livenessprobe
	mv "$1/bin/server" "$1/bin/etcd"
	# The snapshot controller's modules contain its manifests, for snapshots and for groups of them.
	mkdir -p "$1/manifests"
	cp "$(go list -m -f '{{.Dir}}' $csi/external-snapshotter/client/v8)"/config/crd/*snapshot.storage.k8s.io_*.yaml \
		"$(go list -m -f '{{.Dir}}' $csi/external-snapshotter/v8)"/deploy/kubernetes/snapshot-controller/rbac-snapshot-controller.yaml "$1/manifests/"
	chmod u+w "$1/manifests"/*
)

build_containerd() (
	cd "$1/source/containerd" || exit
	export CGO_ENABLED=0 GOFLAGS=$GO_BUILD_FLAGS
	containerd=github.com/containerd/containerd/v2
	retry_once go build -ldflags "-s -w -X $containerd/version.Version=$(version $containerd)" -o "$1/bin/" \
		$containerd/cmd/{containerd,containerd-shim-runc-v2,ctr}
)
