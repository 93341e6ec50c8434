# Nova, and the services on which it depends: Placement, Glance and, in place of Neutron, a stub for
# servers without networks. The program `up` sources this file.
# shellcheck shell=bash

NOVA_CONF=$ETC/nova.conf
GLANCE_CONF=$ETC/glance-api.conf

write_placement_config() {
	mkdir -p "$ETC/placement"
	cat >"$ETC/placement/placement.conf" <<-END
		[DEFAULT]
		log_file = $LOG/placement.log
		[api]
		auth_strategy = keystone
		[placement_database]
		connection = $(database_url placement)
		[keystone_authtoken]
		$(print_token_check placement)
	END
}

write_glance_config() {
	mkdir -p "$LIB/glance"
	cat >"$GLANCE_CONF" <<-END
		[DEFAULT]
		log_file = $LOG/glance-api.log
		bind_host = 127.0.0.1
		workers = 1
		enabled_backends = fs:file
		enabled_import_methods = []
		transport_url = $RABBIT
		image_cache_dir = $LIB/glance/cache
		node_staging_uri = file://$LIB/glance/staging
		worker_self_reference_url = $GLANCE
		[glance_store]
		default_backend = fs
		[fs]
		filesystem_store_datadir = $LIB/glance/images
		[os_glance_tasks_store]
		filesystem_store_datadir = $LIB/glance/tasks
		[os_glance_staging_store]
		filesystem_store_datadir = $LIB/glance/staging
		[database]
		connection = $(database_url glance)
		[keystone_authtoken]
		$(print_token_check glance)
		[paste_deploy]
		flavor = keystone
		config_file = /etc/glance/glance-api-paste.ini
	END
}

write_nova_config() {
	mkdir -p "$LIB/nova/instances"
	cat >"$NOVA_CONF" <<-END
		[DEFAULT]
		state_path = $LIB/nova
		instances_path = $LIB/nova/instances
		transport_url = $RABBIT
		my_ip = 127.0.0.1
		host = $(hostname)
		compute_driver = libvirt.LibvirtDriver
		rootwrap_config = /etc/nova/rootwrap.conf
		enabled_apis = osapi_compute
		osapi_compute_listen = 127.0.0.1
		osapi_compute_workers = 1
		reserved_host_memory_mb = 0
		ram_allocation_ratio = 4.0
		cpu_allocation_ratio = 32.0
		disk_allocation_ratio = 100.0
		heal_instance_info_cache_interval = -1
		sync_power_state_interval = -1
		report_interval = 10
		service_down_time = 60
		# The default may delay the report of the hypervisor by half a minute.
		periodic_fuzzy_delay = 0
		vif_plugging_is_fatal = false
		vif_plugging_timeout = 0
		[api]
		auth_strategy = keystone
		[wsgi]
		api_paste_config = /etc/nova/api-paste.ini
		[api_database]
		connection = $(database_url nova_api)
		[database]
		connection = $(database_url nova)
		[keystone_authtoken]
		$(print_token_check nova)
		[service_user]
		# Cinder lets only a service detach a volume that an instance uses.
		send_service_user_token = true
		$(print_credentials nova)
		[placement]
		$(print_credentials placement)
		region_name = $REGION
		valid_interfaces = public
		[neutron]
		$(print_credentials neutron)
		endpoint_override = $NEUTRON
		[cinder]
		catalog_info = volumev3::publicURL
		os_region_name = $REGION
		$(print_credentials cinder)
		[glance]
		api_servers = $GLANCE
		[conductor]
		workers = 1
		[scheduler]
		workers = 1
		discover_hosts_in_cells_interval = 2
		[libvirt]
		virt_type = qemu
		cpu_mode = none
		connection_uri = $LIBVIRT
		hw_machine_type = x86_64=pc
		images_type = default
		inject_partition = -2
		rbd_user = cinder
		rbd_secret_uuid = $SECRET
		swtpm_enabled = false
		[vnc]
		enabled = false
		[serial_console]
		# A TCP port and a log: the default, a pty, can be read only once.
		enabled = true
		port_range = 10000:10200
		proxyclient_address = 127.0.0.1
		[key_manager]
		backend = nova.keymgr.conf_key_mgr.ConfKeyManager
		fixed_key = $VOLUME_KEY
		[oslo_concurrency]
		lock_path = $LIB/nova/locks
		[workarounds]
		skip_cpu_compare_on_dest = true
	END
	local context
	for context in privsep_osbrick nova_sys_admin vif_plug_linux_bridge_privileged vif_plug_ovs_privileged; do
		printf '[%s]\nhelper_command = privsep-helper --config-file %s\n' "$context" "$NOVA_CONF"
	done >>"$NOVA_CONF"
}

migrate_nova() {
	nova-manage --config-file "$NOVA_CONF" api_db sync &&
		nova-manage --config-file "$NOVA_CONF" cell_v2 map_cell0 --database_connection "$(database_url nova_cell0)" &&
		nova-manage --config-file "$NOVA_CONF" db sync &&
		nova-manage --config-file "$NOVA_CONF" cell_v2 create_cell --name cell1
}

start_nova() {
	local name
	write_placement_config
	write_glance_config
	write_nova_config
	fill_databases "placement-$(package_version placement-common)" placement \
		placement-manage --config-file "$ETC/placement/placement.conf" db sync
	fill_databases "glance-$(package_version glance-common)" glance \
		glance-manage --config-file "$GLANCE_CONF" db_sync
	fill_databases "nova-$(package_version nova-common)" "nova_api nova nova_cell0" migrate_nova
	start neutron python3 "$RIG/neutron.py" "${NEUTRON##*:}"
	start glance-api glance-api --config-file "$GLANCE_CONF"
	start_wsgi placement 8778 /usr/bin/placement-api --env "OS_PLACEMENT_CONFIG_DIR=$ETC/placement"
	# Under uwsgi nova-api would never get replies from the message queue, because it replaces the
	# threads that uwsgi gives it.
	for name in api conductor scheduler compute; do
		start "nova-$name" "$RIG/bind-mounted" "$ETC/ceph" /etc/ceph -- \
			"nova-$name" --config-file "$NOVA_CONF" --log-file "$LOG/nova-$name.log"
	done
}
