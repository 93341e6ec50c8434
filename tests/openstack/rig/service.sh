# Starts, stops and disturbs the services of the rig. The programs beside this directory source this
# file.
#
# A process is identified by its ID and its start time, because the kernel may reuse the ID.
# shellcheck shell=bash

# start_time PID prints the start time of a running process, in clock ticks. It fails if there is
# none.
start_time() {
	local stat
	{ read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
	stat=${stat##*) } # the name in parentheses may contain spaces and parentheses
	local fields
	read -ra fields <<<"$stat"
	[ "${fields[0]}" != Z ] && echo "${fields[19]}"
}

# start NAME COMMAND... starts a service in a session of its own and keeps its command for restart.
start() {
	local name=$1
	shift
	printf '%q ' "$@" >"$RUN/$name.command"
	# A service must not inherit the lock of `up`, which is descriptor 9.
	GROWVOL_RIG=$STATE setsid nohup "$@" >>"$LOG/$name.out" 2>&1 </dev/null 9>&- &
	echo "$! $(start_time $!)" >"$RUN/$name.pid"
}

# restart NAME starts a service again, with its command of the first start.
restart() {
	local command
	eval "command=($(<"$RUN/$1.command"))" # start has written it with %q
	start "$1" "${command[@]}"
}

# service_pid NAME prints the process ID of a running service. It fails if the service does not run.
service_pid() {
	local id time
	[ -e "$RUN/$1.pid" ] && read -r id time <"$RUN/$1.pid" && [ "$(start_time "$id")" = "$time" ] && echo "$id"
}

# process_tree PID prints the IDs of a process and its descendants.
process_tree() {
	local child
	echo "$1"
	for child in $(pgrep -P "$1" || true); do process_tree "$child"; done
}

# service_names prints the names of all services that were started.
service_names() {
	local file
	for file in "$RUN"/*.command; do
		[ ! -e "$file" ] || basename "$file" .command
	done
}

# send_signal SIGNAL NAME sends a signal to a service and its descendants.
send_signal() {
	local id
	id=$(service_pid "$2") || return 1
	# shellcheck disable=SC2046 # a list of words
	kill "-$1" $(process_tree "$id") 2>/dev/null
}

# stop NAME... ends services.
stop() {
	local name id ids=
	for name; do
		if id=$(service_pid "$name"); then ids+=" $(process_tree "$id")"; fi
	done
	# shellcheck disable=SC2086 # a list of words
	end_processes $ids
	for name; do rm -f "$RUN/$name.pid"; done
}

# end_processes PID... ends processes together with SIGTERM. After 3 s it kills the rest: their data
# need not survive.
end_processes() {
	local tries id alive=$*
	[ $# -gt 0 ] || return 0
	# Some processes may have ended. A paused process does not react to SIGTERM before SIGCONT.
	kill -TERM "$@" 2>/dev/null || true
	kill -CONT "$@" 2>/dev/null || true
	for ((tries = 0; tries < 30; tries++)); do
		alive=
		for id; do start_time "$id" >/dev/null && alive+=" $id"; done
		[ -n "$alive" ] || return 0
		sleep 0.1
	done
	# shellcheck disable=SC2086 # a list of words
	kill -KILL $alive 2>/dev/null || true
}

# guest_pids prints the IDs of the QEMU processes that run instances of this rig.
guest_pids() {
	local id
	for id in $(pgrep -f '^[^ ]*qemu-system-' || true); do
		if tr '\0' ' ' <"/proc/$id/cmdline" 2>/dev/null | grep -qF "$LIB/nova/instances/"; then echo "$id"; fi
	done
}

# leftover_pids prints the IDs of processes that the services of this rig have left behind, or whose
# ID is missing because `up` was killed. All of them have the variable that `start` sets.
leftover_pids() { grep -lzxsF "GROWVOL_RIG=$STATE" /proc/[0-9]*/environ | cut -d / -f 3; }

# stop_all ends every service: first those that use others, then the guests, then the storage.
stop_all() {
	local name users=() providers=()
	for name in $(service_names); do
		case $name in
		ceph-* | mariadb | rabbitmq | epmd) providers+=("$name") ;;
		*) users+=("$name") ;;
		esac
	done
	stop "${users[@]}"
	# shellcheck disable=SC2046 # a list of words
	end_processes $(guest_pids)
	stop "${providers[@]}"
	# shellcheck disable=SC2046 # a list of words
	end_processes $(leftover_pids)
}

# is_listening PORT succeeds if something accepts connections on the port.
is_listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# is_answering URL succeeds if an HTTP server answers, with any status.
is_answering() { curl --silent --output /dev/null --max-time 10 "$1"; }
