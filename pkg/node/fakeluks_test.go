package node

import (
	"bytes"
	"context"
	"fmt"
	"os"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/volume"
)

// luksDisk is what LUKS has to do with a disk. What the disk's content is, one
// sees through the mapping; on the disk itself a header hides it.
type luksDisk struct {
	header     luks.Header
	passphrase string
	readOnly   bool // the mapping is
	keyring    bool // the kernel keeps the key of the mapping to itself
	handles    int  // descriptors of the mapping that are open
	cut        bool // the next luksFormat is killed before it has made a key slot
}

// hasMapping reports whether a mapping rests on the disk, by whomever.
func (d *disk) hasMapping() bool { return d.crypt > 0 || d.mapper }

// fakeMappings implements Mappings as pkg/luks does.
type fakeMappings struct{ *machine }

func (f fakeMappings) Header(_ context.Context, dev blockdev.Device) (luks.Header, error) {
	leave, err := f.enter("luks-header")
	defer leave()
	d, ok := f.diskAt(dev.Path)
	if err != nil || !ok {
		return luks.Header{}, volume.Errorf(volume.Internal, "read the LUKS header of %s: %w", dev.Path, err)
	}
	return d.luks.header, nil
}

func (f fakeMappings) Format(ctx context.Context, req luks.FormatRequest) (luks.Header, bool, error) {
	leave, err := f.enter("luks-format")
	encrypting := f.encrypting
	leave()
	if encrypting != nil {
		<-encrypting
	}
	switch {
	case err != nil:
		return luks.Header{}, false, err
	case len(req.Passphrase) == 0:
		return luks.Header{}, false, volume.Errorf(volume.Invalid, "no passphrase")
	}
	f.mu.Lock()
	d, _ := f.diskAt(req.Device.Path)
	h, disk := d.luks.header, d.shown
	f.mu.Unlock()
	uuid, _ := os.ReadFile(req.Marker)
	ours := len(uuid) > 0 && string(uuid) == h.UUID
	if h.State == luks.HeaderSound {
		return h, ours, nil
	}
	if disk < header+volume.MiB {
		return h, false, volume.Errorf(volume.Precondition, "%s is too small for encryption", req.Device.Path)
	}
	if h.State != luks.HeaderAbsent && !ours {
		return h, false, volume.Errorf(volume.Precondition, "%s holds %s: not formatted with LUKS2", req.Device.Path, h)
	}
	if h.State == luks.HeaderAbsent {
		c, err := req.Content(ctx)
		if leftover := len(uuid) > 0 && !c.Named; err == nil && !c.Blank && !leftover {
			err = volume.Errorf(volume.Precondition, "%s is not blank: it holds %s: not formatted with LUKS2", req.Device.Path, c.Name)
		}
		if err != nil {
			return h, false, err
		}
	}
	return f.format(req, d)
}

// format makes the header, after the marker.
func (f fakeMappings) format(req luks.FormatRequest, d *disk) (luks.Header, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nextID++
	uuid := fmt.Sprintf("00000000-0000-4000-8000-%012d", f.nextID)
	if err := os.WriteFile(req.Marker, []byte(uuid), 0o600); err != nil {
		return luks.Header{}, false, err
	}
	d.content = filesystem.Signature{State: filesystem.Foreign, Name: "unknown data", Noise: true}
	d.luks.header = luks.Header{State: luks.HeaderSound, UUID: uuid, Offset: header, Sector: 512}
	d.luks.passphrase = string(req.Passphrase)
	if d.luks.cut {
		d.luks.cut, d.luks.header.State = false, luks.HeaderUnfinished
		return d.luks.header, false, volume.Errorf(volume.Internal, "cryptsetup was killed")
	}
	return d.luks.header, true, nil
}

