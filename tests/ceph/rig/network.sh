# The network namespace of the rig: nothing in it has a route to the machine or from there. The
# programs beside this directory source this file.
# shellcheck shell=bash

# inside COMMAND... runs a command in the namespace.
inside() { ip netns exec "$NAMESPACE" "$@"; }

# add_namespace creates the namespace with a bridge, which has the address of the daemons. The
# tests add the guests to the bridge.
add_namespace() {
	ip netns add "$NAMESPACE"
	ip -n "$NAMESPACE" link set lo alias "$STATE" up
	ip -n "$NAMESPACE" link add "$BRIDGE" type bridge
	ip -n "$NAMESPACE" address add "$ADDRESS/24" dev "$BRIDGE"
	ip -n "$NAMESPACE" link set "$BRIDGE" up
}

# remove_namespace removes the namespace. It fails if the namespace is not of this rig, which the
# alias of its loopback interface shows.
remove_namespace() {
	[ -e "/run/netns/$NAMESPACE" ] || return 0
	ip -n "$NAMESPACE" -details link show lo 2>/dev/null | grep -qxF "    alias $STATE" ||
		fail "" "the network namespace $NAMESPACE is not of the rig (next step: set GROWVOL_CEPH_DIR to another directory)"
	ip netns delete "$NAMESPACE"
}

# stop_rig ends all daemons and removes the namespace.
stop_rig() {
	# shellcheck disable=SC2046 # lists of words
	stop $(service_names)
	# shellcheck disable=SC2046 # a list of words
	end_processes $(leftover_pids)
	remove_namespace
}
