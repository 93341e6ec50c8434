"""Creates, through the APIs, what the services and the tests of the rig need. Safe to run again.

Usage: configure.py CLOUDS.YAML identity|storage|compute ...
"""

import sys
import time

import yaml
from keystoneauth1 import adapter, session
from keystoneauth1.identity import v3

TIMEOUT = 300  # seconds for services to report themselves
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
    "ssd": {},  # used by examples/cinder
    "ssd-gold": {"growvol:tier": "gold"},  # used by examples/cinder
    # The key has a prefix: for a key without one the scheduler would require a backend with that
    # capability, and there is none.
    "rbd-gold": {"growvol:tier": "gold"},
    "rbd-multi": {"multiattach": "<is> True"},
    "rbd-luks": {},
}
# QEMU decrypts: the guest sees a device without the LUKS header.
ENCRYPTION = {"provider": "luks", "cipher": "aes-xts-plain64", "key_size": 256, "control_location": "front-end"}
FLAVORS = {  # id: name, MiB, CPUs, GiB of the root disk
    "1": ("small", 256, 1, 1),
    "2": ("medium", 512, 1, 1),
    "3": ("large", 1024, 1, 1),
    "4": ("node", 2048, 2, 2),
}


class Cloud:
    """The APIs of the rig for an administrator."""

    def __init__(self, clouds, name="admin"):
        with open(clouds) as f:
            entry = yaml.safe_load(f)["clouds"][name]
        self.session = session.Session(auth=v3.Password(**entry["auth"]))
        self.region = entry["region_name"]
        self.password = entry["auth"]["password"]

    def api(self, service):
        """Returns a client of the service."""
        return adapter.Adapter(self.session, service_type=service, region_name=self.region, interface="public")

    def identity(self):
        """Creates the projects, users, services and endpoints."""
        api = self.api("identity")

        def ensure(kind, **fields):
            """Returns the ID of the object; creates it if it does not exist."""
            keys = {k: v for k, v in fields.items() if k in ("name", "type", "service_id", "interface")}
            found = api.get(f"/{kind}s", params=keys).json()[f"{kind}s"]
            return (found or [api.post(f"/{kind}s", json={kind: fields}).json()[kind]])[0]["id"]

        def ensure_user(name, project, *roles):
            account = ensure("user", name=name, domain_id="default", password=self.password)
            for role in roles:
                api.put(f"/projects/{project}/users/{account}/roles/{ensure('role', name=role)}")

        service = ensure("project", name="service", domain_id="default")
        for name in "cinder", "nova", "placement", "glance", "neutron":
            ensure_user(name, service, "admin", "service")
        for name in "csi", "test":
            ensure_user(name, ensure("project", name=name, domain_id="default"), "member", "reader")
        for kind, (name, url) in SERVICES.items():
            entry = ensure("service", name=name, type=kind)
            for interface in "public", "internal", "admin":
                ensure("endpoint", service_id=entry, interface=interface, region_id=self.region, url=url)

    def storage(self):
        """Creates the volume types, when the services of Cinder are up."""
        api = self.api("volumev3")
        await_services(api, "Cinder's services", {"cinder-volume", "cinder-scheduler", "cinder-backup"})
        known = {t["name"] for t in api.get("/types").json()["volume_types"]}
        for name, specs in VOLUME_TYPES.items():
            if name not in known:
                created = api.post("/types", json={"volume_type": {"name": name}}).json()["volume_type"]["id"]
                specs = {"volume_backend_name": "rbd", **specs}
                api.post(f"/types/{created}/extra_specs", json={"extra_specs": specs})
                if name == "rbd-luks":
                    api.post(f"/types/{created}/encryption", json={"encryption": ENCRYPTION})
        # The first volume would fail if the scheduler knew no pool.
        await_true(lambda: api.get("/scheduler-stats/get_pools").json()["pools"], "Cinder's pool")

    def compute(self):
        """Creates the flavors, when the services of Nova are up."""
        api = self.api("compute")
        await_services(api, "Nova's services", {"nova-compute", "nova-scheduler", "nova-conductor"})
        known = {f["id"] for f in api.get("/flavors").json()["flavors"]}
        for number, (name, ram, cpus, disk) in FLAVORS.items():
            if number not in known:
                flavor = {"id": number, "name": name, "ram": ram, "vcpus": cpus, "disk": disk}
                api.post("/flavors", json={"flavor": flavor})
        await_true(lambda: api.get("/os-hypervisors").json()["hypervisors"], "Nova's hypervisor")


def await_services(api, what, programs):
    """Waits until a service of each program is up."""

    def are_up():
        services = api.get("/os-services").json()["services"]
        return {s["binary"] for s in services if s["state"] == "up"} >= programs

    await_true(are_up, what)


def await_true(condition, what):
    """Waits until the condition returns a true value; ends the program after TIMEOUT."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"{what}: not up after {TIMEOUT} s")
        time.sleep(0.2)


if __name__ == "__main__":
    cloud = Cloud(sys.argv[1])
    for part in sys.argv[2:]:
        getattr(cloud, part)()
