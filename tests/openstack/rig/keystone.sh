# Keystone: users, projects, the catalog. Sourced.
# shellcheck shell=bash

keystone_config() {
	mkdir -p "$ETC/keystone"
	cat >"$ETC/keystone/keystone.conf" <<-END
		[DEFAULT]
		log_file = $LOG/keystone.log
		[database]
		connection = $(database keystone)
		[token]
		provider = fernet
		expiration = 86400
		[identity]
		# The fewest allowed: hashing is slow on purpose.
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
	# What keystone-manage's fernet_setup and credential_setup do.
	local kind key
	for kind in fernet credential; do
		mkdir "$ETC/keystone/$kind-keys"
		chmod 700 "$ETC/keystone/$kind-keys"
		for key in 0 1; do
			head -c 32 /dev/urandom | base64 | tr '+/' '-_' >"$ETC/keystone/$kind-keys/$key"
		done
	done
}

keystone_migrations() {
	keystone-manage --config-file "$ETC/keystone/keystone.conf" db_sync &&
		keystone-manage --config-file "$ETC/keystone/keystone.conf" bootstrap --bootstrap-password "$PASSWORD" --bootstrap-region-id "$REGION" \
			--bootstrap-admin-url "$KEYSTONE" --bootstrap-internal-url "$KEYSTONE" --bootstrap-public-url "$KEYSTONE"
}

start_keystone() {
	keystone_config
	filled "keystone-$(version keystone)" keystone keystone_migrations
	start_wsgi keystone 5000 /usr/bin/keystone-wsgi-public --env "OS_KEYSTONE_CONFIG_FILES=$ETC/keystone/keystone.conf"
	await 180 "$LOG/keystone.out" "Keystone answers" answers "$KEYSTONE"
	configure identity
}

# configure WHAT...: what is made through the APIs.
configure() {
	# Not with the lock: timeout makes a group of its own, which outlives a kill.
	timeout 900 python3 "$RIG/configure.py" "$STATE/clouds.yaml" "$@" >>"$LOG/configure.log" 2>&1 9>&- || fail "$LOG/configure.log" "configuring: $*"
}
