"""Registers Ceph's daemons with the monitor, and creates pools and users.

Usage: ceph.py CEPH.CONF METHOD [ARGUMENT]...

METHOD is a method of Cluster. The methods share one connection; the ceph program would need twenty
starts for the same calls.
"""

import json
import os
import sys

import rados


class Cluster:
    """The Ceph cluster of the rig."""

    def __init__(self, conf):
        self.dir = os.path.dirname(conf)
        self.rados = rados.Rados(conffile=conf, name="client.admin")
        self.rados.connect(timeout=300)

    def call_monitor(self, prefix, data=b"", **arguments):
        """Sends a command to the monitor and returns its answer; ends the program on an error."""
        command = json.dumps(dict(arguments, prefix=prefix, format="json"))
        status, out, message = self.rados.mon_command(command, data)
        if status:
            sys.exit(f"{prefix} {arguments}: {status} {message}")
        return json.loads(out) if out else None

    def add_user(self, name, **caps):
        """Creates a user and writes its key where ceph.conf expects it."""
        words = [w for daemon, cap in caps.items() for w in (daemon, cap)]
        entity = self.call_monitor("auth get-or-create", entity=name, caps=words)[0]
        self.write_keyring(name, entity["key"])

    def write_keyring(self, name, key):
        with open(f"{self.dir}/keyring.{name}", "w") as f:
            f.write(f"[{name}]\n\tkey = {key}\n")

    def add_daemons(self, osd):
        """Registers the manager x and the OSD 0 before their first start. osd is the UUID of the OSD."""
        self.add_user("mgr.x", mon="allow profile mgr", osd="allow *", mds="allow *")
        number = self.call_monitor("osd new", uuid=osd)["osdid"]
        if number != 0:
            sys.exit(f"the monitor gave the OSD the number {number}, want 0")
        self.add_user("osd.0", mon="allow profile osd", mgr="allow profile osd", osd="allow *")

    def add_pools(self):
        """Creates the pools and the user of Cinder and Nova, and waits until a pool accepts data."""
        for pool in "volumes", "vms", "images", "backups":
            self.call_monitor("osd pool create", pool=pool, pg_num=8, pgp_num=8)
            self.call_monitor("osd pool application enable", pool=pool, app="rbd")
        rbd = "profile rbd pool=%s"
        self.add_user(
            "client.cinder",
            mon="profile rbd",
            osd=", ".join(rbd % p for p in ("volumes", "vms", "backups")) + ", profile rbd-read-only pool=images",
            mgr=", ".join(rbd % p for p in ("volumes", "vms")),
        )
        # The write returns as soon as the OSD serves the pool. The statistics of the manager would
        # show that some ten seconds later.
        pool = self.rados.open_ioctx("volumes")
        pool.write_full("ready", b"")
        pool.remove_object("ready")


if __name__ == "__main__":
    getattr(Cluster(sys.argv[1]), sys.argv[2])(*sys.argv[3:])
