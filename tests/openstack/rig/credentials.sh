# Who may do what: the users of the services, and those of the tests. Sourced.
# shellcheck shell=bash

# credentials USER prints the options of a [keystone_authtoken]-like section.
credentials() {
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

# token_check USER prints the options with which a service checks tokens.
token_check() {
	credentials "$1"
	cat <<-END
		www_authenticate_uri = $KEYSTONE
		service_token_roles = service
		service_token_roles_required = true
	END
}

# cloud NAME USER PROJECT prints an entry of clouds.yaml.
cloud() {
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

# cloud_conf USER prints the configuration file that cloud providers share.
cloud_conf() {
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

# write_credentials: for a driver to try (csi), for the tests, which delete
# whatever they find (test), for what only an administrator may (admin), and
# for what only a service may (nova).
write_credentials() {
	{
		echo "clouds:"
		cloud csi csi csi
		cloud test test test
		cloud admin admin admin
		cloud nova nova service
	} >"$STATE/clouds.yaml"
	cloud_conf csi >"$STATE/cloud.conf"
	cloud_conf test >"$STATE/cloud-test.conf"
	cat >"$STATE/env" <<-END
		export GROWVOL_OPENSTACK_DIR='$STATE' OS_CLIENT_CONFIG_FILE='$STATE/clouds.yaml' OS_CLOUD=csi
		export LIBVIRT_DEFAULT_URI='$LIBVIRT' CEPH_CONF='$CEPH_CONF'
	END
	chmod 600 "$STATE"/cloud*
}
