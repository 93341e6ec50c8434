# The daemons of Ceph: one monitor, one manager and three OSDs on sparse files. The program `up`
# sources this file.
# shellcheck shell=bash

# write_ceph_config FSID writes ceph.conf.
write_ceph_config() {
	cat >"$CEPH_CONF" <<-END
		[global]
		fsid = $1
		mon_initial_members = a
		mon_host = [v2:$ADDRESS:3300,v1:$ADDRESS:6789]
		public_network = $ADDRESS/24
		ms_bind_ipv6 = false
		auth_allow_insecure_global_id_reclaim = false
		keyring = $STATE/keyring.\$name
		log_file = $LOG/ceph-\$name.log
		admin_socket = $RUN/ceph-\$name.asok
		run_dir = $RUN
		crash_dir = $LOG
		mon_data = $STATE/mon
		mgr_data = $STATE/mgr
		osd_data = $STATE/osd.\$id
		osd_class_dir = /usr/lib/$(uname -m)-linux-gnu/rados-classes
		mgr_initial_modules =
		# All data has one copy.
		osd_pool_default_size = 1
		osd_pool_default_min_size = 1
		osd_pool_default_pg_num = 8
		osd_pool_default_pgp_num = 8
		osd_pool_default_pg_autoscale_mode = off
		osd_crush_chooseleaf_type = 0
		mon_allow_pool_size_one = true
		mon_allow_pool_delete = true
		mon_warn_on_pool_no_redundancy = false
		mon_data_avail_warn = 1
		mon_data_avail_crit = 1
		bluestore_block_size = $OSD_SIZE
		bluestore_block_create = true
		bluestore_fsck_on_mount = false
		osd_memory_target = 939524096
		# Quick answers of the monitor and quick statistics matter more here than their load.
		mon_tick_interval = 1
		paxos_propose_interval = 0.1
		mgr_tick_period = 1
		mgr_stats_period = 1
		# Tests pause OSDs, and the monitor must not mark them down.
		mon_osd_report_timeout = 900
		osd_heartbeat_grace = 900
		mon_osd_min_in_ratio = 0
		[client]
		admin_socket =
		log_file =
	END
}

# start_ceph_monitor creates the monitor of a new cluster and starts it.
start_ceph_monitor() {
	local fsid keyring=$STATE/keyring.client.admin
	fsid=$(</proc/sys/kernel/random/uuid)
	mkdir -p "$STATE"/{mon,mgr}
	write_ceph_config "$fsid"
	ceph-authtool --create-keyring "$keyring" --gen-key -n mon. --cap mon 'allow *'
	ceph-authtool "$keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
	monmaptool --create --clobber --addv a "[v2:$ADDRESS:3300,v1:$ADDRESS:6789]" --fsid "$fsid" "$STATE/monmap"
	inside ceph-mon -c "$CEPH_CONF" --mkfs -i a --monmap "$STATE/monmap" --keyring "$keyring"
	cp "$STATE/mon/keyring" "$STATE/keyring.mon.a"
	start_daemon mon a
}

# start_daemon KIND ID starts a daemon. Its log is ceph-KIND.ID.log.
start_daemon() {
	start "$1.$2" ip netns exec "$NAMESPACE" "ceph-$1" -c "$CEPH_CONF" -f -i "$2"
}

# start_osd ID UUID creates an OSD and starts it.
start_osd() {
	mkdir -p "$STATE/osd.$1"
	inside ceph-osd -c "$CEPH_CONF" -i "$1" --mkfs --osd-uuid "$2" >"$LOG/mkfs.osd.$1.log" 2>&1 9>&- ||
		fail "$LOG/mkfs.osd.$1.log" "create the OSD $1"
	start_daemon osd "$1"
}

# start_ceph starts Ceph and returns when its pools accept data.
start_ceph() {
	local id uuids=() makers=()
	for ((id = 0; id < OSDS; id++)); do uuids+=("$(</proc/sys/kernel/random/uuid)"); done
	start_ceph_monitor >"$LOG/setup.log" 2>&1 || fail "$LOG/setup.log" "create Ceph's monitor"
	configure_ceph add_daemons "${uuids[@]}"
	say "the monitor answers"
	start_daemon mgr x
	for id in "${!uuids[@]}"; do
		start_osd "$id" "${uuids[id]}" &
		makers+=($!)
	done
	for id in "${makers[@]}"; do wait "$id"; done
	configure_ceph add_pools
	say "the pools accept data"
}

# configure_ceph METHOD ARGUMENT... runs a method of cluster.py.
configure_ceph() {
	PYTHONPATH=$OPENSTACK inside timeout 120 python3 -B "$RIG/cluster.py" "$CEPH_CONF" "$@" >>"$LOG/setup.log" 2>&1 9>&- ||
		fail "$LOG/setup.log" "configure Ceph ($1)"
}

# is_answering_ceph succeeds if Ceph completes a write within 20 seconds.
is_answering_ceph() {
	PYTHONPATH=$OPENSTACK inside timeout 20 python3 -B "$RIG/cluster.py" "$CEPH_CONF" await_pool volumes >>"$LOG/setup.log" 2>&1 9>&-
}
