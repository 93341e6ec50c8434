package noderecord

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// noSnapshot is what the kernel shows as the snapshot of an image that is mapped itself.
const noSnapshot = "-"

// readKernel reads from sysfs what the kernel has mapped, no matter which program mapped it (Linux,
// Documentation/ABI/testing/sysfs-bus-rbd). Without the module rbd, nothing is mapped.
func readKernel(sysfs string) (Record, error) {
	devices := filepath.Join(sysfs, "bus/rbd/devices")
	entries, err := os.ReadDir(devices)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Record{}, fmt.Errorf("cannot list the mapped images: %w", err)
	}
	r := Record{Clients: []Client{}} // not null in JSON
	for _, entry := range entries {
		dir := filepath.Join(devices, entry.Name())
		fsid, address, image, err := readDevice(dir)
		if isUnmapped(dir, err) {
			continue
		}
		if err != nil {
			return Record{}, fmt.Errorf("cannot read the mapping rbd%s: %w", entry.Name(), err)
		}
		r.add(fsid, address, image)
	}
	r.sort()
	return r, nil
}

// isUnmapped reports whether a mapping was removed before the error of reading it: its directory is
// missing, or its open file is no longer read.
func isUnmapped(dir string, err error) bool {
	_, errStat := os.Stat(dir)
	return errors.Is(err, syscall.ENODEV) || err != nil && errors.Is(errStat, fs.ErrNotExist)
}

func (r *Record) add(fsid, address string, image Image) {
	i := slices.IndexFunc(r.Clients, func(c Client) bool { return c.FSID == fsid && c.Address == address })
	if i < 0 {
		i = len(r.Clients)
		r.Clients = append(r.Clients, Client{FSID: fsid, Address: address})
	}
	r.Clients[i].Images = append(r.Clients[i].Images, image)
}

func (r *Record) sort() {
	for _, c := range r.Clients {
		slices.SortFunc(c.Images, func(a, b Image) int {
			return cmp.Or(cmp.Compare(a.String(), b.String()), cmp.Compare(a.ID, b.ID))
		})
	}
	slices.SortFunc(r.Clients, func(a, b Client) int {
		return cmp.Or(cmp.Compare(a.FSID, b.FSID), cmp.Compare(a.Address, b.Address))
	})
}

// readDevice reads the attributes of one mapping.
func readDevice(dir string) (fsid, address string, image Image, err error) {
	read := func(name string) string {
		content, errRead := os.ReadFile(filepath.Join(dir, name))
		if errRead != nil && err == nil {
			err = errRead
		}
		return strings.TrimSpace(string(content))
	}
	fsid, address = read("cluster_fsid"), read("client_addr")
	pool := read("pool")
	image = Image{Namespace: read("pool_ns"), ID: read("image_id"), Snapshot: read("current_snap")}
	image.Name = pool + "/" + read("name")
	if image.Namespace != "" {
		image.Name = pool + "/" + image.Namespace + "/" + read("name")
	}
	if image.Snapshot == noSnapshot {
		image.Snapshot = ""
	}
	id := read("pool_id")
	if err != nil {
		return "", "", Image{}, err
	}
	if image.PoolID, err = strconv.ParseInt(id, 10, 64); err != nil {
		return "", "", Image{}, fmt.Errorf("pool_id is %q, want a number", id)
	}
	if fsid == "" || address == "" || image.ID == "" {
		return "", "", Image{}, fmt.Errorf("cluster_fsid is %q, client_addr %q, image_id %q; none of them may be empty",
			fsid, address, image.ID)
	}
	return fsid, address, image, nil
}
