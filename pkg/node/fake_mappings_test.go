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

// fakeMappings implements Mappings as pkg/luks does.
type fakeMappings struct{ *machine }

// enterIn is startCall for a call that ends with its context.
func (f fakeMappings) enterIn(ctx context.Context, call string) (func(), error) {
	leave, err := f.startCall(call)
	if err == nil {
		err = checkInTime(ctx, call)
	}
	return leave, err
}

func (f fakeMappings) Header(ctx context.Context, dev blockdev.Device) (luks.Header, error) {
	leave, err := f.enterIn(ctx, "luks-header")
	defer leave()
	if err != nil {
		return luks.Header{}, volume.Errorf(volume.KindOf(err), "read the LUKS header of %s: %w", dev.Path, err)
	}
	d, err := f.diskOfDevice(dev)
	if err != nil {
		return luks.Header{}, err
	}
	return d.luks.header, nil
}

func (f fakeMappings) Format(ctx context.Context, req luks.FormatRequest) (luks.Header, bool, error) {
	leave, err := f.enterIn(ctx, "luks-format")
	encrypting := f.holdLUKSFormat
	leave()
	if encrypting != nil {
		<-encrypting
	}
	if err == nil {
		err = ctx.Err() // cryptsetup was killed
	}
	switch {
	case err != nil:
		return luks.Header{}, false, err
	case len(req.Passphrase) == 0:
		return luks.Header{}, false, volume.Errorf(volume.KindInvalid, "no passphrase")
	}
	f.mu.Lock()
	d, err := f.diskOfDevice(req.Device)
	if err != nil {
		f.mu.Unlock()
		return luks.Header{}, false, err
	}
	h, disk := d.luks.header, d.deviceSize
	f.mu.Unlock()
	uuid, _ := os.ReadFile(req.Marker)
	isOwn := len(uuid) > 0 && string(uuid) == h.UUID
	if h.State == luks.HeaderSound {
		return h, isOwn, nil
	}
	if disk < headerSize+volume.MiB {
		return h, false, volume.Errorf(volume.KindPrecondition, "%s is too small for encryption", req.Device.Path)
	}
	if h.State != luks.HeaderAbsent && !isOwn {
		return h, false, volume.Errorf(volume.KindPrecondition, "%s holds %s: not formatted with LUKS2", req.Device.Path, h)
	}
	if h.State == luks.HeaderAbsent {
		c, err := req.Content(ctx)
		if leftover := len(uuid) > 0 && !c.Recognized; err == nil && !c.Blank && !leftover {
			err = volume.Errorf(
				volume.KindPrecondition, "%s is not blank: it holds %s: not formatted with LUKS2", req.Device.Path, c.Name,
			)
		}
		if err != nil {
			return h, false, err
		}
	}
	return f.format(req, d)
}

// format makes the header, after the marker.
func (f fakeMappings) format(req luks.FormatRequest, d *fakeDisk) (luks.Header, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if path, used := f.findUser(d, diskNumberOf(d)); used {
		return luks.Header{}, false, volume.Errorf(volume.KindDeadline, "%s is in use at %s", req.Device.Path, path)
	}
	f.nextID++
	uuid := fmt.Sprintf("00000000-0000-4000-8000-%012d", f.nextID)
	if err := os.WriteFile(req.Marker, []byte(uuid), 0o600); err != nil {
		return luks.Header{}, false, err
	}
	d.content = filesystem.Signature{State: filesystem.StateForeign, Content: "unknown data", IsRandom: true}
	d.luks.header = luks.Header{State: luks.HeaderSound, UUID: uuid, Offset: headerSize, Sector: 512}
	d.luks.passphrase = string(req.Passphrase)
	if d.luks.killNextFormat {
		d.luks.killNextFormat, d.luks.header.State = false, luks.HeaderUnfinished
		return d.luks.header, false, volume.Errorf(volume.KindInternal, "cryptsetup was killed")
	}
	return d.luks.header, true, nil
}

