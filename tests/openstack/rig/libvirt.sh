# A libvirt of our own beside any that the machine runs. Sourced.
#
# Its driver for QEMU reads /etc/libvirt/qemu.conf and keeps state in fixed
# places whatever its options say. So it sees directories of ours there.
# shellcheck shell=bash

start_libvirt() {
	local dir=$STATE/libvirt
	mkdir -p "$dir"/{etc,lib,cache} "$RUN/libvirt" "$LOG/libvirt"
	# Guests run as root without confinement: whoever runs the rig is root, and
	# a container has neither control groups nor AppArmor to give away.
	cat >"$dir/etc/qemu.conf" <<-END
		user = "root"
		group = "root"
		security_driver = "none"
		dynamic_ownership = 0
		remember_owner = 0
		cgroup_controllers = [ ]
		namespaces = [ ]
		stdio_handler = "file"
	END
	cat >"$dir/etc/libvirtd.conf" <<-END
		listen_tls = 0
		auth_unix_ro = "none"
		auth_unix_rw = "none"
		log_outputs = "3:file:$LOG/libvirtd.log"
	END
	start libvirtd "$RIG/bound" "$dir/etc" /etc/libvirt "$dir/lib" /var/lib/libvirt "$dir/cache" /var/cache/libvirt "$RUN/libvirt" /run/libvirt \
		"$LOG/libvirt" /var/log/libvirt -- libvirtd --config /etc/libvirt/libvirtd.conf --pid-file /run/libvirt/libvirtd.pid
}

virsh() { command virsh -q -c "$LIBVIRT" "$@"; }

# give_secret: the key with which QEMU reaches Cinder's volumes.
give_secret() {
	local xml=$STATE/libvirt/secret.xml
	await 180 "$LOG/libvirtd.out" "libvirt answers" virsh uri
	echo "<secret ephemeral='no' private='no'><uuid>$SECRET</uuid><usage type='ceph'><name>client.cinder</name></usage></secret>" >"$xml"
	{
		virsh secret-define "$xml"
		virsh secret-set-value "$SECRET" --base64 "$(awk '/key *=/ {print $3}' "$CEPH/keyring.client.cinder")"
	} >>"$LOG/libvirtd.out" 2>&1 || fail "$LOG/libvirtd.out" "giving libvirt Ceph's key"
}
