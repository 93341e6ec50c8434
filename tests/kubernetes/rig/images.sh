# Builds the images of all pods. Those of growvol are a release's, which containerd pulls from a
# registry in the cluster; those of the sidecars and the tests are imported into containerd. Sourced.
# shellcheck shell=bash

IMAGES=$STATE/images
RELEASE_DIR=$STATE/release # a release of the present sources
TREES=$STATE/trees # the content of each image

# update_images builds the programs of the tests, and the images whose content has changed. It does
# nothing if no source has changed since it ended.
update_images() {
	local sources
	sources=$(sources_key)
	[ -z "$sources" ] || [ "$(cat "$STATE/sources" 2>/dev/null)" != "$sources" ] || return 0
	mkdir -p "$IMAGES" "$TREES" "$STATE/bin"
	(
		cd "$SOURCE"
		CGO_ENABLED=0 go build -buildvcs=false -trimpath -ldflags='-s -w' -o "$STATE/bin/" \
			./tests/forward/cmd/growvol-forward ./tests/kubernetes/app ./tests/kubernetes/image ./tests/registry ./deploy/release
	) >"$LOG/build.log" 2>&1 || fail "$LOG/build.log" "go build"
	tree app "$STATE/bin/app"
	image app -entrypoint /app
	[ -e "$IMAGES/pause.id" ] || build_pinned_images
	build_release growvol-controller growvol-node growvol-operator
	echo "$sources" >"$STATE/sources"
}

# sources_key prints the hash of all sources, or nothing if they are not in a Git repository.
sources_key() (
	cd "$SOURCE" || exit
	git ls-files -z --cached --others --exclude-standard >"$STATE/sources.list" 2>/dev/null || exit 0
	# A file that was deleted fails; the message is part of what is hashed.
	{ xargs -0 sha256sum <"$STATE/sources.list" 2>&1 || true; } | sha256sum
)

# build_release IMAGE... builds a release of the present sources with these images and the chart,
# which names them by their digests.
build_release() {
	local version arch
	version=$(sed -n 's/^appVersion: //p' "$SOURCE/deploy/charts/growvol/Chart.yaml")
	arch=$(go env GOARCH)
	(
		cd "$SOURCE"
		"$STATE/bin/release" build --version "$version" --registry "$REGISTRY" --arch "$arch" \
			--only "$(IFS=, && echo "$*")" --out "$RELEASE_DIR"
	) >"$LOG/release.log" 2>&1 || fail "$LOG/release.log" "the release's images"
}

# push_release pushes the images of the release to the cluster's registry, from which containerd
# pulls them by digest. It lists them in $RELEASE_DIR.images.
push_release() {
	start_registry
	within "$STATE/bin/release" push --registry "$REGISTRY" --dist "$RELEASE_DIR" >"$RELEASE_DIR.images" 2>"$LOG/push.log" ||
		fail "$LOG/push.log" "push of the release's images"
}

# prune_images removes the images of earlier releases from containerd.
prune_images() {
	local name
	within ctr --namespace k8s.io images list --quiet | grep "^$REGISTRY/" | grep -vxFf "$RELEASE_DIR.images" |
		while read -r name; do
			within ctr --namespace k8s.io images remove "$name" >>"$LOG/images.log" 2>&1 </dev/null
		done || true # there is none
}

# start_registry starts the registry in the cluster's namespaces, with which it ends. It does not
# hold the lock of the rig (9).
start_registry() {
	! is_registry_up || return 0
	within setsid nohup "$STATE/bin/registry" -listen "$REGISTRY" -dir "$STATE/registry" >>"$LOG/registry.log" 2>&1 </dev/null 9>&- &
	await 60 "$LOG/registry.log" "" is_registry_up
}

is_registry_up() { within bash -c "exec 3<>/dev/tcp/${REGISTRY/://}" 2>/dev/null; }

