# Where everything is. Sourced by the programs beside this directory.
# shellcheck shell=bash disable=SC2034 # most of these are used by the other files

# A proxy cannot reach the cluster.
export PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH LANG=C.UTF-8 LC_ALL=C.UTF-8

SOURCE=$(cd "$RIG/../../.." && pwd)
STATE=${GROWVOL_KUBERNETES_DIR:-/var/tmp/growvol-kubernetes}
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/growvol/kubernetes
LOG=$STATE/log
ETC=$STATE/etc
PKI=$STATE/pki

NODE=node1
# Addresses on the loopback device of the cluster's own network namespace.
NODE_IP=10.99.0.1 # kubelet refuses a loopback address
API_IP=10.96.0.1  # the service `kubernetes`: no kube-proxy needed
# The cgroup of everything, kubelet's pods too.
CGROUP=growvol-kubernetes
