"""Makes what the rig's services need, through their APIs. Safe to run again.

Usage: configure.py CLOUDS.YAML identity|storage|compute ...
"""

import sys
import time

import yaml
from keystoneauth1 import adapter, session
from keystoneauth1.identity import v3

WAIT = 300  # seconds for services to report themselves
SERVICES = {  # type: (name, URL)
    "volumev3": ("cinderv3", "http://127.0.0.1:8776/v3/%(project_id)s"),
    "block-storage": ("cinder", "http://127.0.0.1:8776/v3/%(project_id)s"),
    "compute": ("nova", "http://127.0.0.1:8774/v2.1"),
    "placement": ("placement", "http://127.0.0.1:8778"),
    "image": ("glance", "http://127.0.0.1:9292"),
    "network": ("neutron", "http://127.0.0.1:9696"),
}
VOLUME_TYPES = {  # name: extra specs
    "rbd": {},
    "ssd": {},  # of examples/cinder
    "ssd-gold": {"growvol:tier": "gold"},  # likewise
    # Scoped by a prefix: the scheduler would look for a backend with the
    # capability of an unscoped one, and find none.
    "rbd-gold": {"growvol:tier": "gold"},
    "rbd-multi": {"multiattach": "<is> True"},
    "rbd-luks": {},
}
# Decrypted by QEMU: the guest sees a device that lacks the header.
ENCRYPTION = {"provider": "luks", "cipher": "aes-xts-plain64", "key_size": 256, "control_location": "front-end"}
FLAVORS = {  # id: name, MiB, CPUs, GiB of the root disk
    "1": ("small", 256, 1, 1),
    "2": ("medium", 512, 1, 1),
    "3": ("large", 1024, 1, 1),
    "4": ("node", 2048, 2, 2),
}


class Cloud:
    """An administrator's view of the rig."""

    def __init__(self, clouds, name="admin"):
        with open(clouds) as f:
            entry = yaml.safe_load(f)["clouds"][name]
        self.session = session.Session(auth=v3.Password(**entry["auth"]))
        self.region = entry["region_name"]
        self.password = entry["auth"]["password"]

    def api(self, service):
        return adapter.Adapter(self.session, service_type=service, region_name=self.region, interface="public")

    def identity(self):
        api = self.api("identity")

        def ensure(kind, **fields):
            keys = {k: v for k, v in fields.items() if k in ("name", "type", "service_id", "interface")}
            found = api.get(f"/{kind}s", params=keys).json()[f"{kind}s"]
            return (found or [api.post(f"/{kind}s", json={kind: fields}).json()[kind]])[0]["id"]

        def user(name, project, *roles):
            account = ensure("user", name=name, domain_id="default", password=self.password)
            for role in roles:
                api.put(f"/projects/{project}/users/{account}/roles/{ensure('role', name=role)}")

        service = ensure("project", name="service", domain_id="default")
        for name in "cinder", "nova", "placement", "glance", "neutron":
            user(name, service, "admin", "service")
        for name in "csi", "test":
            user(name, ensure("project", name=name, domain_id="default"), "member", "reader")
        for kind, (name, url) in SERVICES.items():
            entry = ensure("service", name=name, type=kind)
            for interface in "public", "internal", "admin":
                ensure("endpoint", service_id=entry, interface=interface, region_id=self.region, url=url)

    def storage(self):
        api = self.api("volumev3")

        def up():
            services = api.get("/os-services").json()["services"]
            return {s["binary"] for s in services if s["state"] == "up"} >= {"cinder-volume", "cinder-scheduler", "cinder-backup"}

        await_true(up, "Cinder's services")
        known = {t["name"] for t in api.get("/types").json()["volume_types"]}
        for name, specs in VOLUME_TYPES.items():
            if name not in known:
                created = api.post("/types", json={"volume_type": {"name": name}}).json()["volume_type"]["id"]
                api.post(f"/types/{created}/extra_specs", json={"extra_specs": {"volume_backend_name": "rbd", **specs}})
                if name == "rbd-luks":
                    api.post(f"/types/{created}/encryption", json={"encryption": ENCRYPTION})
        # Without a pool that the scheduler knows, a first volume would fail.
        await_true(lambda: api.get("/scheduler-stats/get_pools").json()["pools"], "Cinder's pool")

    def compute(self):
        api = self.api("compute")

        def up():
            services = api.get("/os-services").json()["services"]
            return {s["binary"] for s in services if s["state"] == "up"} >= {"nova-compute", "nova-scheduler", "nova-conductor"}

        await_true(up, "Nova's services")
        known = {f["id"] for f in api.get("/flavors").json()["flavors"]}
        for number, (name, ram, cpus, disk) in FLAVORS.items():
            if number not in known:
                api.post("/flavors", json={"flavor": {"id": number, "name": name, "ram": ram, "vcpus": cpus, "disk": disk}})
        await_true(lambda: api.get("/os-hypervisors").json()["hypervisors"], "Nova's hypervisor")


def await_true(condition, what):
    deadline = time.monotonic() + WAIT
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"{what}: not there after {WAIT} s")
        time.sleep(0.2)


if __name__ == "__main__":
    cloud = Cloud(sys.argv[1])
    for part in sys.argv[2:]:
        getattr(cloud, part)()