# build_pinned_images builds the images of the pinned programs, which do not change.
build_pinned_images() {
	local sidecar
	for sidecar in csi-provisioner csi-attacher csi-resizer csi-snapshotter snapshot-controller; do
		tree "$sidecar" "$BIN/$sidecar"
		image "$sidecar" -user 65532:65532 -entrypoint "/$sidecar"
	done
	# The stand-ins, see programs/cluster.
	tree registrar-stand-in "$BIN/registrar"
	image registrar-stand-in -entrypoint /registrar
	tree livenessprobe-stand-in "$BIN/livenessprobe"
	image livenessprobe-stand-in -user 65532:65532 -entrypoint /livenessprobe
	tree busybox "$(command -v busybox)" # the image of the examples
	add_applets busybox
	image busybox
	tree pause "$STATE/bin/app"
	image pause -entrypoint "/app pause"
}

# tree NAME PROGRAM... makes the content of an image of static programs.
tree() {
	local root=$TREES/$1
	shift
	rm -rf "${root:?}"
	mkdir -p "$root"
	cp "$@" "$root/"
}

# add_applets NAME adds links to busybox for the shell and its other programs.
add_applets() {
	local applet
	mkdir "$TREES/$1/bin"
	for applet in $(busybox --list); do ln -s ../busybox "$TREES/$1/bin/$applet"; done
}

# image NAME OPTION... packs the tree and removes it. The options are those of ../image.
image() {
	local name=$1
	shift
	"$STATE/bin/image" -out "$IMAGES/$name.tar.new" -name "localhost/$name:test" "$@" "$TREES/$name" \
		>"$IMAGES/$name.id.new"
	if cmp -s "$IMAGES/$name.id" "$IMAGES/$name.id.new"; then
		rm "$IMAGES/$name.tar.new" "$IMAGES/$name.id.new"
	else
		mv "$IMAGES/$name.tar.new" "$IMAGES/$name.tar"
		mv "$IMAGES/$name.id.new" "$IMAGES/$name.id"
	fi
	rm -rf "${TREES:?}/$name"
}

# add_debian_programs TREE PACKAGE... adds the programs, the configuration files and the
# shared libraries of Debian packages.
add_debian_programs() {
	local root=$1 file
	shift
	mkdir -p "$root"/usr/{bin,sbin,lib,lib64} "$root"/{etc,dev,proc,sys,run,tmp,var/lib}
	for file in bin sbin lib lib64; do ln -s "usr/$file" "$root/$file"; done
	dpkg -L "$@" | grep -E '^(/usr)?/s?bin/.|^/etc/[^/]*\.conf$' | while read -r file; do
		# A configuration file may have been deleted.
		[ -d "$file" ] || [ ! -e "$file" ] || cp --no-dereference --preserve=mode "$file" "$root$file"
	done
	add_libraries "$root"
}

# add_libraries TREE adds the shared libraries of all programs in the tree.
add_libraries() {
	local root=$1 file
	# ldd fails at scripts, which have no libraries.
	{ find "$root" -type f -perm /111 -exec ldd {} + 2>/dev/null || true; } |
		grep -oE '/[^ ]+\.so[^ ]*' | sort -u | while read -r file; do
		install -D "$file" "$root$file"
	done
}

# import_images imports the images that containerd does not have yet.
import_images() {
	local name
	await 180 "$LOG/init.log" "" within true
	await 180 "$LOG/containerd.log" "" within ctr version
	for name in "$IMAGES"/*.tar; do
		[ -e "$name" ] || continue # no image has changed
		name=$(basename "$name" .tar)
		! cmp -s "$IMAGES/$name.id" "$STATE/imported/$name" || continue
		within ctr --namespace k8s.io images import "$IMAGES/$name.tar" >>"$LOG/images.log" 2>&1 ||
			fail "$LOG/images.log" "import of $name"
		cp "$IMAGES/$name.id" "$STATE/imported/"
		rm "$IMAGES/$name.tar"
	done
}
