# Cinder on RBD, with backups. The program `up` sources this file.
# shellcheck shell=bash

CINDER_CONF=$ETC/cinder.conf

write_cinder_config() {
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
		# The scheduler loses reports that are sent before it listens. Only its log shows
		# that it has received one: see has_backup_service.
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
		connection = $(database_url cinder)
		max_pool_size = 20
		[keystone_authtoken]
		$(print_token_check cinder)
		[nova]
		$(print_credentials cinder)
		region_name = $REGION
		interface = public
		[service_user]
		send_service_user_token = true
		$(print_credentials cinder)
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
	write_cinder_config
	fill_databases "cinder-$(package_version cinder-common)" cinder \
		cinder-manage --config-file "$CINDER_CONF" db sync
	# cinder-backup, and Nova for encrypted volumes, read these files only in /etc/ceph.
	mkdir -p "$ETC/ceph"
	cp "$CEPH_CONF" "$ETC/ceph/ceph.conf"
	cp "$CEPH/keyring.client.cinder" "$ETC/ceph/ceph.client.cinder.keyring"
	for name in volume scheduler backup; do
		start "cinder-$name" "$RIG/bind-mounted" "$ETC/ceph" /etc/ceph -- \
			"cinder-$name" --config-file "$CINDER_CONF" --log-file "$LOG/cinder-$name.log"
	done
	start_wsgi cinder-api 8776 /usr/bin/cinder-wsgi --pyargv "--config-file $CINDER_CONF --log-file $LOG/cinder-api.log"
}

# has_backup_service succeeds if the scheduler knows a service that makes backups.
has_backup_service() { grep -q "Received backup service update .*'backend_state': True" "$LOG/cinder-scheduler.log"; }
