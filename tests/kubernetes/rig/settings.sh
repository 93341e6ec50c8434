# The paths and names of the cluster. Sourced by the scripts of the parent directory.
# shellcheck shell=bash disable=SC2034 # most of these are used by the other files

export PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH LANG=C.UTF-8 LC_ALL=C.UTF-8

SOURCE=$(cd "$RIG/../../.." && pwd)
STATE=${GROWVOL_KUBERNETES_DIR:-/var/tmp/growvol-kubernetes}
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/growvol/kubernetes
LOG=$STATE/log
ETC=$STATE/etc
PKI=$STATE/pki

NODE=node1
# The addresses are on the loopback device of the cluster's network namespace.
NODE_IP=10.99.0.1 # kubelet refuses an address of 127.0.0.0/8
API_IP=10.96.0.1  # of the service `kubernetes`, so that no kube-proxy is needed
REGISTRY=$NODE_IP:5000
# The cgroup of the whole cluster, pods included.
CGROUP=growvol-kubernetes
