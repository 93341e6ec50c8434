# The database and the message queue of the services. Sourced.
# shellcheck shell=bash

# start_mariadb: nothing in it must survive a crash, so nothing is flushed.
start_mariadb() {
	mariadb-install-db --no-defaults --user=root --datadir="$STATE/mysql" \
		--auth-root-authentication-method=normal --skip-test-db >"$LOG/mariadb-install.log" 2>&1 ||
		fail "$LOG/mariadb-install.log" "making the database"
	start mariadb mariadbd --no-defaults --user=root --datadir="$STATE/mysql" --socket="$RUN/mysql.sock" \
		--bind-address=127.0.0.1 --port=13306 --pid-file="$RUN/mariadb.own-pid" --log-error="$LOG/mariadb.log" \
		--max-connections=500 --character-set-server=utf8mb3 --skip-name-resolve --performance-schema=OFF \
		--innodb-buffer-pool-size=128M --innodb-log-file-size=64M \
		--innodb-flush-log-at-trx-commit=0 --innodb-flush-method=nosync --innodb-doublewrite=0
}

sql() { mariadb --no-defaults -uroot -S "$RUN/mysql.sock" "$@"; }

make_databases() {
	local name
	for name in keystone cinder placement glance nova_api nova nova_cell0; do
		echo "CREATE DATABASE $name CHARACTER SET utf8mb3;"
	done | sql
	sql -e "CREATE USER IF NOT EXISTS root@127.0.0.1; GRANT ALL ON *.* TO root@127.0.0.1"
}

# filled KEY "DATABASE..." COMMAND...: fills databases from the dump of an
# earlier run with the same key, else by the command, whose result is dumped.
# Migrations from nothing take minutes; the key names all they depend on. The
# command tells each failure by its status: in it `set -e` does not hold.
filled() {
	local dump=$CACHE/$1.sql databases=$2
	shift 2
	if [ -s "$dump" ]; then
		sql <"$dump"
		return
	fi
	"$@" >>"$LOG/migrations.log" 2>&1 || fail "$LOG/migrations.log" "migrating $databases"
	mkdir -p "$CACHE"
	# shellcheck disable=SC2086
	mariadb-dump --no-defaults -uroot -S "$RUN/mysql.sock" --skip-comments --databases $databases >"$dump.$$"
	mv "$dump.$$" "$dump"
}

start_rabbitmq() {
	local dir=$STATE/rabbitmq
	mkdir -p "$dir"
	cat >"$dir/rabbitmq.conf" <<-END
		listeners.tcp.1 = 127.0.0.1:5672
		loopback_users.guest = true
		log.console = false
		vm_memory_high_watermark.absolute = 1GB
		disk_free_limit.absolute = 50MB
	END
	# The port mapper first: one that RabbitMQ starts would not end with it.
	start epmd epmd -address 127.0.0.1
	await 60 "$LOG/epmd.out" "RabbitMQ's port mapper answers" listening 4369
	start rabbitmq env HOME="$dir" ERL_EPMD_ADDRESS=127.0.0.1 RABBITMQ_NODENAME=rabbit@localhost \
		RABBITMQ_CONFIG_FILE="$dir/rabbitmq.conf" RABBITMQ_MNESIA_BASE="$dir/mnesia" RABBITMQ_LOG_BASE="$LOG" \
		RABBITMQ_PID_FILE="$dir/pid" RABBITMQ_ENABLED_PLUGINS_FILE="$dir/enabled_plugins" RABBITMQ_CONF_ENV_FILE=/dev/null \
		RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none" \
		/usr/lib/rabbitmq/bin/rabbitmq-server
}

# start_wsgi NAME PORT PROGRAM OPTION...: an API as one process with threads.
start_wsgi() {
	local name=$1 port=$2 program=$3
	shift 3
	start "$name" uwsgi_python3 --plugins python3 --master --die-on-term --no-orphans --lazy-apps --need-app \
		--http-socket "127.0.0.1:$port" --wsgi-file "$program" "$@" --processes 1 --threads 4 --enable-threads --listen 100 \
		--buffer-size 65535 --rem-header Content-Length --add-header "Connection: close" --socket-timeout 60 \
		--chdir "$STATE" --disable-logging
}
