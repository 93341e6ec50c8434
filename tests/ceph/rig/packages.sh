# The packages that the rig and the controller for Ceph need. The program `up` sources this file
# after those of tests/openstack/rig, which has the functions that install packages.
# shellcheck shell=bash disable=SC2034 # the functions of tests/openstack/rig use them

PACKAGES="ceph-mon ceph-mgr ceph-osd ceph-common python3-rbd librados-dev librbd-dev iproute2 procps"

# print_answers prints answers to the questions of the packages: they have none.
print_answers() { :; }
