"""Registers the daemons of the rig, and creates its pools and users.

Usage: cluster.py CEPH.CONF METHOD [ARGUMENT]...

METHOD is a method of Rig. PYTHONPATH has tests/openstack/rig, whose class Rig extends.
"""

import json
import os
import sys

import rbd

from ceph import Cluster

NAMESPACE = "tenant"  # of the pool volumes
# Replicated pools. Tests set a quota on the pool small. csi-sanity lists all volumes, so it has a
# pool of its own, and a user who can read no other.
SANITY_POOL = "sanity"
POOLS = "volumes", "other", "small", SANITY_POOL
DATA_POOL = "ecdata"  # erasure-coded
# What the controller and the kernel client of a node need. "profile rbd" allows to read the state of
# the cluster, to fence a client by its address, and images; it does not allow to unfence one.
USER = "client.csi"
SANITY_USER = "client.sanity"
MONITOR_CAPS = 'profile rbd, allow command "osd blocklist" with blocklistop=rm'


class Rig(Cluster):
    """The Ceph cluster of the rig."""

    def add_daemons(self, *osds):
        """Registers the manager x and the OSDs before their first start, by their UUIDs."""
        self.add_user("mgr.x", mon="allow profile mgr", osd="allow *", mds="allow *")
        for want, uuid in enumerate(osds):
            number = self.call_monitor("osd new", uuid=uuid)["osdid"]
            if number != want:
                sys.exit(f"the monitor gave the OSD the number {number}, want {want}")
            self.add_user(f"osd.{want}", mon="allow profile osd", mgr="allow profile osd", osd="allow *")

    def add_pools(self):
        """Creates the pools, the namespace and the user, and waits until the pools accept data."""
        for pool in POOLS:
            self.call_monitor("osd pool create", pool=pool, pg_num=8, pgp_num=8)
        self.call_monitor(
            "osd erasure-code-profile set", name="two-and-one", profile=["k=2", "m=1", "crush-failure-domain=osd"]
        )
        self.call_monitor(
            "osd pool create",
            pool=DATA_POOL,
            pool_type="erasure",
            erasure_code_profile="two-and-one",
            pg_num=8,
            pgp_num=8,
        )
        self.call_monitor("osd pool set", pool=DATA_POOL, var="allow_ec_overwrites", val="true")
        for pool in POOLS + (DATA_POOL,):
            self.call_monitor("osd pool application enable", pool=pool, app="rbd")
        caps = ", ".join(f"profile rbd pool={pool}" for pool in POOLS + (DATA_POOL,))
        self.add_user(USER, mon=MONITOR_CAPS, osd=caps, mgr=caps)
        caps = f"profile rbd pool={SANITY_POOL}"
        self.add_user(SANITY_USER, mon=MONITOR_CAPS, osd=caps, mgr=caps)
        for pool in POOLS:
            self.await_pool(pool)
        rbd.RBD().namespace_create(self.rados.open_ioctx(POOLS[0]), NAMESPACE)
        self.write_configuration()

    def await_pool(self, name):
        """Returns when the pool has completed a write."""
        pool = self.rados.open_ioctx(name)
        pool.write_full("ready", b"")
        pool.remove_object("ready")

    def write_configuration(self):
        """Writes the configuration of the controller: config.json and the keys, as secrets are mounted."""
        address = self.rados.conf_get("mon_host").split("v1:")[1].rstrip("]")
        clusters = [
            {"clusterID": "rig", "monitors": [address]},
            {"clusterID": "tenant", "monitors": [address], "rbd": {"radosNamespace": NAMESPACE}},
        ]
        with open(f"{self.dir}/config.json", "w") as f:
            json.dump(clusters, f, indent=2)
        for user, directory in (USER, "keys"), (SANITY_USER, "keys-sanity"):
            key = self.call_monitor("auth get", entity=user)[0]["key"]
            os.makedirs(f"{self.dir}/{directory}", exist_ok=True)
            for name, value in ("userID", user.removeprefix("client.")), ("userKey", key):
                with open(f"{self.dir}/{directory}/{name}", "w") as f:
                    f.write(value)


if __name__ == "__main__":
    getattr(Rig(sys.argv[1]), sys.argv[2])(*sys.argv[3:])
