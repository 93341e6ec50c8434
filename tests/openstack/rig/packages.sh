# The packages that the rig needs. The program `up` sources this file.
# shellcheck shell=bash

# The guests are emulated, but nova-compute-qemu would install the emulators of every architecture.
PACKAGES="ceph-mon ceph-mgr ceph-osd ceph-common python3-rbd
mariadb-server rabbitmq-server keystone uwsgi-plugin-python3 python3-memcache
cinder-api cinder-scheduler cinder-volume cinder-backup
placement-api glance-api nova-api nova-conductor nova-scheduler nova-compute-kvm
libvirt-daemon-system qemu-system-x86 qemu-block-extra qemu-utils genisoimage curl procps"

# print_answers prints answers to the questions of the packages: no database, no endpoint.
print_answers() {
	local package question
	for package in keystone cinder-common glance-common nova-common placement-common nova-api; do
		for question in configure_db configure_api_db configure_ksat configure_rabbit create-admin-tenant \
			register-endpoint; do
			echo "$package ${package%%-*}/$question boolean false"
		done
	done
	for package in cinder glance nova placement; do
		echo "$package-api $package/register-endpoint boolean false"
	done
}

# print_missing_packages prints the packages that are not installed.
print_missing_packages() {
	local package
	for package in $PACKAGES; do
		dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' || echo "$package"
	done
}

install_packages() {
	local missing policy=/usr/sbin/policy-rc.d log=$LOG/apt.log created=
	missing=$(print_missing_packages)
	[ -n "$missing" ] || return 0
	command -v apt-get >/dev/null ||
		fail "" "this machine has no apt-get to install packages of Debian 12: $(echo "$missing" | tr '\n' ' ')"
	say "installing $(echo "$missing" | wc -w) packages and their dependencies (some minutes)"
	# The packages must not start services: the rig starts its own.
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod +x $policy
		created=1
	fi
	print_answers | debconf-set-selections
	# The package lists may be missing (in container images) or out of date, and an installation that
	# was killed must be repaired first.
	# shellcheck disable=SC2086 # a list of words
	apt_get install $missing || { apt_get update && repair_packages && apt_get install $missing; } || {
		[ -z "$created" ] || rm -f $policy
		fail "$log" "apt-get install"
	}
	[ -z "$created" ] || rm -f $policy
	say "packages installed"
}

# apt_get COMMAND... runs apt-get without questions.
apt_get() {
	DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=900 -o Acquire::Retries=5 \
		--no-install-recommends "$@" >>"$LOG/apt.log" 2>&1 </dev/null 9>&-
}

# repair_packages finishes an installation that was killed.
repair_packages() {
	# dpkg fails for packages whose dependencies are missing; the next step installs these.
	DEBIAN_FRONTEND=noninteractive dpkg --configure --pending >>"$LOG/apt.log" 2>&1 </dev/null 9>&- || true
	apt_get install --fix-broken
}

# package_version PACKAGE prints the version with only the characters that a file name may have.
package_version() { dpkg-query -W -f '${Version}' "$1" | tr -c 'A-Za-z0-9.' _; }
