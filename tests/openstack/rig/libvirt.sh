# A libvirt of the rig, beside any libvirt of the machine. The program `up` sources this file.
#
# Whatever its options are, libvirt's driver for QEMU reads /etc/libvirt/qemu.conf and keeps its
# state in fixed directories. So bind-mounted puts directories of the rig there.
# shellcheck shell=bash

start_libvirt() {
	local dir=$STATE/libvirt
	mkdir -p "$dir"/{etc,lib,cache} "$RUN/libvirt" "$LOG/libvirt"
	# Guests run as root and without confinement: the user of the rig is root, and a container can use
	# neither control groups nor AppArmor.
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
	start libvirtd "$RIG/bind-mounted" "$dir/etc" /etc/libvirt "$dir/lib" /var/lib/libvirt \
		"$dir/cache" /var/cache/libvirt "$RUN/libvirt" /run/libvirt "$LOG/libvirt" /var/log/libvirt -- \
		libvirtd --config /etc/libvirt/libvirtd.conf --pid-file /run/libvirt/libvirtd.pid
}

# virsh COMMAND... sends a command to the libvirt of the rig.
virsh() { command virsh -q -c "$LIBVIRT" "$@"; }

# give_secret gives libvirt the key with which QEMU connects to Cinder's volumes.
give_secret() {
	local xml=$STATE/libvirt/secret.xml
	await 180 "$LOG/libvirtd.out" "libvirt answers" virsh uri
	cat >"$xml" <<-END
		<secret ephemeral='no' private='no'>
			<uuid>$SECRET</uuid>
			<usage type='ceph'><name>client.cinder</name></usage>
		</secret>
	END
	{
		virsh secret-define "$xml"
		virsh secret-set-value "$SECRET" --base64 "$(awk '/key *=/ {print $3}' "$CEPH/keyring.client.cinder")"
	} >>"$LOG/libvirtd.out" 2>&1 || fail "$LOG/libvirtd.out" "give libvirt Ceph's key"
}
