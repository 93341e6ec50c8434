# Cinder on RBD, with backups. Sourced.
# shellcheck shell=bash

CINDER_CONF=$ETC/cinder.conf

cinder_config() {
	cat >"$CINDER_CONF" <<-END
		[DEFAULT]
		state_path = $LIB/cinder
		transport_url = $RABBIT
		auth_strategy = keystone
		api_paste_config = /etc/cinder/api-paste.ini
		resource_query_filters_file = /etc/cinder/resource_filters.json
		rootwrap_config = /etc/cinder/rootwrap.conf
		my_ip = 127.0.0.1
		host = $(hostname)
		enabled_backends = rbd
		default_volume_type = rbd
		glance_api_servers = $GLANCE
		volume_clear = none
		report_interval = 10
		service_down_time = 60
		periodic_interval = 30
		periodic_fuzzy_delay = 2
		scheduler_driver_init_wait_time = 5
		backup_driver = cinder.backup.drivers.ceph.CephBackupDriver
		backup_ceph_conf = $CEPH_CONF
		backup_ceph_user = cinder
		backup_ceph_pool = backups
		# What is told before the scheduler listens is lost until the next time; that
		# it has heard, only its log tells.
		backup_driver_stats_polling_interval = 10
		default_log_levels = cinder.scheduler.host_manager=DEBUG
		[rbd]
		volume_driver = cinder.volume.drivers.rbd.RBDDriver
		volume_backend_name = rbd
		rbd_pool = volumes
		rbd_ceph_conf = $CEPH_CONF
		rbd_user = cinder
		rbd_secret_uuid = $SECRET
		rbd_exclusive_cinder_pool = true
		[database]
		connection = $(database cinder)
		max_pool_size = 20
		[keystone_authtoken]
		$(token_check cinder)
		[nova]
		$(credentials cinder)
		region_name = $REGION
		interface = public
		[service_user]
		send_service_user_token = true
		$(credentials cinder)
		[key_manager]
		backend = cinder.keymgr.conf_key_mgr.ConfKeyManager
		fixed_key = $VOLUME_KEY
		[oslo_concurrency]
		lock_path = $LIB/cinder/locks
	END
}

start_cinder() {
	local name
	mkdir -p "$LIB/cinder"
	cinder_config
	filled "cinder-$(version cinder-common)" cinder cinder-manage --config-file "$CINDER_CONF" db sync
	# Backups, and Nova for encrypted volumes, look for these in /etc/ceph only.
	mkdir -p "$ETC/ceph"
	cp "$CEPH_CONF" "$ETC/ceph/ceph.conf"
	cp "$CEPH/keyring.client.cinder" "$ETC/ceph/ceph.client.cinder.keyring"
	for name in volume scheduler backup; do
		start "cinder-$name" "$RIG/bound" "$ETC/ceph" /etc/ceph -- "cinder-$name" --config-file "$CINDER_CONF" --log-file "$LOG/cinder-$name.log"
	done
	start_wsgi cinder-api 8776 /usr/bin/cinder-wsgi --pyargv "--config-file $CINDER_CONF --log-file $LOG/cinder-api.log"
}

# backups: the scheduler knows of a service that makes them.
backups() { grep -q "Received backup service update .*'backend_state': True" "$LOG/cinder-scheduler.log"; }
