# The directories, addresses and secrets of the rig. The programs beside this directory source this
# file. All services listen on the loopback interface only.
# shellcheck shell=bash disable=SC2034 # other files use them

# The Python of pyenv or a virtualenv lacks the modules of OpenStack, which Debian's Python has. A
# proxy cannot reach the loopback interface.
export PATH=/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin LANG=C.UTF-8 LC_ALL=C.UTF-8
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY PYTHONPATH PYTHONHOME CEPH_ARGS

STATE=${GROWVOL_OPENSTACK_DIR:-/var/tmp/growvol-openstack}
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/growvol/openstack
RUN=$STATE/run
LOG=$STATE/log
ETC=$STATE/etc
LIB=$STATE/lib

PASSWORD=secret # of every user of the cloud
REGION=RegionOne
KEYSTONE=http://127.0.0.1:5000/v3
CINDER=http://127.0.0.1:8776
NOVA=http://127.0.0.1:8774
PLACEMENT=http://127.0.0.1:8778
GLANCE=http://127.0.0.1:9292
NEUTRON=http://127.0.0.1:9696
RABBIT=rabbit://guest:guest@127.0.0.1:5672/
LIBVIRT="qemu+unix:///system?socket=$RUN/libvirt/libvirt-sock"
# ID of the secret in which libvirt keeps the Ceph key of Cinder's user.
SECRET=5f0c1b6e-7a11-4f0e-9c0a-0c1d2e3f4a5b
# The key of all encrypted volumes, in place of a key manager service.
VOLUME_KEY=000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
# Of MariaDB, RabbitMQ, its port mapper, Ceph's monitor and the APIs.
PORTS="13306 5672 4369 3300 6789 5000 8776 8774 8778 9292 9696"

# database_url NAME prints the URL with which services connect to a database.
database_url() { echo "mysql+pymysql://root@127.0.0.1:13306/$1?charset=utf8"; }
