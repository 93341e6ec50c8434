# Nova and what it needs: placement, Glance, and in place of Neutron a stub,
# for servers without networks. Sourced.
# shellcheck shell=bash

NOVA_CONF=$ETC/nova.conf
GLANCE_CONF=$ETC/glance-api.conf

placement_config() {
	mkdir -p "$ETC/placement"
	cat >"$ETC/placement/placement.conf" <<-END
		[DEFAULT]
		log_file = $LOG/placement.log
		[api]
		auth_strategy = keystone
		[placement_database]
		connection = $(database placement)
		[keystone_authtoken]
		$(token_check placement)
	END
}

glance_config() {
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
		connection = $(database glance)
		[keystone_authtoken]
		$(token_check glance)
		[paste_deploy]
		flavor = keystone
		config_file = /etc/glance/glance-api-paste.ini
	END
}

nova_config() {
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
		# Without it, half a minute may pass until the hypervisor is known.
		periodic_fuzzy_delay = 0
		vif_plugging_is_fatal = false
		vif_plugging_timeout = 0
		[api]
		auth_strategy = keystone
		[wsgi]
		api_paste_config = /etc/nova/api-paste.ini
		[api_database]
		connection = $(database nova_api)
		[database]
		connection = $(database nova)
		[keystone_authtoken]
		$(token_check nova)
		[service_user]
		# Cinder lets only a service detach what an instance uses.
		send_service_user_token = true
		$(credentials nova)
		[placement]
		$(credentials placement)
		region_name = $REGION
		valid_interfaces = public
		[neutron]
		$(credentials neutron)
		endpoint_override = $NEUTRON
		[cinder]
		catalog_info = volumev3::publicURL
		os_region_name = $REGION
		$(credentials cinder)
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
		# A TCP port and a log: the pty that is the default can be read once.
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

nova_migrations() {
	nova-manage --config-file "$NOVA_CONF" api_db sync &&
		nova-manage --config-file "$NOVA_CONF" cell_v2 map_cell0 --database_connection "$(database nova_cell0)" &&
		nova-manage --config-file "$NOVA_CONF" db sync &&
		nova-manage --config-file "$NOVA_CONF" cell_v2 create_cell --name cell1
}

start_nova() {
	local name
	placement_config
	glance_config
	nova_config
	filled "placement-$(version placement-common)" placement placement-manage --config-file "$ETC/placement/placement.conf" db sync
	filled "glance-$(version glance-common)" glance glance-manage --config-file "$GLANCE_CONF" db_sync
	filled "nova-$(version nova-common)" "nova_api nova nova_cell0" nova_migrations
	start neutron python3 "$RIG/neutron.py" "${NEUTRON##*:}"
	start glance-api glance-api --config-file "$GLANCE_CONF"
	start_wsgi placement 8778 /usr/bin/placement-api --env "OS_PLACEMENT_CONFIG_DIR=$ETC/placement"
	# Not under uwsgi: its replies from the message queue would never come,
	# because it replaces the threads that uwsgi gives it.
	for name in api conductor scheduler compute; do
		start "nova-$name" "$RIG/bound" "$ETC/ceph" /etc/ceph -- "nova-$name" --config-file "$NOVA_CONF" --log-file "$LOG/nova-$name.log"
	done
}
