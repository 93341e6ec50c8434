# Keystone, and the objects that are created through the APIs. The program `up` sources this file.
# shellcheck shell=bash

write_keystone_config() {
	mkdir -p "$ETC/keystone"
	cat >"$ETC/keystone/keystone.conf" <<-END
		[DEFAULT]
		log_file = $LOG/keystone.log
		[database]
		connection = $(database_url keystone)
		[token]
		provider = fernet
		expiration = 86400
		[identity]
		# The minimum: hashing is slow on purpose.
		password_hash_rounds = 4
		[fernet_tokens]
		key_repository = $ETC/keystone/fernet-keys
		[fernet_receipts]
		key_repository = $ETC/keystone/fernet-keys
		[credential]
		key_repository = $ETC/keystone/credential-keys
		[cache]
		enabled = true
		backend = dogpile.cache.memory
	END
	# These are the files that keystone-manage fernet_setup and credential_setup create.
	local kind key
	for kind in fernet credential; do
		mkdir "$ETC/keystone/$kind-keys"
		chmod 700 "$ETC/keystone/$kind-keys"
		for key in 0 1; do
			head -c 32 /dev/urandom | base64 | tr '+/' '-_' >"$ETC/keystone/$kind-keys/$key"
		done
	done
}

migrate_keystone() {
	keystone-manage --config-file "$ETC/keystone/keystone.conf" db_sync &&
		keystone-manage --config-file "$ETC/keystone/keystone.conf" bootstrap \
			--bootstrap-password "$PASSWORD" --bootstrap-region-id "$REGION" \
			--bootstrap-admin-url "$KEYSTONE" --bootstrap-internal-url "$KEYSTONE" --bootstrap-public-url "$KEYSTONE"
}

start_keystone() {
	write_keystone_config
	fill_databases "keystone-$(package_version keystone)" keystone migrate_keystone
	start_wsgi keystone 5000 /usr/bin/keystone-wsgi-public --env "OS_KEYSTONE_CONFIG_FILES=$ETC/keystone/keystone.conf"
	await 180 "$LOG/keystone.out" "Keystone answers" is_answering "$KEYSTONE"
	configure identity
}

# configure PART... creates objects through the APIs: see configure.py.
configure() {
	# `timeout` starts a process group of its own, which may outlive this program. It must not hold the
	# lock, which is descriptor 9.
	timeout 900 python3 "$RIG/configure.py" "$STATE/clouds.yaml" "$@" >>"$LOG/configure.log" 2>&1 9>&- ||
		fail "$LOG/configure.log" "configure $*"
}
