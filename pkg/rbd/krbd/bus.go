package krbd

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

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// This file reads and writes the kernel's rbd bus (Linux, Documentation/ABI/testing/sysfs-bus-rbd).

// noSnapshot is the snap_id of a mapping of the image itself (CEPH_NOSNAP of <linux/ceph/rados.h>).
const noSnapshot = 1<<64 - 2

// identity identifies what a mapping maps. Names are no part of it: the kernel shows the name that
// the image had when it was mapped, also after a rename.
type identity struct {
	FSID      string `json:"fsid"`
	PoolID    int64  `json:"poolID"`
	Namespace string `json:"radosNamespace,omitempty"`
	ImageID   string `json:"imageID"`
	SnapID    uint64 `json:"snapID"` // noSnapshot: the image itself
}

// mapping is one mapped image of this machine.
type mapping struct {
	identity
	id                    string // number on the bus: "0" of /dev/rbd0
	pool, image, snapshot string // names at the time of the mapping; snapshot is empty for the image itself
	client                string // address of the kernel's client: ip:port/nonce
	key                   string // name of the key that the mapping was made with; empty: none
	readOnly              bool   // mapped with the option ro, so without a watch
	major, minor          uint32
}

// featureObjectMap is the bit of the feature object-map (Linux, drivers/block/rbd.c).
const featureObjectMap = 1 << 3

// String describes the mapping for messages.
func (m mapping) String() string {
	return fmt.Sprintf("/dev/rbd%s (%s)", m.id, imageName(m.pool, m.Namespace, m.image, m.snapshot))
}

// imageName returns the image as the rbd program spells it: pool/namespace/image@snapshot.
func imageName(pool, namespace, image, snapshot string) string {
	name := pool + "/"
	if namespace != "" {
		name += namespace + "/"
	}
	name += image
	if snapshot != "" {
		name += "@" + snapshot
	}
	return name
}

// kernel writes to the files of the bus. Each write can hang while the cluster does not answer.
type kernel interface {
	// Write writes text with one call. The error is that of the call, which is the kernel's answer.
	Write(path, text string) error
	// WriteWithKey is Write; meanwhile the kernel finds the key under its name.
	WriteWithKey(path, text, keyName string, key []byte) error
}

// bus is the rbd bus of the machine.
type bus struct {
	dir    string // "/sys/bus/rbd"
	kernel kernel
}

// checkLoaded returns an error if the kernel has no rbd bus.
func (b bus) checkLoaded() error {
	_, err := os.Stat(b.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return volume.Errorf(volume.KindUnavailable, "the kernel of this node has no client for Ceph RBD: %w", err).
			WithRemedy("load its module on the node: modprobe rbd")
	}
	if err != nil {
		return volume.Errorf(volume.KindInternal, "cannot read the kernel's rbd bus: %w", err)
	}
	return nil
}

// list returns the mappings of this machine, oldest first. It leaves out a mapping that goes away
// meanwhile. The error is of kind Internal.
func (b bus) list() ([]mapping, error) {
	entries, err := os.ReadDir(filepath.Join(b.dir, "devices"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // without the module nothing is mapped
	}
	if err != nil {
		return nil, volume.Errorf(volume.KindInternal, "cannot list the images that are mapped on this node: %w", err)
	}
	var all []mapping
	for _, e := range entries {
		m, err := b.read(e.Name())
		if isGone(err) {
			continue
		}
		if err != nil {
			return nil, volume.Errorf(volume.KindInternal, "cannot read the mapped image /dev/rbd%s: %w", e.Name(), err)
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(x, y mapping) int {
		return cmp.Or(cmp.Compare(len(x.id), len(y.id)), cmp.Compare(x.id, y.id))
	})
	return all, nil
}

// isGone reports whether err says that the mapping no longer exists.
func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) }

