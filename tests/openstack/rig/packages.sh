# Installing what the rig runs. Sourced.
# shellcheck shell=bash

# nova-compute-kvm, though guests are emulated: nova-compute-qemu would bring
# in the emulators of every architecture.
PACKAGES="ceph-mon ceph-mgr ceph-osd ceph-common python3-rbd
mariadb-server rabbitmq-server keystone uwsgi-plugin-python3 python3-memcache
cinder-api cinder-scheduler cinder-volume cinder-backup
placement-api glance-api nova-api nova-conductor nova-scheduler nova-compute-kvm
libvirt-daemon-system qemu-system-x86 qemu-block-extra qemu-utils genisoimage curl procps"

# preseed answers the packages' questions: no database, no endpoint.
preseed() {
	local package question
	for package in keystone cinder-common glance-common nova-common placement-common nova-api; do
		for question in configure_db configure_api_db configure_ksat configure_rabbit create-admin-tenant register-endpoint; do
			echo "$package ${package%%-*}/$question boolean false"
		done
	done
	for package in cinder glance nova placement; do
		echo "$package-api $package/register-endpoint boolean false"
	done
}

missing_packages() {
	local package
	for package in $PACKAGES; do
		dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' || echo "$package"
	done
}

install_packages() {
	local missing policy=/usr/sbin/policy-rc.d log=$LOG/apt.log made=
	missing=$(missing_packages)
	[ -n "$missing" ] || return 0
	command -v apt-get >/dev/null || fail "" "there is no apt-get here to install, from Debian 12: $(echo "$missing" | tr '\n' ' ')"
	say "installing $(echo "$missing" | wc -w) packages and what they need (some minutes)"
	# Packages must not start services: the rig starts its own.
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod +x $policy
		made=1
	fi
	preseed | debconf-set-selections
	# The package lists may be absent (container images) or out of date; and an
	# installation that was killed has to be brought to its end first.
	# shellcheck disable=SC2086
	apt_get install $missing || { apt_get update && mend_packages && apt_get install $missing; } || {
		[ -z "$made" ] || rm -f $policy
		fail "$log" "apt-get install"
	}
	[ -z "$made" ] || rm -f $policy
	say "packages installed"
}

apt_get() {
	DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=900 -o Acquire::Retries=5 --no-install-recommends "$@" \
		>>"$LOG/apt.log" 2>&1 </dev/null 9>&-
}

mend_packages() {
	DEBIAN_FRONTEND=noninteractive dpkg --configure --pending >>"$LOG/apt.log" 2>&1 </dev/null 9>&- || true # what lacks others is next
	apt_get install --fix-broken
}

# version PACKAGE prints its version in a form fit for the name of a file.
version() { dpkg-query -W -f '${Version}' "$1" | tr -c 'A-Za-z0-9.' _; }
