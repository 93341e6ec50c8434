# The directories, names and addresses of the rig. The programs beside this directory source this
# file.
# shellcheck shell=bash disable=SC2034 # other files use them

# Debian's Python has the module rados, which the Python of pyenv or a virtualenv lacks.
export PATH=/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin LANG=C.UTF-8 LC_ALL=C.UTF-8
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY PYTHONPATH PYTHONHOME CEPH_ARGS

STATE=${GROWVOL_CEPH_DIR:-/var/tmp/growvol-ceph}
RUN=$STATE/run
LOG=$STATE/log
CEPH_CONF=$STATE/ceph.conf
OSDS=3
OSD_SIZE=$((20 << 30)) # bytes of each; the files are sparse

# Rigs with other directories have other namespaces, and run beside each other.
NAMESPACE=$(basename "$STATE")
BRIDGE=br0
ADDRESS=10.77.0.1 # of the daemons; the guests of the tests have 10.77.0.11 and following
OPENSTACK=$RIG/../../openstack/rig
