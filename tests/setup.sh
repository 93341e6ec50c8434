#!/bin/sh
# Installs what the tests and the demo need on a Debian or Ubuntu machine and
# is not there yet: User-Mode Linux and QEMU (the guests), filesystem tools, a C
# compiler (for Go's race detector and for Ceph's libraries), promtool (the alerts), shellcheck and
# yamllint (`make lint`). Safe to run again; returns at once when nothing is missing.
#
#   setup.sh [release]    release: instead, what builds a release and starts its programs
set -eu

PATH=$PATH:/usr/sbin:/sbin

# One program of each package, as "program:package".
needed="patchelf:patchelf modprobe:kmod mke2fs:e2fsprogs mkfs.xfs:xfsprogs
mkfs.btrfs:btrfs-progs cryptsetup:cryptsetup-bin mount:mount gcc:gcc strace:strace
qemu-system-x86_64:qemu-system-x86 busybox:busybox-static
shellcheck:shellcheck yamllint:yamllint"
# One header of each package, in the same form.
headers="/usr/include/stdlib.h:libc6-dev /usr/include/rados/librados.h:librados-dev /usr/include/rbd/librbd.h:librbd-dev"
# promtool is in the package prometheus, whose daemon is not wanted.
unpack=
command -v promtool >/dev/null || unpack=prometheus
kernel_dir=/usr/local/lib/user-mode-linux # tests/guest reads it
kernel=
[ -x "$kernel_dir/linux.uml" ] || kernel=user-mode-linux
if [ "${1-}" = release ]; then
	needed="git:git gpgv:gpgv xz:xz-utils x86_64-linux-gnu-gcc:gcc aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu
	qemu-aarch64-static:qemu-user-static"
	headers="/usr/include/stdlib.h:libc6-dev /usr/aarch64-linux-gnu/include/stdlib.h:libc6-dev-arm64-cross"
	unpack='' kernel=''
fi

missing=
for pair in $needed; do
	command -v "${pair%%:*}" >/dev/null || missing="${missing:+$missing }${pair#*:}"
done
for pair in $headers; do
	[ -e "${pair%%:*}" ] || missing="${missing:+$missing }${pair#*:}"
done
[ -n "$missing$unpack$kernel" ] || exit 0
all="${missing:+$missing }$unpack${kernel:+ $kernel}"

if ! command -v apt-get >/dev/null; then
	echo "setup: missing Debian packages: $all" >&2
	echo "setup: this machine has no apt-get: install the packages by its own means, and from Debian's" >&2
	echo "setup: package user-mode-linux $kernel_dir/linux.uml and its modules/." >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	echo "setup: missing Debian packages: $all. Run as root: tests/setup.sh" >&2
	exit 1
fi

echo "setup: installing${missing:+ $missing}${unpack:+ promtool}${kernel:+ $kernel}" >&2
log=$(mktemp)
unpacked=$(mktemp -d)
trap 'rm -rf "$log" "$unpacked"' EXIT
apt_get() {
	apt-get -qq -y -o DPkg::Lock::Timeout=900 -o Acquire::Retries=5 --no-install-recommends "$@" >>"$log" 2>&1 </dev/null
}
repair_packages() {
	# Fails for packages whose dependencies are missing; the next command installs those.
	dpkg --configure --pending >>"$log" 2>&1 </dev/null || true
	apt_get install --fix-broken
}
# unpack_promtool installs the program without the package, which starts a daemon and depends
# on 11 others.
unpack_promtool() (
	cd "$unpacked"
	apt_get -o APT::Sandbox::User=root download prometheus &&
		dpkg-deb --extract prometheus_*.deb . && install -m 755 usr/bin/promtool /usr/local/bin/
) >>"$log" 2>&1
# unpack_kernel installs the User-Mode Linux of the Debian release after the present one: since
# Linux 6.16 the guest's programs run without ptrace, and the tests in guests take a third of the
# time. It needs a newer libc than this machine may have, and gets it in its own directory.
unpack_kernel() (
	cd "$unpacked"
	# shellcheck disable=SC2016 # apt-get expands them
	archive=$(apt-get indextargets --format='$(LABEL) $(REPO_URI)' 'Created-By: Packages' | sed -n '/^Debian /{s///p;q}')
	[ -n "$archive" ] || return
	mkdir lists
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive forky main" >sources.list
	newer() {
		apt_get -o Dir::Etc::SourceList="$PWD/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$PWD/lists" \
			-o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root "$@"
	}
	newer update && newer download user-mode-linux libc6 || return
	dpkg-deb --extract user-mode-linux_*.deb kernel && dpkg-deb --extract libc6_*.deb libc || return
	rm -rf "$kernel_dir.new" && mkdir -p "$kernel_dir.new/lib" || return
	libc=libc/usr/lib/x86_64-linux-gnu
	cp "$libc/ld-linux-x86-64.so.2" "$libc/libc.so.6" "$kernel_dir.new/lib/" &&
		cp kernel/usr/bin/linux.uml "$kernel_dir.new/" && cp -r kernel/usr/lib/uml/modules "$kernel_dir.new/" &&
		patchelf --set-interpreter "$kernel_dir/lib/ld-linux-x86-64.so.2" --set-rpath "$kernel_dir/lib" \
			"$kernel_dir.new/linux.uml" &&
		rm -rf "$kernel_dir" && mv "$kernel_dir.new" "$kernel_dir" && "$kernel_dir/linux.uml" --version
) >>"$log" 2>&1
# link_kernel makes the tests use the User-Mode Linux of the present release.
link_kernel() {
	apt_get install user-mode-linux || return
	echo "setup: no User-Mode Linux of a newer Debian release can be had: the guests will be slow" >&2
	rm -rf "$kernel_dir"
	mkdir -p "$kernel_dir"
	ln -s /usr/lib/uml/modules "$kernel_dir/modules"
	ln -s "$(command -v linux.uml)" "$kernel_dir/linux.uml"
}
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # $missing is a list of words
install_missing() {
	if [ -n "$missing" ]; then apt_get install $missing || return; fi
	if [ -n "$unpack" ]; then unpack_promtool || return; fi
}
fail() {
	echo "setup: apt-get failed to install $all:" >&2
	cat "$log" >&2
	exit 1
}
# The package lists may be absent (container images) or old, and an installation that was
# killed must be completed first.
if ! install_missing; then
	{ apt_get update && repair_packages && install_missing; } || fail
fi
if [ -n "$kernel" ] && ! unpack_kernel; then
	{ apt_get update && unpack_kernel; } || link_kernel || fail
fi
