package luks

import (
	"context"
	"fmt"
	"os"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// OpenRequest asks for the open mapping of a volume.
type OpenRequest struct {
	ID         string // of the volume
	Device     blockdev.Device
	Passphrase []byte // used unchanged; not needed if the mapping is already open
	ReadOnly   bool
}

// Open opens the mapping of a volume, named MappingName, and returns it as read back from
// device mapper and sysfs: it is on this device, has the UUID of the device's header, and
// reaches from the header's offset to the end of the device.
//
// Open returns a suitable mapping that is already open, and does not change its size (Grow
// does). It closes an open mapping whose disk no longer exists, or whose ReadOnly differs,
// and opens it again. It does not change any other mapping of this name, and returns an
// error.
//
// When ctx ends, Open kills cryptsetup and returns after cryptsetup has ended; the next Open
// continues from what that left. Kinds: Invalid (no passphrase), Precondition (no sound
// header, a wrong passphrase, or a mapping of this name that is mounted or not the volume's),
// Deadline (also: a program has an unsuitable mapping open), Canceled, Internal.
func (s *System) Open(ctx context.Context, req OpenRequest) (Mapping, error) {
	f, err := s.lockDisk(ctx, req.Device)
	if err != nil {
		return Mapping{}, err
	}
	defer closeQuietly(f)
	h, err := readHeaderOf(ctx, req.Device, blockdev.NewUncachedReader(f))
	if err != nil {
		return Mapping{}, err
	}
	if h.State != HeaderSound {
		return Mapping{}, unusableHeaderError(req.Device, h)
	}
	name := MappingName(req.ID)
	m, ok, err := s.findUsable(ctx, req, h, name)
	if err != nil || ok {
		return m, err
	}
	if err := checkPassphrase(req.Passphrase); err != nil {
		return Mapping{}, err
	}
	return s.open(ctx, req, f, h, name)
}

// open runs cryptsetup open and reads the mapping back.
func (s *System) open(ctx context.Context, req OpenRequest, f *os.File, h Header, name string) (Mapping, error) {
	if h.Problem != "" {
		s.log.WarnContext(ctx, "the LUKS2 header has lost a copy, which cryptsetup restores",
			"device", req.Device.Path, "problem", h.Problem)
	}
	args := []string{"open", "--batch-mode", "--type", "luks2", "--disable-keyring", "--tries", "1"}
	if req.ReadOnly {
		args = append(args, "--readonly")
	}
	if s.discards {
		args = append(args, "--allow-discards")
	}
	args = append(args, "--key-file", "-", "--", diskPath, name)
	stderr, runErr := s.cryptsetup(ctx, req.Device, cryptsetupCommand{Args: args, Passphrase: req.Passphrase, Disk: f})
	m, ok, err := s.Find(ctx, req.ID)
	if err != nil {
		return Mapping{}, err
	}
	// cryptsetup has tried to load the module of device mapper before everything else.
	if !ok && !s.mapper.isAvailable() && ctx.Err() == nil {
		return Mapping{}, volume.Errorf(volume.KindInternal,
			"cannot open the encrypted volume on %s: the kernel of this node has no device mapper", req.Device).
			WithRemedy("load the kernel modules on the node: modprobe -a dm-mod dm-crypt")
	}
	if !ok {
		what := fmt.Sprintf("cannot open the LUKS2 mapping %s on %s", name, req.Device)
		return Mapping{}, commandError(ctx, what, req.Device, stderr, runErr)
	}
	if err := s.checkOpened(m, req, h); err != nil {
		return Mapping{}, volume.Join(err, s.close(ctx, name))
	}
	s.log.InfoContext(ctx, "opened a LUKS2 mapping", "volume", req.ID, "mapping", name,
		"device", m.Device.Path, "disk", m.Disk.Path, "size", m.Size, "read_only", m.ReadOnly)
	return m, nil
}

// checkOpened returns an error if a new mapping is not the requested one.
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
		problem = fmt.Sprintf("it has %s (table: %s), but the device has space for %s", read, m.Size, want)
	case m.ReadOnly != req.ReadOnly:
		problem = fmt.Sprintf("it has read-only=%t, but the request has read-only=%t", m.ReadOnly, req.ReadOnly)
	default:
		return nil
	}
	return volume.Errorf(volume.KindInternal, "the new mapping %s is not the requested one: %s", m, problem).
		WithRemedy("check the kernel log of this node, and whether the disk is writable")
}

