# The credentials of the services and of the tests. The program `up` sources this file.
# shellcheck shell=bash

# print_credentials USER prints the options with which a service signs in to Keystone.
print_credentials() {
	cat <<-END
		auth_url = $KEYSTONE
		auth_type = password
		project_domain_name = Default
		user_domain_name = Default
		project_name = service
		username = $1
		password = $PASSWORD
	END
}

# print_token_check USER prints the options with which a service checks tokens.
print_token_check() {
	print_credentials "$1"
	cat <<-END
		www_authenticate_uri = $KEYSTONE
		service_token_roles = service
		service_token_roles_required = true
	END
}

# print_cloud NAME USER PROJECT prints an entry of clouds.yaml.
print_cloud() {
	cat <<-END
		  $1:
		    region_name: $REGION
		    auth:
		      auth_url: $KEYSTONE
		      username: $2
		      password: $PASSWORD
		      project_name: $3
		      user_domain_name: Default
		      project_domain_name: Default
	END
}

# print_cloud_conf USER prints a cloud.conf, the configuration of cinder-csi-plugin.
print_cloud_conf() {
	cat <<-END
		[Global]
		auth-url = "$KEYSTONE"
		username = "$1"
		password = "$PASSWORD"
		tenant-name = "$1"
		domain-name = "Default"
		region = "$REGION"
	END
}

# write_credentials writes clouds.yaml, cloud.conf and env. The clouds are csi (to try a driver),
# test (for the tests, which delete everything in the project), admin (an administrator) and nova (a
# service).
write_credentials() {
	{
		echo "clouds:"
		print_cloud csi csi csi
		print_cloud test test test
		print_cloud admin admin admin
		print_cloud nova nova service
	} >"$STATE/clouds.yaml"
	print_cloud_conf csi >"$STATE/cloud.conf"
	print_cloud_conf test >"$STATE/cloud-test.conf"
	cat >"$STATE/env" <<-END
		export GROWVOL_OPENSTACK_DIR='$STATE' OS_CLIENT_CONFIG_FILE='$STATE/clouds.yaml' OS_CLOUD=csi
		export LIBVIRT_DEFAULT_URI='$LIBVIRT' CEPH_CONF='$CEPH_CONF'
	END
	chmod 600 "$STATE"/cloud*
}
