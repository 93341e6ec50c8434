# Builds Kubernetes' own end-to-end suite for storage, and imports the images of its pods.
# Sourced.
# shellcheck shell=bash

# ensure_suite sets SUITE to the directory of the suite's programs, and builds them if
# needed. They are of the module of the cluster's programs, with which they share most
# packages.
ensure_suite() {
	SUITE=$CACHE/suite-$(key_of programs/cluster rig/programs.sh rig/suite.sh)
	[ ! -e "$SUITE/images.txt" ] || { touch "$SUITE" && return 0; }
	(
		take_lock "$CACHE/programs.lock"
		if [ ! -e "$SUITE/images.txt" ]; then build_suite_programs; fi
	)
}

# build_suite_programs builds $SUITE, which appears only when it is complete.
build_suite_programs() {
	local work=$SUITE.partial
	say "building Kubernetes' suite for storage (once; log: $CACHE/suite.log)"
	rm -rf "$work"
	mkdir -p "$work"
	cp -r "$RIG/../programs/cluster" "$work/source"
	add_library "$work/source"
	echo 'promoterE2eRegistry: localhost' >"$work/registries.yaml"
	# In the background, because `set -e` has no effect on the left of ||.
	build_suite "$work" >"$CACHE/suite.log" 2>&1 &
	wait $! || fail "$CACHE/suite.log" "the build of the suite"
	rm -rf "$work/source" "$SUITE"
	find "$CACHE" -mindepth 1 -maxdepth 1 -name 'suite-*' -not -path "$work" -mtime +7 -exec rm -rf {} +
	mv "$work" "$SUITE"
	say "built $(du -sh "$SUITE" | cut -f1) of the suite"
}

build_suite() (
	cd "$1/source" || exit
	export CGO_ENABLED=0 GOFLAGS=$GO_BUILD_FLAGS
	retry_once go test -c -ldflags='-s -w' -o "$1/suite.test" ./suite
	retry_once go build -ldflags='-s -w' -o "$1/" ./agnhost github.com/onsi/ginkgo/v2/ginkgo
	KUBE_TEST_REPO_LIST=$1/registries.yaml "$1/suite.test" -images >"$1/images.txt"
)

# import_suite_images imports the images of the suite's pods: agnhost with the used
# commands, Debian's programs for the image with GNU's, and busybox for the images of which
# the suite uses only a shell.
import_suite_images() {
	local name
	[ "$(cat "$IMAGES/suite" 2>/dev/null)" != "$SUITE" ] || return 0
	tree agnhost "$SUITE/agnhost" "$(command -v busybox)"
	add_applets agnhost
	image agnhost -entrypoint /agnhost
	rm -rf "$TREES/gnu"
	add_debian_programs "$TREES/gnu" coreutils dash grep util-linux
	image gnu
	import_images
	while read -r name; do
		case $name in
		*/agnhost:*) tag_image agnhost "$name" ;;
		*/glibc-dns-testing:*) tag_image gnu "$name" ;;
		*) tag_image busybox "$name" ;;
		esac
	done <"$SUITE/images.txt"
	echo "$SUITE" >"$IMAGES/suite"
}

# tag_image NAME REFERENCE adds a second name to an image of the rig.
tag_image() {
	within ctr --namespace k8s.io images tag --force "localhost/$1:test" "$2" >>"$LOG/images.log" 2>&1 ||
		fail "$LOG/images.log" "tag of $2"
}
