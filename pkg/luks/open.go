package luks

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// OpenRequest asks for the mapping of a volume.
type OpenRequest struct {
	ID         string // of the volume
	Device     blockdev.Device
	Passphrase []byte // used as it is; not needed when the mapping is open
	ReadOnly   bool
}

// Open opens the mapping of a volume and returns it as read back from device
// mapper and sysfs: it rests on this device, has the UUID of the device's
// header, and reaches from the header's offset to the end of the device. The
// name is that of MappingName.
//
// An open mapping is a success if it is what was asked for; its size is left
// alone (Grow). One that is not what was asked for, since the device has gone
// from under it or because of ReadOnly, is closed as Close does it, and opened
// again. Any other is left alone and reported.
//
// cryptsetup is killed when ctx ends, and Open returns when it is really gone;
// the next Open converges from whatever that left. Kinds: Invalid (no
// passphrase), Precondition (no sound header, a wrong passphrase, a mapping of
// this name that is mounted or another's), Deadline (also: a program has the
// mapping open that is in the way), Canceled, Internal.
func (s *System) Open(ctx context.Context, req OpenRequest) (Mapping, error) {
	f, err := s.lockDisk(ctx, req.Device)
	if err != nil {
		return Mapping{}, err
	}
	defer closeQuietly(f)
	h, err := headerOf(ctx, req.Device, blockdev.Uncached(f))
	if err != nil {
		return Mapping{}, err
	}
	if h.State != HeaderSound {
		return Mapping{}, notSound(req.Device, h)
	}
	name := MappingName(req.ID)
	m, ok, err := s.openAlready(ctx, req, h, name)
	if err != nil || ok {
		return m, err
	}
	if err := checkPassphrase(req.Passphrase); err != nil {
		return Mapping{}, err
	}
	return s.open(ctx, req, f, h, name)
}

// open runs cryptsetup and reads the mapping back.
func (s *System) open(ctx context.Context, req OpenRequest, f *os.File, h Header, name string) (Mapping, error) {
	if h.Problem != "" {
		s.log.WarnContext(ctx, "the LUKS2 header has lost a copy, which cryptsetup restores", "device", req.Device.Path, "problem", h.Problem)
	}
	args := []string{"open", "--batch-mode", "--type", "luks2", "--disable-keyring", "--tries", "1"}
	if req.ReadOnly {
		args = append(args, "--readonly")
	}
	stderr, runErr := s.cryptsetup(ctx, req.Device, Command{Args: append(args, "--key-file", "-", "--", DiskPath, name), Passphrase: req.Passphrase, Disk: f})
	m, ok, err := s.find(ctx, name)
	if err != nil {
		return Mapping{}, err
	}
	// cryptsetup, which needs device mapper first of all, has tried to load its
	// module by now.
	if !ok && !s.mapper.available() && ctx.Err() == nil {
		return Mapping{}, volume.Errorf(volume.KindInternal, "the encrypted volume on %s cannot be opened: the kernel of this node has no device mapper", req.Device).
			WithRemedy("load the kernel modules dm-mod and dm-crypt on the node")
	}
	if !ok {
		return Mapping{}, commandError(ctx, fmt.Sprintf("open the LUKS2 mapping %s on %s", name, req.Device), req.Device, stderr, runErr)
	}
	if err := s.checkOpened(m, req, h); err != nil {
		return Mapping{}, errors.Join(err, s.close(ctx, name))
	}
	s.log.InfoContext(ctx, "opened a LUKS2 mapping", "volume", req.ID, "mapping", name, "device", m.Device.Path, "disk", m.Disk.Path,
		"size", m.Size, "read_only", m.ReadOnly)
	return m, nil
}

// checkOpened proves that a new mapping is what was asked for.
func (s *System) checkOpened(m Mapping, req OpenRequest, h Header) error {
	size, err := s.devices.Size(req.Device)
	if err != nil {
		return err
	}
	read, err := s.devices.Size(m.Device)
	if err != nil {
		return err
	}
	want := (size - h.Offset).RoundDown(h.Sector)
	problem := m.mismatch(req, h)
	switch {
	case problem != "":
	case m.Size != read || m.Size > want || m.Size <= 0:
		problem = fmt.Sprintf("it has %s (table: %s) on a device that leaves %s", read, m.Size, want)
	case m.ReadOnly != req.ReadOnly:
		problem = fmt.Sprintf("read-only is %t, asked for was %t", m.ReadOnly, req.ReadOnly)
	default:
		return nil
	}
	return volume.Errorf(volume.KindInternal, "the new mapping %s is not what was asked for: %s", m, problem).
		WithRemedy("check that the disk can be written to, and the kernel log of this node")
}