func (f fakeMappings) Open(_ context.Context, req luks.OpenRequest) (luks.Mapping, error) {
	leave, err := f.enter("luks-open")
	opening := f.opening
	leave()
	if opening != nil {
		<-opening
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	d, ok := f.diskAt(req.Device.Path)
	switch {
	case err != nil || !ok:
		return luks.Mapping{}, volume.Errorf(volume.KindOf(err), "open %s: %w", req.Device.Path, err)
	case d.luks.header.State != luks.HeaderSound:
		return luks.Mapping{}, volume.Errorf(volume.Precondition, "%s cannot be opened: it has %s", req.Device.Path, d.luks.header)
	}
	if on := f.mapped[req.ID]; on != nil {
		if on == d && d.luks.readOnly == req.ReadOnly {
			return f.mapping(req.ID, d), nil
		}
		if f.inUse(on) || on != d && on.connected {
			return luks.Mapping{}, volume.Errorf(volume.Precondition, "the mapping of %s is in the way", req.ID)
		}
		on.crypt = 0
		delete(f.mapped, req.ID)
	}
	switch {
	case len(req.Passphrase) == 0:
		return luks.Mapping{}, volume.Errorf(volume.Invalid, "no passphrase")
	case !bytes.Equal(req.Passphrase, []byte(d.luks.passphrase)):
		return luks.Mapping{}, volume.Errorf(volume.Precondition, "open %s: the passphrase opens no key slot", req.Device.Path)
	case d.hasMapping():
		return luks.Mapping{}, volume.Errorf(volume.Deadline, "open %s: it is in use", req.Device.Path)
	}
	d.crypt, d.luks.readOnly, d.luks.keyring = d.shown-header, req.ReadOnly, false
	f.mapped[req.ID] = d
	return f.mapping(req.ID, d), nil
}

func (f fakeMappings) mapping(id string, d *disk) luks.Mapping {
	m := luks.Mapping{
		Device: device(d, d.path+"-crypt"), Disk: device(d, d.path), Name: luks.MappingName(id),
		Offset: header, Size: d.crypt, ReadOnly: d.luks.readOnly,
	}
	if !d.connected {
		m.DiskGone, m.Disk = true, blockdev.Device{Major: diskMajor, Minor: d.number}
	}
	return m
}

// inUse reports whether the mapping on the disk is mounted, or open. A device
// node in a pod does not keep it open.
func (f fakeMappings) inUse(d *disk) bool {
	for _, m := range f.mounts {
		if m.Device == (blockdev.DeviceNumber{Major: cryptMajor, Minor: d.number}) {
			return true
		}
	}
	return d.luks.handles > 0
}

func (f fakeMappings) Find(_ context.Context, id string) (luks.Mapping, bool, error) {
	leave, err := f.enter("luks-find")
	defer leave()
	d := f.mapped[id]
	if err != nil || d == nil {
		return luks.Mapping{}, false, err
	}
	return f.mapping(id, d), true, nil
}

func (f fakeMappings) Close(_ context.Context, id string) error {
	leave, err := f.enter("luks-close")
	defer leave()
	d := f.mapped[id]
	if err != nil || d == nil {
		return err
	}
	for _, m := range f.mounts {
		if n := (blockdev.DeviceNumber{Major: cryptMajor, Minor: d.number}); m.Device == n || m.Node == n {
			return volume.Errorf(volume.Precondition, "the mapping of %s is in use: mounted at %s", id, m.Mountpoint)
		}
	}
	if d.luks.handles > 0 {
		return volume.Errorf(volume.Deadline, "the mapping of %s stays open", id)
	}
	d.crypt = 0
	delete(f.mapped, id)
	return nil
}

func (f fakeMappings) Grow(_ context.Context, dev blockdev.Device, key []byte) (volume.Size, error) {
	leave, err := f.enter("resize-crypt")
	defer leave()
	d, _ := f.diskAt(dev.Path)
	want := d.shown - header
	switch {
	case err != nil:
		return 0, err
	case d.crypt >= want:
		return d.crypt, nil
	case d.luks.keyring && len(key) == 0:
		return 0, volume.Errorf(volume.Precondition, "the passphrase is needed")
	case dev.Major != cryptMajor:
		return 0, volume.Errorf(volume.Precondition, "%s is not a dm-crypt mapping", dev.Path)
	}
	d.crypt = want
	return d.crypt, nil
}

// encrypt gives the volume of the bench a LUKS2 header and an open mapping.
func (b *bench) encrypt(d *disk) {
	d.luks.header = luks.Header{State: luks.HeaderSound, UUID: "00000000-0000-4000-8000-000000000000", Offset: header, Sector: 512}
	d.luks.passphrase, d.crypt = secret, d.backend-header
	b.mapped[b.id] = d
}
