# What the user sees, and waiting with a limit. Sourced.
# shellcheck shell=bash

# say TEXT: a line with the seconds since the start.
say() { printf 'kubernetes: %4ds  %s\n' "$SECONDS" "$*"; }

# fail LOG TEXT: ends the program with the end of the log that tells why.
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

# await SECONDS LOG TEXT COMMAND...: repeats the command until it succeeds.
await() {
	local deadline=$((SECONDS + $1)) log=$2 what=$3
	shift 3
	until "$@" >/dev/null 2>&1; do
		((SECONDS < deadline)) || fail "$log" "$what: not within the time allowed"
		sleep 0.2
	done
	[ -z "$what" ] || say "$what"
}

# locked FILE: waits until no other program works on what FILE stands for.
locked() {
	until
		mkdir -p "$(dirname "$1")"
		exec 9>"$1"
		flock --timeout 3600 9 || fail "" "another program works on what $1 stands for"
		[ "$1" -ef /dev/fd/9 ] # else `down` has removed it meanwhile
	do :; done
}

# empty_state removes all but the lock: one that is killed here has left it.
empty_state() { find "$STATE" -mindepth 1 -maxdepth 1 ! -name lock -exec rm -rf {} +; }
