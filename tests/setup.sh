#!/bin/sh
# Installs what the tests and the demo need on a Debian or Ubuntu machine and
# is not there yet: User-Mode Linux and QEMU (the guests), filesystem tools, a C
# compiler (for Go's race detector), promtool (the alerts), shellcheck and yamllint
# (`make lint`). Safe to run again; returns at once when nothing is missing.
set -eu

PATH=$PATH:/usr/sbin:/sbin

# A program of each package, as "program:package".
needed="linux.uml:user-mode-linux modprobe:kmod mke2fs:e2fsprogs mkfs.xfs:xfsprogs
mkfs.btrfs:btrfs-progs cryptsetup:cryptsetup-bin mount:mount gcc:gcc strace:strace
qemu-system-x86_64:qemu-system-x86 busybox:busybox-static
shellcheck:shellcheck yamllint:yamllint"

missing=
for pair in $needed; do
	command -v "${pair%%:*}" >/dev/null || missing="${missing:+$missing }${pair#*:}"
done
[ -e /usr/include/stdlib.h ] || missing="${missing:+$missing }libc6-dev"
# Of the package prometheus only one program is needed, not its daemon.
alone=
command -v promtool >/dev/null || alone=prometheus
[ -n "$missing$alone" ] || exit 0

if ! command -v apt-get >/dev/null; then
	echo "setup: missing: ${missing:+$missing }$alone (names of Debian packages)." >&2
	echo "setup: there is no apt-get on this machine: install them in its own way, linux.uml with" >&2
	echo "setup: /usr/lib/uml/modules from Debian's user-mode-linux." >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	missing="${missing:+$missing }$alone"
	echo "setup: missing: $missing. Only root can install them: sudo apt-get install $missing" >&2
	exit 1
fi

echo "setup: installing${missing:+ $missing}${alone:+ promtool}" >&2
log=$(mktemp)
unpacked=$(mktemp -d)
trap 'rm -rf "$log" "$unpacked"' EXIT
apt_get() {
	apt-get -qq -y -o DPkg::Lock::Timeout=900 -o Acquire::Retries=5 --no-install-recommends "$@" >>"$log" 2>&1 </dev/null
}
mend() {
	dpkg --configure --pending >>"$log" 2>&1 </dev/null || true # what lacks others is next
	apt_get install --fix-broken
}
# unpack_promtool installs this program alone: as a package, prometheus would start a daemon, and bring 11 more.
unpack_promtool() (
	cd "$unpacked"
	apt_get -o APT::Sandbox::User=root download prometheus &&
		dpkg-deb --extract prometheus_*.deb . && install -m 755 usr/bin/promtool /usr/local/bin/
) >>"$log" 2>&1
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # $missing is a list of words
install_missing() {
	if [ -n "$missing" ]; then apt_get install $missing || return; fi
	if [ -n "$alone" ]; then unpack_promtool || return; fi
}
# The package lists may be absent (container images) or out of date; and an
# installation that was killed has to be brought to its end first.
if ! install_missing; then
	if ! { apt_get update && mend && install_missing; }; then
		echo "setup: could not install ${missing:+$missing }$alone:" >&2
		cat "$log" >&2
		exit 1
	fi
fi
