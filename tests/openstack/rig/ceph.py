"""Registers Ceph's daemons with the monitor; makes pools and users.

One connection in place of some twenty starts of the ceph program.
"""

import json
import os
import sys

import rados


class Cluster:
    def __init__(self, conf):
        self.dir = os.path.dirname(conf)
        self.rados = rados.Rados(conffile=conf, name="client.admin")
        self.rados.connect(timeout=300)

    def monitor(self, prefix, data=b"", **arguments):
        command = json.dumps(dict(arguments, prefix=prefix, format="json"))
        status, out, message = self.rados.mon_command(command, data)
        if status:
            sys.exit(f"{prefix} {arguments}: {status} {message}")
        return json.loads(out) if out else None

    def user(self, name, **caps):
        """Makes a user and leaves its key where ceph.conf looks for it."""
        words = [w for daemon, cap in caps.items() for w in (daemon, cap)]
        entity = self.monitor("auth get-or-create", entity=name, caps=words)[0]
        self.keyring(name, entity["key"])

    def keyring(self, name, key):
        with open(f"{self.dir}/keyring.{name}", "w") as f:
            f.write(f"[{name}]\n\tkey = {key}\n")

    def daemons(self, osd):
        """The manager x and the OSD 0, before their first start."""
        self.user("mgr.x", mon="allow profile mgr", osd="allow *", mds="allow *")
        number = self.monitor("osd new", uuid=osd)["osdid"]
        if number != 0:
            sys.exit(f"the OSD is number {number}, not 0")
        self.user("osd.0", mon="allow profile osd", mgr="allow profile osd", osd="allow *")

    def pools(self):
        for pool in "volumes", "vms", "images", "backups":
            self.monitor("osd pool create", pool=pool, pg_num=8, pgp_num=8)
            self.monitor("osd pool application enable", pool=pool, app="rbd")
        rbd = "profile rbd pool=%s"
        self.user(
            "client.cinder",
            mon="profile rbd",
            osd=", ".join(rbd % p for p in ("volumes", "vms", "backups")) + ", profile rbd-read-only pool=images",
            mgr=", ".join(rbd % p for p in ("volumes", "vms")),
        )
        # The write returns once the OSD serves the pool; the manager's
        # statistics would say so some ten seconds later.
        pool = self.rados.open_ioctx("volumes")
        pool.write_full("ready", b"")
        pool.remove_object("ready")


if __name__ == "__main__":
    getattr(Cluster(sys.argv[1]), sys.argv[2])(*sys.argv[3:])