// read reads one mapping. It reads no file that waits for the cluster (as size, features and parent
// may, during a refresh).
func (b bus) read(id string) (mapping, error) {
	r := attributeReader{dir: filepath.Join(b.dir, "devices", id)}
	config := r.text("config_info")
	m := mapping{
		identity: identity{
			FSID: r.text("cluster_fsid"), PoolID: int64(r.number("pool_id", 63)), Namespace: r.optionalText("pool_ns"),
			ImageID: r.text("image_id"), SnapID: r.number("snap_id", 64),
		},
		id: id, pool: r.text("pool"), image: r.text("name"), snapshot: r.text("current_snap"),
		client: r.text("client_addr"), key: optionValue(optionsOf(config), "key"),
		readOnly: hasOption(optionsOf(config), "ro") || hasOption(optionsOf(config), "read_only"),
		major:    uint32(r.number("major", 32)), minor: uint32(r.number("minor", 32)),
	}
	if m.SnapID == noSnapshot {
		m.snapshot = ""
	}
	return m, r.err
}

// attributeReader reads the files of one directory; err is the first error.
type attributeReader struct {
	dir string
	err error
}

func (r *attributeReader) text(name string) string {
	data, err := os.ReadFile(filepath.Join(r.dir, name))
	if r.err == nil {
		r.err = err
	}
	return strings.TrimSuffix(string(data), "\n")
}

// optionalText returns the content of a file that older kernels do not have; empty without it.
func (r *attributeReader) optionalText(name string) string {
	if _, err := os.Stat(filepath.Join(r.dir, name)); errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return r.text(name)
}

func (r *attributeReader) number(name string, bits int) uint64 {
	text := r.text(name)
	if r.err != nil {
		return 0
	}
	n, err := strconv.ParseUint(text, 10, bits)
	if err != nil {
		r.err = fmt.Errorf("%s: %w", name, err)
	}
	return n
}

// optionsOf returns the options in config_info, the text of the write that made the mapping:
// monitors, options, pool, image and snapshot, separated by blanks.
func optionsOf(configInfo string) []string {
	fields := strings.Fields(configInfo)
	if len(fields) < 2 {
		return nil
	}
	return strings.Split(fields[1], ",")
}

// file returns the path of the bus's file name, or of the one for kernels whose module parameter
// single_major is N.
func (b bus) file(name string) string {
	path := filepath.Join(b.dir, name+"_single_major")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return filepath.Join(b.dir, name)
	}
	return path
}

// add maps an image. The error is the kernel's errno.
func (b bus) add(text, keyName string, key []byte) error {
	return b.kernel.WriteWithKey(b.file("add"), text, keyName, key)
}

// remove unmaps a mapping. It waits for the cluster. The error is the kernel's errno: EBUSY while
// the device is open or mounted. It succeeds for a mapping that does not exist.
func (b bus) remove(m mapping) error {
	err := b.kernel.Write(b.file("remove"), m.id)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// refresh makes the kernel read the image's size from the cluster, which waits for the cluster. The
// error is the kernel's errno: ESHUTDOWN if the cluster has this node's client on its blocklist.
func (b bus) refresh(m mapping) error {
	return b.kernel.Write(filepath.Join(b.dir, "devices", m.id, "refresh"), "1")
}

// refreshSize is refresh for a mapping that is in use. It does nothing if the mapping uses an
// object map. The kernel reads that map when it takes the lock of the image. If a node has lost the
// lock while it was cut off, and reads the larger size before it takes the lock again, its next
// write beyond the old size ends in an assertion, which can stop the machine (Linux 6.1,
// __rbd_object_map_index). The kernel itself reads the size after it has given up the old lock.
func (b bus) refreshSize(m mapping) error {
	r := attributeReader{dir: filepath.Join(b.dir, "devices", m.id)}
	features, err := strconv.ParseUint(r.text("features"), 0, 64)
	if err := errors.Join(r.err, err); err != nil {
		return err
	}
	if features&featureObjectMap != 0 && !m.readOnly && m.SnapID == noSnapshot {
		return nil
	}
	return b.refresh(m)
}
