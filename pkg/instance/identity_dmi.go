package instance

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/volume"
)

// readDMI reads the server's id from the DMI table. Nova's libvirt driver writes "OpenStack" into
// the vendor or the product (distributions change the rest: "OpenStack Foundation"/"OpenStack
// Nova", "Red Hat"/"OpenStack Compute") and the id into the product's UUID.
//
// SMBIOS stores the first three fields of a UUID in little-endian order since version 2.6 and in
// big-endian order before, so an old firmware may show them swapped. The serial is text and has no
// order; by default Nova writes the id there too ("libvirt.sysinfo_serial=unique"), and then
// readDMI returns the serial.
func (o Options) readDMI(context.Context) (facts, error) {
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(o.sysfs, "class", "dmi", "id", name))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(data))
	}
	vendor, product := read("sys_vendor"), read("product_name")
	if !strings.Contains(strings.ToLower(vendor+" "+product), "openstack") {
		return facts{}, fmt.Errorf("neither vendor %q nor product %q is OpenStack's", vendor, product)
	}
	id := strings.ToLower(read("product_uuid")) // readable for root alone
	if !volume.IsUUID(id) || strings.Trim(id, "0-") == "" || strings.Trim(id, "f-") == "" {
		return facts{}, fmt.Errorf("the product's UUID is %q, which cannot be the id of a server", id)
	}
	if serial := strings.ToLower(read("product_serial")); serial == swapByteOrder(id) {
		id = serial
	}
	return facts{id: id}, nil
}

// swapByteOrder returns a UUID with its first three fields, which are numbers (RFC 9562, section
// 4), in the other byte order; empty if a field is not hexadecimal.
func swapByteOrder(uuid string) string {
	fields := strings.Split(uuid, "-")
	for i, field := range fields {
		b, err := hex.DecodeString(field)
		if err != nil {
			return ""
		}
		if i < 3 {
			slices.Reverse(b)
		}
		fields[i] = hex.EncodeToString(b)
	}
	return strings.Join(fields, "-")
}
