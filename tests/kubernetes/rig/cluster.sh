# Starting and ending the cluster as a whole. Sourced.
# shellcheck shell=bash

# started_at PID prints the start time of a process that lives, in ticks: an
# id alone may belong to somebody else by the time it is used.
started_at() {
	local stat fields
	{ read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
	read -ra fields <<<"${stat##*) }" # the name in parentheses may contain anything
	[ "${fields[0]}" != Z ] && echo "${fields[19]}"
}

# outer prints the id of the process that holds the cluster's namespaces.
outer() {
	local id time
	[ -e "$STATE/cluster" ] && read -r id time <"$STATE/cluster" && [ "$(started_at "$id")" = "$time" ] && echo "$id"
}

# first prints the id, on the machine, of the first process in the namespaces.
first() {
	local id children
	id=$(outer) || return 1
	read -r children _ <"/proc/$id/task/$id/children" || true # the line has no end
	[ -n "$children" ] && echo "$children"
}

# within COMMAND...: runs it in the cluster's namespaces, as its administrator.
within() {
	local id
	id=$(first) || { echo "the cluster is not up" >&2 && return 1; }
	nsenter -t "$id" -m -n -p --wdns="$PWD" env PATH="$BIN:$PATH" KUBECONFIG="$PKI/admin.kubeconfig" \
		CONTAINERD_ADDRESS=/run/containerd/containerd.sock "$@" 9>&-
}

start_cluster() {
	setsid nohup unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private \
		"$RIG/inside" "$BIN" >"$LOG/inside.log" 2>&1 </dev/null 9>&- &
	echo "$! $(started_at $!)" >"$STATE/cluster"
}

node_ready() {
	within kubectl get node "$NODE" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' | grep -q True &&
		within kubectl get serviceaccount default # pods are refused before it exists
}

# healthy: the cluster is up, with the programs that are pinned now.
healthy() {
	[ -e "$STATE/ready" ] && [ "$(cat "$STATE/programs")" = "$BIN" ] && node_ready >/dev/null 2>&1 || return 1
	if unfinished; then
		say "a test or an installation was killed in this cluster"
		return 1
	fi
}

# unfinished: a test has left its namespace, or Helm a release that it would not
# touch again, or the suite was killed; or it is not known.
unfinished() {
	local left releases
	[ ! -e "$STATE/suite-runs" ] || return 0
	left=$(within kubectl get namespaces --selector growvol.io/test -o name) &&
		releases=$(within helm list --all-namespaces --pending --uninstalling --short) || return 0
	[ -n "$left$releases" ]
}

# stop_cluster ends every process of the cluster and takes back what outlives
# processes: loop devices and cgroups.
stop_cluster() {
	local id
	if id=$(outer); then
		# kubelet has loop devices of its own on raw block volumes.
		[ ! -e "$STATE/ready" ] || delete_pods >/dev/null 2>&1 || true
		kill -KILL "$(first)" 2>/dev/null || true
		await 180 "" "" gone "$id"
	fi
	rm -f "$STATE/ready" "$STATE/cluster"
	release_loops
	remove_cgroups
}

gone() { ! started_at "$1" >/dev/null; }

# delete_pods: all but the ones of the system, which unmount for the others. At
# the same time: those of a node that is gone do not end.
delete_pods() {
	local namespace
	for namespace in $(within kubectl get namespaces -o name); do
		case ${namespace#namespace/} in kube-* | growvol | growvol-cinder) continue ;; esac
		within kubectl delete statefulset,deployment,pod --all --namespace "${namespace#namespace/}" --now --timeout=40s &
	done
	wait
}

# loops FILE: the loop devices whose backing file is this, as MAJOR:MINOR:INODE
# of the file, or as MAJOR:MINOR:.* for all files of a filesystem.
loops() {
	losetup --noheadings --output NAME,BACK-MAJ:MIN,BACK-INO |
		awk -v wanted="^$1\$" '($2 ":" $3) ~ wanted { print $1 }'
}

# release_loops: the volumes' filesystem is on one device, the volumes are on
# devices whose files are there, and kubelet has others on block volumes.
release_loops() {
	local below device volumes=
	[ -e "$STATE/volumes" ] || return 0
	below=$(loops "$(stat --format='%Hd:%Ld:%i' "$STATE/volumes")")
	for device in $below; do volumes+=" $(loops "$(stat --format='%Hr:%Lr:.*' "$device")")"; done
	for device in $volumes; do
		# shellcheck disable=SC2046 # a list
		detach $(loops "$(stat --format='%Hd:%Ld:%i' "$device")")
		detach "$device"
	done
	# shellcheck disable=SC2086 # a list
	detach $below
}

# detach DEVICE...: some may have gone by themselves meanwhile.
detach() {
	local device
	for device; do losetup --detach "$device" 2>/dev/null || true; done
}

# remove_cgroups: of the only hierarchy (v2), or of each (v1).
remove_cgroups() {
	local hierarchy
	for hierarchy in /sys/fs/cgroup/{,*/}"$CGROUP"; do
		[ ! -d "$hierarchy" ] || await 120 "" "" remove_cgroup "$hierarchy"
	done
}

# remove_cgroup: ended processes leave it a little later.
remove_cgroup() { find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || [ ! -d "$1" ]; }
