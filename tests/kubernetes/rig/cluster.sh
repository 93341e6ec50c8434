# Starts and ends the cluster, and runs commands in it. Sourced.
# shellcheck shell=bash

# start_time PID prints the start time of a running process in clock ticks. It identifies
# the process, because another process may get the same id later.
start_time() {
	local stat fields
	{ read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
	read -ra fields <<<"${stat##*) }" # the name in parentheses may contain anything
	[ "${fields[0]}" != Z ] && echo "${fields[19]}"
}

# namespace_pid prints the id of the process (unshare) that holds the cluster's namespaces.
namespace_pid() {
	local id time
	[ -e "$STATE/cluster" ] && read -r id time <"$STATE/cluster" && [ "$(start_time "$id")" = "$time" ] && echo "$id"
}

# init_pid prints the id, on the machine, of the first process in the namespaces.
init_pid() {
	local id children
	id=$(namespace_pid) || return 1
	read -r children _ <"/proc/$id/task/$id/children" || true # read fails: the line has no newline
	[ -n "$children" ] && echo "$children"
}

# within COMMAND... runs a command in the cluster's namespaces, as its administrator.
within() {
	local words
	find_cluster && "${words[@]}" "$@" 9>&-
}

# find_cluster sets words to the first words of a command line that runs a command in the cluster.
find_cluster() {
	local id
	id=$(init_pid) || { echo "the cluster is not up (next step: run \`make cluster-up\`)" >&2 && return 1; }
	words=(nsenter -t "$id" -m -n -p --wdns="$PWD" env PATH="$BIN:$PATH" KUBECONFIG="$PKI/admin.kubeconfig"
		CONTAINERD_ADDRESS=/run/containerd/containerd.sock)
}

start_cluster() {
	setsid nohup unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private \
		"$RIG/init" "$BIN" >"$LOG/init.log" 2>&1 </dev/null 9>&- &
	echo "$! $(start_time $!)" >"$STATE/cluster"
	start_key >"$STATE/started"
}

# start_key prints the hash of what a running cluster cannot change: how it was started.
start_key() { key_of rig/init rig/configuration.sh; }

is_node_ready() {
	within kubectl get node "$NODE" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' | grep -q True &&
		within kubectl get serviceaccount default # pods are refused before it exists
}

# is_healthy tests whether the cluster is up, has the programs that are pinned now, was started by
# the present scripts, and has nothing of a killed test.
is_healthy() {
	[ -e "$STATE/ready" ] && [ "$(cat "$STATE/programs")" = "$BIN" ] && is_node_ready >/dev/null 2>&1 || return 1
	[ "$(cat "$STATE/started" 2>/dev/null)" = "$(start_key)" ] || return 1
	if has_leftovers; then
		say "a test or an installation was killed in the present cluster"
		return 1
	fi
}

# has_leftovers tests whether a killed test has left its namespace, a killed Helm a
# pending release, or a killed suite its objects. It succeeds too if the cluster does not
# answer.
has_leftovers() {
	local left releases
	[ ! -e "$STATE/suite-runs" ] || return 0
	# A namespace in deletion has no pods and volumes any more.
	left=$(within kubectl get namespaces --selector growvol.io/test --field-selector status.phase=Active -o name) &&
		releases=$(within helm list --all-namespaces --pending --uninstalling --short) || return 0
	[ -n "$left$releases" ]
}

# stop_cluster ends every process of the cluster, and detaches and removes what does not
# end with processes: loop devices and cgroups.
stop_cluster() {
	local id
	if id=$(namespace_pid); then
		# The end of a pod detaches kubelet's loop devices of raw block volumes.
		[ ! -e "$STATE/ready" ] || delete_pods >/dev/null 2>&1 || true
		kill -KILL "$(init_pid)" 2>/dev/null || true
		await 180 "" "" has_ended "$id"
	fi
	rm -f "$STATE/ready" "$STATE/cluster"
	detach_volumes
	remove_cgroups
}

has_ended() { ! start_time "$1" >/dev/null; }

# delete_pods deletes all pods except those of the system and of growvol, which unmount
# the volumes of the others. It does so for all namespaces at the same time, because the
# pods of a node that has ended do not end.
delete_pods() {
	local namespace
	for namespace in $(within kubectl get namespaces -o name); do
		case ${namespace#namespace/} in kube-* | growvol | growvol-cinder | growvol-rbd) continue ;; esac
		within kubectl delete statefulset,deployment,pod --all --namespace "${namespace#namespace/}" --now --timeout=40s &
	done
	wait
}

# find_loops FILE prints the loop devices with this backing file. FILE is a pattern for
# MAJOR:MINOR:INODE; MAJOR:MINOR:.* stands for all files of a filesystem.
find_loops() {
	losetup --noheadings --output NAME,BACK-MAJ:MIN,BACK-INO |
		awk -v wanted="^$1\$" '($2 ":" $3) ~ wanted { print $1 }'
}

# detach_volumes detaches three layers of loop devices: that of the filesystem for the
# volumes, those of the volumes, whose files are on it, and kubelet's, which are on the
# block volumes.
detach_volumes() {
	local below device volumes=
	[ -e "$STATE/volumes" ] || return 0
	below=$(find_loops "$(stat --format='%Hd:%Ld:%i' "$STATE/volumes")")
	for device in $below; do volumes+=" $(find_loops "$(stat --format='%Hr:%Lr:.*' "$device")")"; done
	for device in $volumes; do
		# shellcheck disable=SC2046 # a list
		detach $(find_loops "$(stat --format='%Hd:%Ld:%i' "$device")")
		detach "$device"
	done
	# shellcheck disable=SC2086 # a list
	detach $below
}

# detach DEVICE... detaches loop devices. Some may be detached already.
detach() {
	local device
	for device; do losetup --detach "$device" 2>/dev/null || true; done
}

# remove_cgroups removes the cluster's cgroups, of the only hierarchy (v2) or of each (v1).
remove_cgroups() {
	local hierarchy
	for hierarchy in /sys/fs/cgroup/{,*/}"$CGROUP"; do
		[ ! -d "$hierarchy" ] || await 120 "" "" remove_cgroup "$hierarchy"
	done
}

# remove_cgroup DIRECTORY fails while ended processes are still in the cgroup.
remove_cgroup() { find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || [ ! -d "$1" ]; }