func (f fakeMappings) Open(ctx context.Context, req luks.OpenRequest) (luks.Mapping, error) {
	leave, err := f.enterIn(ctx, "luks-open")
	opening := f.holdLUKSOpen
	leave()
	if opening != nil {
		<-opening
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		err = ctx.Err() // cryptsetup was killed
	}
	if err != nil {
		return luks.Mapping{}, volume.Errorf(volume.KindOf(err), "open %s: %w", req.Device.Path, err)
	}
	d, err := f.diskOfDevice(req.Device)
	switch {
	case err != nil:
		return luks.Mapping{}, err
	case d.luks.header.State != luks.HeaderSound:
		return luks.Mapping{}, volume.Errorf(
			volume.KindPrecondition, "%s cannot be opened: it has %s", req.Device.Path, d.luks.header,
		)
	}
	already, err := f.openAlready(req, d)
	if err != nil || already {
		return f.mapping(req.ID, d), err
	}
	path, used := f.findUser(d, diskNumberOf(d))
	switch {
	case len(req.Passphrase) == 0:
		return luks.Mapping{}, volume.Errorf(volume.KindInvalid, "no passphrase")
	case !bytes.Equal(req.Passphrase, []byte(d.luks.passphrase)):
		return luks.Mapping{}, volume.Errorf(
			volume.KindPrecondition, "open %s: the passphrase opens no key slot", req.Device.Path,
		)
	case used:
		return luks.Mapping{}, volume.Errorf(volume.KindDeadline, "open %s: it is in use at %s", req.Device.Path, path)
	}
	d.mappingSize = d.deviceSize - headerSize
	d.luks.readOnly, d.luks.keyInKeyring, d.luks.plugCount = req.ReadOnly, false, d.plugCount
	f.mappedDisks[req.ID] = d
	return f.mapping(req.ID, d), nil
}

// openAlready reports whether the mapping is open as asked for. A mapping that is
// unused, or whose disk is gone, is closed. The machine is locked.
func (f fakeMappings) openAlready(req luks.OpenRequest, d *fakeDisk) (bool, error) {
	on := f.mappedDisks[req.ID]
	switch {
	case on == nil:
		return false, nil
	case on == d && !on.mappingGone() && on.luks.readOnly == req.ReadOnly:
		return true, nil
	case on.luks.openHandles > 0, on != d && !on.mappingGone():
		return false, volume.Errorf(volume.KindPrecondition, "the mapping of %s is in use, or is of another disk", req.ID)
	}
	return false, f.close(req.ID, on)
}

func (f fakeMappings) mapping(id string, d *fakeDisk) luks.Mapping {
	m := luks.Mapping{
		Device: device(d, d.path+"-crypt"), Disk: device(d, d.path), Name: luks.MappingName(id),
		Offset: headerSize, Size: d.mappingSize, ReadOnly: d.luks.readOnly,
	}
	if d.mappingGone() {
		m.DiskGone, m.Disk = true, blockdev.Device{Major: diskMajor, Minor: d.number}
	}
	return m
}

func (f fakeMappings) Find(ctx context.Context, id string) (luks.Mapping, bool, error) {
	leave, err := f.enterIn(ctx, "luks-find")
	defer leave()
	d := f.mappedDisks[id]
	if err != nil || d == nil {
		return luks.Mapping{}, false, err
	}
	return f.mapping(id, d), true, nil
}

func (f fakeMappings) CloseOn(ctx context.Context, id string, _ blockdev.Device) error {
	return f.Close(ctx, id)
}

func (f fakeMappings) Close(ctx context.Context, id string) error {
	leave, err := f.enterIn(ctx, "luks-close")
	defer leave()
	d := f.mappedDisks[id]
	if err != nil || d == nil {
		return err
	}
	return f.close(id, d)
}

// close closes a mapping that nobody uses. A device node that a pod has does not keep
// the mapping open, but it counts as a use. The machine is locked.
func (f fakeMappings) close(id string, d *fakeDisk) error {
	for _, m := range f.mounts {
		if f.isOnDisk(m, d) || m.DeviceNode == mappingNumberOf(d) && !m.IsStaleDeviceNode() {
			return volume.Errorf(volume.KindPrecondition, "the mapping of %s is in use: mounted at %s", id, m.MountPoint)
		}
	}
	if d.luks.openHandles > 0 {
		return volume.Errorf(volume.KindDeadline, "the mapping of %s stays open", id)
	}
	d.mappingSize = 0
	delete(f.mappedDisks, id)
	return nil
}

func (f fakeMappings) Grow(ctx context.Context, dev blockdev.Device, key []byte) (volume.Size, error) {
	leave, err := f.enterIn(ctx, "resize-crypt")
	defer leave()
	if err != nil {
		return 0, err
	}
	d, err := f.diskOfDevice(dev)
	if err != nil {
		return 0, err
	}
	want := d.deviceSize - headerSize
	switch {
	case dev.Major != cryptMajor:
		return 0, volume.Errorf(volume.KindPrecondition, "%s is not a dm-crypt mapping", dev.Path)
	case d.mappingSize >= want:
		return d.mappingSize, nil
	case d.luks.keyInKeyring && len(key) == 0:
		return 0, volume.Errorf(volume.KindPrecondition, "the passphrase is needed")
	}
	d.mappingSize = want
	return d.mappingSize, nil
}
