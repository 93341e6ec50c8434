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
needed="linux.uml:user-mode-linux modprobe:kmod mke2fs:e2fsprogs mkfs.xfs:xfsprogs
mkfs.btrfs:btrfs-progs cryptsetup:cryptsetup-bin mount:mount gcc:gcc strace:strace
qemu-system-x86_64:qemu-system-x86 busybox:busybox-static
shellcheck:shellcheck yamllint:yamllint"
# One header of each package, in the same form.
headers="/usr/include/stdlib.h:libc6-dev /usr/include/rados/librados.h:librados-dev /usr/include/rbd/librbd.h:librbd-dev"
# promtool is in the package prometheus, whose daemon is not wanted.
unpack=
command -v promtool >/dev/null || unpack=prometheus
if [ "${1-}" = release ]; then
	needed="git:git gpgv:gpgv xz:xz-utils x86_64-linux-gnu-gcc:gcc aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu
	qemu-aarch64-static:qemu-user-static"
	headers="/usr/include/stdlib.h:libc6-dev /usr/aarch64-linux-gnu/include/stdlib.h:libc6-dev-arm64-cross"
	unpack=
fi

missing=
for pair in $needed; do
	command -v "${pair%%:*}" >/dev/null || missing="${missing:+$missing }${pair#*:}"
done
for pair in $headers; do
	[ -e "${pair%%:*}" ] || missing="${missing:+$missing }${pair#*:}"
done
[ -n "$missing$unpack" ] || exit 0

if ! command -v apt-get >/dev/null; then
	echo "setup: missing Debian packages: ${missing:+$missing }$unpack" >&2
	echo "setup: this machine has no apt-get: install the packages by its own means, and linux.uml" >&2
	echo "setup: with /usr/lib/uml/modules from Debian's package user-mode-linux." >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	missing="${missing:+$missing }$unpack"
	echo "setup: missing Debian packages: $missing. Run: sudo apt-get install $missing" >&2
	exit 1
fi

echo "setup: installing${missing:+ $missing}${unpack:+ promtool}" >&2
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
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # $missing is a list of words
install_missing() {
	if [ -n "$missing" ]; then apt_get install $missing || return; fi
	if [ -n "$unpack" ]; then unpack_promtool || return; fi
}
# The package lists may be absent (container images) or old, and an installation that was
# killed must be completed first.
if ! install_missing; then
	if ! { apt_get update && repair_packages && install_missing; }; then
		echo "setup: apt-get failed to install ${missing:+$missing }$unpack:" >&2
		cat "$log" >&2
		exit 1
	fi
fi
