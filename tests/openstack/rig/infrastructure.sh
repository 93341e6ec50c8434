# The database, the message queue and the web server of the services. The program `up` sources this
# file.
# shellcheck shell=bash

# start_mariadb starts a database that does not flush: its data need not survive a crash.
start_mariadb() {
	mariadb-install-db --no-defaults --user=root --datadir="$STATE/mysql" \
		--auth-root-authentication-method=normal --skip-test-db >"$LOG/mariadb-install.log" 2>&1 ||
		fail "$LOG/mariadb-install.log" "create the database"
	start mariadb mariadbd --no-defaults --user=root --datadir="$STATE/mysql" --socket="$RUN/mysql.sock" \
		--bind-address=127.0.0.1 --port=13306 --pid-file="$RUN/mariadb.own-pid" --log-error="$LOG/mariadb.log" \
		--max-connections=500 --character-set-server=utf8mb3 --skip-name-resolve --performance-schema=OFF \
		--innodb-buffer-pool-size=128M --innodb-log-file-size=64M \
		--innodb-flush-log-at-trx-commit=0 --innodb-flush-method=nosync --innodb-doublewrite=0
}

# sql OPTION... runs the client of the database.
sql() { mariadb --no-defaults -uroot -S "$RUN/mysql.sock" "$@"; }

create_databases() {
	local name
	for name in keystone cinder placement glance nova_api nova nova_cell0; do
		echo "CREATE DATABASE $name CHARACTER SET utf8mb3;"
	done | sql
	sql -e "CREATE USER IF NOT EXISTS root@127.0.0.1; GRANT ALL ON *.* TO root@127.0.0.1"
}

# fill_databases KEY "DATABASE..." COMMAND... loads the databases from the dump of an earlier run
# with the same key. Without such a dump it runs the command, which fills the databases in minutes,
# and dumps the result. The key names everything on which the result depends. The command must
# return the status of each failure, because `set -e` has no effect in it.
fill_databases() {
	local dump=$CACHE/$1.sql databases=$2
	shift 2
	if [ -s "$dump" ]; then
		sql <"$dump"
		return
	fi
	"$@" >>"$LOG/migrations.log" 2>&1 || fail "$LOG/migrations.log" "fill the databases $databases"
	mkdir -p "$CACHE"
	# shellcheck disable=SC2086
	mariadb-dump --no-defaults -uroot -S "$RUN/mysql.sock" --skip-comments --databases $databases >"$dump.$$"
	mv "$dump.$$" "$dump"
}

start_rabbitmq() {
	local dir=$STATE/rabbitmq
	local erlang="-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none"
	mkdir -p "$dir"
	cat >"$dir/rabbitmq.conf" <<-END
		listeners.tcp.1 = 127.0.0.1:5672
		loopback_users.guest = true
		log.console = false
		vm_memory_high_watermark.absolute = 1GB
		disk_free_limit.absolute = 50MB
	END
	# A port mapper that RabbitMQ starts would not end with RabbitMQ.
	start epmd epmd -address 127.0.0.1
	await 60 "$LOG/epmd.out" "RabbitMQ's port mapper answers" is_listening 4369
	start rabbitmq env HOME="$dir" ERL_EPMD_ADDRESS=127.0.0.1 RABBITMQ_NODENAME=rabbit@localhost \
		RABBITMQ_CONFIG_FILE="$dir/rabbitmq.conf" RABBITMQ_MNESIA_BASE="$dir/mnesia" RABBITMQ_LOG_BASE="$LOG" \
		RABBITMQ_PID_FILE="$dir/pid" RABBITMQ_ENABLED_PLUGINS_FILE="$dir/enabled_plugins" RABBITMQ_CONF_ENV_FILE=/dev/null \
		RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="$erlang" \
		/usr/lib/rabbitmq/bin/rabbitmq-server
}

# start_wsgi NAME PORT PROGRAM OPTION... starts an API as one process with threads.
start_wsgi() {
	local name=$1 port=$2 program=$3
	shift 3
	start "$name" uwsgi_python3 --plugins python3 --master --die-on-term --no-orphans --lazy-apps --need-app \
		--http-socket "127.0.0.1:$port" --wsgi-file "$program" "$@" --processes 1 --threads 4 --enable-threads --listen 100 \
		--buffer-size 65535 --rem-header Content-Length --add-header "Connection: close" --socket-timeout 60 \
		--chdir "$STATE" --disable-logging
}