// mismatch says why the mapping is not that of this device and header; empty
// if it is.
func (m Mapping) mismatch(req OpenRequest, h Header) string {
	switch {
	case m.DiskGone || m.Disk.Major != req.Device.Major || m.Disk.Minor != req.Device.Minor:
		return fmt.Sprintf("it rests on %s, and the volume is %s", m.disk(), req.Device)
	case m.UUID != dmUUID(h.UUID, m.Name):
		return fmt.Sprintf("it was opened from another header (%s), and the volume's has the UUID %s", m.UUID, h.UUID)
	case m.Offset != h.Offset || m.sector != h.Sector:
		return fmt.Sprintf("its data begin at %s in sectors of %s, and the header says %s and %s", m.Offset, m.sector, h.Offset, h.Sector)
	}
	return ""
}

// openAlready returns the mapping if it is open as it should be. What is in
// the way and is of no use is closed.
func (s *System) openAlready(ctx context.Context, req OpenRequest, h Header, name string) (Mapping, bool, error) {
	if err := s.dropStillborn(ctx, name); err != nil {
		return Mapping{}, false, err
	}
	m, ok, err := s.find(ctx, name)
	if err != nil || !ok {
		return Mapping{}, false, err
	}
	problem, replace := m.mismatch(req, h), m.DiskGone
	if problem == "" && m.ReadOnly != req.ReadOnly {
		problem, replace = fmt.Sprintf("it is open with read-only=%t, and asked for was read-only=%t", m.ReadOnly, req.ReadOnly), true
	}
	switch {
	case problem == "":
		return m, true, nil
	case replace:
		s.log.WarnContext(ctx, "closing a mapping that is not what was asked for, to open it again", "mapping", name, "problem", problem)
		if err := s.close(ctx, name); err != nil {
			return Mapping{}, false, fmt.Errorf("the mapping %s is in the way: %s: %w", m, problem, err)
		}
		return Mapping{}, false, nil
	}
	return Mapping{}, false, volume.Errorf(volume.KindPrecondition, "the mapping %s is in the way and was left alone: %s", m, problem).
		WithRemedy("find what uses " + m.Device.Path + " (lsblk, fuser), end it, and close the mapping: cryptsetup close " + name)
}

// dropStillborn removes a mapping that a killed cryptsetup has created and
// given no table.
func (s *System) dropStillborn(ctx context.Context, name string) error {
	st, ok, err := s.mapper.status(name)
	switch {
	case err != nil:
		return mapperError("find the mapping", name, err)
	case !ok || st.active:
		return nil
	}
	if err := checkOwn(st); err != nil {
		return err
	}
	return s.close(ctx, name)
}

// notSound is the error for a device that cannot be opened.
func notSound(d blockdev.Device, h Header) error {
	remedy := "restore the LUKS header from a backup (cryptsetup luksHeaderRestore); the data cannot be read without it"
	switch h.State {
	case HeaderAbsent:
		remedy = "the volume was not encrypted by this driver: use it with a StorageClass without encryption, or copy its data into a new volume"
	case HeaderLUKS1:
		remedy = "convert it with: cryptsetup convert --type luks2"
	case HeaderUnsupported:
		remedy = "finish what is under way with cryptsetup (a reencryption), or copy the data into a new volume"
	case HeaderUnfinished, HeaderDamaged, HeaderSound:
	}
	return volume.Errorf(volume.KindPrecondition, "the encrypted volume on %s cannot be opened: it has %s", d, h).WithRemedy(remedy)
}

// String names the mapping for messages: "growvol-x (/dev/dm-0 (crypt, 253:0))".
func (m Mapping) String() string { return fmt.Sprintf("%s (%s)", m.Name, m.Device) }
