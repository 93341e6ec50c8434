# Progress messages, waiting with a limit, and the lock of a rig. The rigs of
# OpenStack and Kubernetes source this file after their settings, which set STATE.
# shellcheck shell=bash

# say TEXT... prints a line with the name of the rig and the seconds since the start.
say() {
	local rig=${RIG%/rig}
	printf '%s: %4ds  %s\n' "${rig##*/}" "$SECONDS" "$*"
}

# fail LOG TEXT... prints the text and the end of the log, and ends the program. LOG may be "".
fail() {
	local log=$1
	shift
	say "FAILED: $*" >&2
	if [ -s "$log" ]; then
		echo "--- end of $log:" >&2
		tail -n 30 "$log" >&2
	fi
	exit 1
}

# await SECONDS LOG TEXT COMMAND... repeats the command until it succeeds, and then prints the
# text, if there is one. After so many seconds it fails.
await() {
	local deadline=$((SECONDS + $1)) log=$2 what=$3
	shift 3
	until "$@" >/dev/null 2>&1; do
		((SECONDS < deadline)) || fail "$log" "$what: not within the time allowed"
		sleep 0.1
	done
	[ -z "$what" ] || say "$what"
}

# take_lock FILE waits until no other program holds the lock, and keeps it until this program ends.
take_lock() {
	until
		mkdir -p "$(dirname "$1")"
		exec 9>"$1"
		flock --timeout 3600 9 || fail "" "another program has held the lock $1 for an hour"
		[ "$1" -ef /dev/fd/9 ] # false: `down` has removed the file meanwhile
	do :; done
}

# empty_state removes everything below STATE except the lock: if this program is killed here, the
# next one still finds a directory that is the rig's.
empty_state() { find "$STATE" -mindepth 1 -maxdepth 1 ! -name lock -exec rm -rf {} +; }