// mismatch describes why the mapping is not that of this device and header. It returns ""
// if it is.
func (m Mapping) mismatch(req OpenRequest, h Header) string {
	switch {
	case m.DiskGone || m.Disk.Major != req.Device.Major || m.Disk.Minor != req.Device.Minor:
		return fmt.Sprintf("it is on %s, but the volume is %s", m.diskText(), req.Device)
	case m.UUID != dmUUID(h.UUID, m.Name):
		return fmt.Sprintf("it was opened with another header (%s), but the volume's header has the UUID %s", m.UUID, h.UUID)
	case m.Offset != h.Offset || m.sector != h.Sector:
		return fmt.Sprintf("its data begin at %s in sectors of %s, but the header says %s and %s",
			m.Offset, m.sector, h.Offset, h.Sector)
	}
	return ""
}

// findUsable returns the open mapping of the volume, if it is the requested one. It closes a
// mapping that Open is allowed to replace, and returns an error for any other.
func (s *System) findUsable(ctx context.Context, req OpenRequest, h Header, name string) (Mapping, bool, error) {
	st, exists, err := s.mapper.status(name)
	if err != nil {
		return Mapping{}, false, mapperError("find the mapping", name, err)
	}
	if exists && !st.hasTable { // a killed cryptsetup has left it
		return Mapping{}, false, s.close(ctx, name)
	}
	m, ok, err := s.Find(ctx, req.ID)
	if err != nil || !ok {
		return Mapping{}, false, err
	}
	problem, replace := m.mismatch(req, h), m.DiskGone
	if problem == "" && m.ReadOnly != req.ReadOnly {
		problem = fmt.Sprintf("it is open with read-only=%t, but the request has read-only=%t", m.ReadOnly, req.ReadOnly)
		replace = true
	}
	switch {
	case problem == "":
		return m, true, nil
	case replace:
		s.log.WarnContext(ctx, "closing an unsuitable mapping, to open it again", "mapping", name, "problem", problem)
		if err := s.close(ctx, name); err != nil {
			return Mapping{}, false, fmt.Errorf("cannot close the unsuitable mapping %s (%s): %w", m, problem, err)
		}
		return Mapping{}, false, nil
	}
	return Mapping{}, false, volume.Errorf(volume.KindPrecondition,
		"cannot open the volume, because the mapping %s has its name: %s", m, problem).
		WithRemedy(fmt.Sprintf("find what uses the mapping: lsblk %s; fuser -v %s; stop that, then close the mapping: "+
			"cryptsetup close %s", m.Device.Path, m.Device.Path, name))
}

// unusableHeaderError is the error for a device without a sound header.
func unusableHeaderError(d blockdev.Device, h Header) error {
	remedy := "restore the LUKS header from a backup, because the data cannot be read without it: " +
		"cryptsetup luksHeaderRestore " + d.Path + " --header-backup-file FILE"
	switch h.State {
	case HeaderAbsent:
		remedy = "use the volume through a PersistentVolume without encryption, or copy its data into a new volume: " +
			"this driver did not encrypt it"
	case HeaderLUKS1:
		remedy = "convert the header on this node: cryptsetup convert --type luks2 " + d.Path
	case HeaderUnsupported:
		remedy = "finish a reencryption that is under way: cryptsetup reencrypt --resume-only " + d.Path +
			"; or copy the data into a new volume"
	case HeaderUnfinished, HeaderDamaged, HeaderSound:
	}
	return volume.Errorf(volume.KindPrecondition, "cannot open the encrypted volume on %s: it has %s", d, h).
		WithRemedy(remedy)
}

// String describes the mapping in messages: "growvol-x (/dev/dm-0 (crypt, 253:0))".
func (m Mapping) String() string { return fmt.Sprintf("%s (%s)", m.Name, m.Device) }
