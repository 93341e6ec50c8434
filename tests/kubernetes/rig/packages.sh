# Installs the programs that the rig runs and does not build from modules. Sourced.
# shellcheck shell=bash

# The programs and their Debian packages, as PROGRAM:PACKAGE.
PACKAGES="runc:runc busybox:busybox-static nsenter:util-linux ip:iproute2 openssl:openssl flock:util-linux pkill:procps
losetup:mount mke2fs:e2fsprogs mkfs.xfs:xfsprogs cryptsetup:cryptsetup-bin"

# missing_packages prints the packages that are not installed.
missing_packages() {
	local pair
	for pair in $PACKAGES; do
		command -v "${pair%%:*}" >/dev/null || echo "${pair#*:}"
	done
	[ -x /usr/lib/cni/bridge ] || echo containernetworking-plugins
}

install_packages() {
	local missing log=$LOG/apt.log
	missing=$(missing_packages | sort -u)
	[ -n "$missing" ] || return 0
	say "installing $(echo "$missing" | tr '\n' ' ')"
	# The package lists may be missing (container images) or old, and an installation that
	# was killed must be completed first.
	# shellcheck disable=SC2086 # a list
	apt_get install $missing || { apt_get update && repair_packages && apt_get install $missing; } ||
		fail "$log" "apt-get install"
}

apt_get() {
	DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=900 -o Acquire::Retries=5 \
		--no-install-recommends "$@" \
		>>"$LOG/apt.log" 2>&1 </dev/null 9>&-
}

# repair_packages completes an installation that was killed.
repair_packages() {
	# dpkg fails for a package whose dependencies are missing, which --fix-broken installs.
	DEBIAN_FRONTEND=noninteractive dpkg --configure --pending >>"$LOG/apt.log" 2>&1 </dev/null 9>&- || true
	apt_get install --fix-broken
}
