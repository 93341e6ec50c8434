"""Registers a kernel, an initramfs and a root disk as an image from which Nova boots.

Usage: image.py CLOUDS.YAML NAME CONTENT KERNEL INITRAMFS virtio|scsi DISK FORMAT

The name of the image is NAME/CONTENT. Other images whose name begins with NAME/ are deleted. The
program prints the ID of the image.
"""

import sys

from configure import Cloud


def upload(api, name, path, **properties):
    """Creates an image with the content of the file and returns its ID."""
    image = api.post("/v2/images", json={"name": name, "visibility": "public", **properties}).json()["id"]
    with open(path, "rb") as f:
        api.put(f"/v2/images/{image}/file", data=f, headers={"Content-Type": "application/octet-stream"})
    return image


def main(clouds, name, content, kernel, initramfs, bus, disk, disk_format):
    api = Cloud(clouds).api("image")
    title = f"{name}/{content}"
    for image in api.get("/v2/images", params={"limit": 1000}).json()["images"]:
        if image["name"].startswith(name + "/"):
            api.delete(f"/v2/images/{image['id']}")
    kernel_id = upload(api, title + "-kernel", kernel, container_format="aki", disk_format="aki")
    initramfs_id = upload(api, title + "-initramfs", initramfs, container_format="ari", disk_format="ari")
    # The guest runs from its initramfs. Nova requires a root disk, which may be empty; Nova extends
    # it to the size in the flavor.
    print(upload(
        api, title, disk, container_format="bare", disk_format=disk_format,
        kernel_id=kernel_id, ramdisk_id=initramfs_id,
        os_command_line="console=ttyS0 root=/dev/ram0 rdinit=/init quiet",
        hw_disk_bus=bus, hw_scsi_model="virtio-scsi", hw_cdrom_bus="scsi", hw_serial_port_count="2",
    ))


if __name__ == "__main__":
    main(*sys.argv[1:])
