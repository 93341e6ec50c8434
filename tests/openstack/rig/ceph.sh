# Ceph: one monitor, one manager and one OSD on a sparse file, with one copy of all data.
# The program `up` sources this file.
# shellcheck shell=bash

CEPH=$STATE/ceph
CEPH_CONF=$CEPH/ceph.conf
OSD_SIZE=$((40 << 30)) # bytes; the file is sparse

# write_ceph_config FSID writes ceph.conf.
write_ceph_config() {
	cat >"$CEPH_CONF" <<-END
		[global]
		fsid = $1
		mon_initial_members = a
		# Cinder passes only addresses of protocol 1 to Nova.
		mon_host = [v2:127.0.0.1:3300,v1:127.0.0.1:6789]
		public_network = 127.0.0.0/8
		cluster_network = 127.0.0.0/8
		ms_bind_ipv6 = false
		auth_allow_insecure_global_id_reclaim = false
		keyring = $CEPH/keyring.\$name
		log_file = $LOG/ceph-\$name.log
		admin_socket = $RUN/ceph-\$name.\$pid.asok
		run_dir = $RUN
		crash_dir = $LOG
		mon_data = $CEPH/mon
		mgr_data = $CEPH/mgr
		osd_data = $CEPH/osd
		mgr_initial_modules =
		# One OSD, one copy.
		osd_pool_default_size = 1
		osd_pool_default_min_size = 1
		osd_pool_default_pg_autoscale_mode = off
		osd_crush_chooseleaf_type = 0
		mon_allow_pool_size_one = true
		mon_warn_on_pool_no_redundancy = false
		mon_data_avail_warn = 1
		mon_data_avail_crit = 1
		bluestore_block_size = $OSD_SIZE
		bluestore_block_create = true
		bluestore_fsck_on_mount = false
		osd_memory_target = 939524096
		# Quick answers of the monitor matter more here than its load.
		mon_tick_interval = 1
		paxos_propose_interval = 0.1
	END
}

# start_ceph_monitor creates the monitor of a new cluster and starts it.
start_ceph_monitor() {
	local fsid keyring=$CEPH/keyring.client.admin
	fsid=$(</proc/sys/kernel/random/uuid)
	mkdir -p "$CEPH"/{mon,mgr,osd}
	write_ceph_config "$fsid"
	ceph-authtool --create-keyring "$keyring" --gen-key -n mon. --cap mon 'allow *'
	ceph-authtool "$keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
	monmaptool --create --clobber --addv a '[v2:127.0.0.1:3300,v1:127.0.0.1:6789]' --fsid "$fsid" "$CEPH/monmap"
	ceph-mon -c "$CEPH_CONF" --mkfs -i a --monmap "$CEPH/monmap" --keyring "$keyring"
	cp "$CEPH/mon/keyring" "$CEPH/keyring.mon.a"
	start ceph-mon ceph-mon -c "$CEPH_CONF" -f -i a
}

# start_ceph starts Ceph and returns when a pool accepts data.
start_ceph() {
	local osd
	osd=$(</proc/sys/kernel/random/uuid)
	start_ceph_monitor >"$LOG/ceph-setup.log" 2>&1 || fail "$LOG/ceph-setup.log" "create Ceph's monitor"
	configure_ceph add_daemons "$osd"
	start ceph-mgr ceph-mgr -c "$CEPH_CONF" -f -i x
	ceph-osd -c "$CEPH_CONF" -i 0 --mkfs --osd-uuid "$osd" >>"$LOG/ceph-setup.log" 2>&1 ||
		fail "$LOG/ceph-setup.log" "create Ceph's OSD"
	start ceph-osd ceph-osd -c "$CEPH_CONF" -f -i 0
	configure_ceph add_pools
	say "Ceph accepts data"
}

# configure_ceph METHOD ARGUMENT... runs a method of ceph.py.
configure_ceph() {
	timeout 600 python3 "$RIG/ceph.py" "$CEPH_CONF" "$@" >>"$LOG/ceph-setup.log" 2>&1 9>&- ||
		fail "$LOG/ceph-setup.log" "configure Ceph ($1)"
}
