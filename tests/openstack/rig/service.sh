# Starting, stopping and disturbing the processes of the rig. Sourced.
#
# A process is known by its id and its start time: an id alone may belong to
# somebody else by the time it is used.
# shellcheck shell=bash

# started_at PID prints the start time of a process that lives, in ticks.
started_at() {
	local stat
	{ read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
	stat=${stat##*) } # the name in parentheses may contain anything
	local fields
	read -ra fields <<<"$stat"
	[ "${fields[0]}" != Z ] && echo "${fields[19]}"
}

# start NAME COMMAND...: runs it in a session of its own. The command is kept,
# so that `service start` can repeat it.
start() {
	local name=$1
	shift
	printf '%q ' "$@" >"$RUN/$name.command"
	# Descriptor 9 is the lock of `up`, which must not live on in a service.
	GROWVOL_RIG=$STATE setsid nohup "$@" >>"$LOG/$name.out" 2>&1 </dev/null 9>&- &
	echo "$! $(started_at $!)" >"$RUN/$name.pid"
}

# restart NAME: starts it again with the command of the first time.
restart() {
	local command
	eval "command=($(<"$RUN/$1.command"))" # written by start with %q
	start "$1" "${command[@]}"
}

# pid NAME prints the id of a service of ours that lives.
pid() {
	local id time
	[ -e "$RUN/$1.pid" ] && read -r id time <"$RUN/$1.pid" && [ "$(started_at "$id")" = "$time" ] && echo "$id"
}

# family PID prints a process and its descendants.
family() {
	local child
	echo "$1"
	for child in $(pgrep -P "$1" || true); do family "$child"; done
}

# services prints the names of all services that were started.
services() {
	local file
	for file in "$RUN"/*.command; do
		[ ! -e "$file" ] || basename "$file" .command
	done
}

# send SIGNAL NAME: to the service and its descendants.
send() {
	local id
	id=$(pid "$2") || return 1
	# A list of words.
	# shellcheck disable=SC2046
	kill "-$1" $(family "$id") 2>/dev/null
}

# stop NAME...: asks all of them to end, and kills what has not after 3 s: what
# they keep is thrown away anyway.
stop() {
	local name id ids=
	for name; do
		if id=$(pid "$name"); then ids+=" $(family "$id")"; fi
	done
	# shellcheck disable=SC2086
	end $ids
	for name; do rm -f "$RUN/$name.pid"; done
}

# end PID...: all of them, together.
end() {
	local tries id alive=$*
	[ $# -gt 0 ] || return 0
	# Any of them may have gone by itself. One that is paused hears nothing.
	kill -TERM "$@" 2>/dev/null || true
	kill -CONT "$@" 2>/dev/null || true
	for ((tries = 0; tries < 30; tries++)); do
		alive=
		for id; do started_at "$id" >/dev/null && alive+=" $id"; done
		[ -n "$alive" ] || return 0
		sleep 0.1
	done
	# shellcheck disable=SC2086
	kill -KILL $alive 2>/dev/null || true
}

# guests prints the ids of QEMU processes that run instances of this rig.
guests() {
	local id
	for id in $(pgrep -f '^[^ ]*qemu-system-' || true); do
		if tr '\0' ' ' <"/proc/$id/cmdline" 2>/dev/null | grep -qF "$LIB/nova/instances/"; then echo "$id"; fi
	done
}

# strays prints the ids of processes that services of this rig have left, or
# whose ids a program that was killed has not written down: all have what
# `start` puts into the environment.
strays() { grep -lzxsF "GROWVOL_RIG=$STATE" /proc/[0-9]*/environ | cut -d / -f 3; }

# stop_all: those that use others first; the guests before their storage.
stop_all() {
	local name users=() providers=()
	for name in $(services); do
		case $name in
		ceph-* | mariadb | rabbitmq | epmd) providers+=("$name") ;;
		*) users+=("$name") ;;
		esac
	done
	stop "${users[@]}"
	# shellcheck disable=SC2046
	end $(guests)
	stop "${providers[@]}"
	# shellcheck disable=SC2046
	end $(strays)
}
