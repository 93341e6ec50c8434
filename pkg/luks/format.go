package luks

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// DataOffset is the offset in bytes of the encrypted data on a device that Format formatted.
const DataOffset = volume.EncryptionHeaderSize

// minDataSize is the minimum size of a mapping.
const minDataSize = volume.MiB

// FormatRequest asks for a LUKS2 header on a blank device.
type FormatRequest struct {
	Device blockdev.Device
	// Passphrase is used unchanged, byte for byte.
	Passphrase []byte
	// Marker is the path of a file in the node's state directory, one file per volume; see
	// RemoveMarker. The directory must exist.
	Marker string
	// Content reads the content of the device. Format calls it directly before it writes.
	Content func(ctx context.Context) (Content, error)
}

// Content describes the content of a device.
type Content struct {
	Blank      bool   // nothing was ever written to it
	Recognized bool   // it holds something that was recognized
	Name       string // what it holds, for a message: "an xfs filesystem of 1 GiB"
}

// Format makes a LUKS2 header on a blank device and returns the header as read back. It does
// not change a device that has a sound header, and does not try the passphrase on it; Open
// does. fresh reports whether the marker proves that Format made this header and that the
// volume has not been used since: only then does a mapping full of noise mean that nothing
// was ever written to the volume.
//
// The device must be blank according to Content, or the marker must prove that an earlier
// Format of this volume was interrupted: then the device has no header, or a header with the
// marker's UUID that no passphrase can open yet. Format never overwrites any other damaged
// header, nor a device whose content was recognized.
//
// Unlocking the key takes 64 MiB of memory and one thread (argon2id, four passes: a fixed
// cost of about half a second; cryptsetup would choose weaker parameters on a loaded node).
// The cipher is AES-256-XTS, and the data begin at DataOffset.
//
// When ctx ends, Format kills cryptsetup and returns after cryptsetup has ended. Kinds:
// Invalid (no passphrase), Precondition (the device is not blank, or too small), Deadline,
// Canceled, Internal.
func (s *System) Format(ctx context.Context, req FormatRequest) (h Header, fresh bool, err error) {
	if err := checkPassphrase(req.Passphrase); err != nil {
		return Header{}, false, err
	}
	f, err := s.lockDisk(ctx, req.Device)
	if err != nil {
		return Header{}, false, err
	}
	defer closeQuietly(f)
	if h, err = readHeaderOf(ctx, req.Device, blockdev.NewUncachedReader(f)); err != nil {
		return Header{}, false, err
	}
	size, err := s.devices.Size(req.Device)
	if err != nil {
		return Header{}, false, err
	}
	m, err := readMarker(req.Marker)
	if err != nil {
		return Header{}, false, err
	}
	proved := m.isValidFor(size, s.now())
	if h.State == HeaderSound {
		return h, proved && m.UUID == h.UUID, nil
	}
	if size < DataOffset+minDataSize {
		return h, false, volume.Errorf(volume.KindPrecondition,
			"the device %s (%s) is too small for encryption: the LUKS2 header takes %s", req.Device, size, DataOffset).
			WithRemedy(fmt.Sprintf("request a volume of at least %s", DataOffset+minDataSize))
	}
	zero, err := isZero(ctx, req.Device, blockdev.NewUncachedReader(f), size)
	if err != nil {
		return h, false, err
	}
	if err := s.checkFormat(ctx, req, h, m, proved, zero); err != nil {
		return h, false, err
	}
	// The retry of an interrupted format uses the UUID of the first try, so that the marker
	// matches the header whichever of the two tries wrote it.
	if !proved {
		m = marker{UUID: uuid.NewString(), DeviceSize: size, Zero: zero, Begun: s.now()}
		if err := writeMarker(req.Marker, m); err != nil {
			return h, false, err
		}
	}
	h, err = s.format(ctx, req, f, m.UUID)
	return h, err == nil, err
}

// checkFormat returns an error if the content of the device must not be overwritten.
func (s *System) checkFormat(ctx context.Context, req FormatRequest, h Header, m marker, proved, zero bool) error {
	refuse := func(found, why string) error {
		return volume.Errorf(volume.KindPrecondition,
			"cannot format the device %s with LUKS2, because it is not blank: it holds %s, but %s",
			req.Device, found, why).
			WithRemedy(fmt.Sprintf("if it holds the volume's data, restore its LUKS header from a backup: "+
				"cryptsetup luksHeaderRestore %s --header-backup-file FILE; "+
				"if no data on it is needed, clear it: wipefs -a %s && blkdiscard -z %s",
				req.Device.Path, req.Device.Path, req.Device.Path))
	}
	leftover := proved && (zero || !m.Zero) // the device holds what an interrupted Format left, and no data
	switch h.State {
	case HeaderAbsent:
	case HeaderUnfinished, HeaderDamaged:
		// cryptsetup writes the first copy before the second one: a damaged header with a
		// second copy was complete once.
		if leftover && h.UUID == m.UUID && (h.State == HeaderUnfinished || !h.hasSecondary) {
			return nil
		}
		return refuse(h.String(), "no marker on this node proves that an interrupted format of this volume left it")
	default:
		return refuse(h.String(), "this driver did not make it")
	}
	c, err := req.Content(ctx)
	switch {
	case err != nil:
		return err
	case c.Blank:
		return nil
	case c.Recognized:
		return refuse(c.Name, "this driver encrypts blank devices only")
	case !leftover:
		return refuse(c.Name, "no marker on this node proves that an interrupted format of this volume left it")
	}
	return nil
}

// format runs cryptsetup and reads the header back.
func (s *System) format(ctx context.Context, req FormatRequest, f *os.File, uuid string) (Header, error) {
	s.log.InfoContext(ctx, "making a LUKS2 header", "device", req.Device.Path, "uuid", uuid)
	stderr, runErr := s.cryptsetup(ctx, req.Device, cryptsetupCommand{
		Args: formatArgs(uuid), Passphrase: req.Passphrase,
		Disk: f,
	})
	// ctx may have ended while cryptsetup was running.
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), readBackTimeout)
	defer cancel()
	h, err := readHeaderOf(after, req.Device, blockdev.NewUncachedReader(f))
	if err != nil {
		return h, volume.Join(err, runErr)
	}
	if h.State == HeaderSound && h.UUID == uuid && h.Offset == DataOffset {
		return h, nil
	}
	if h.State == HeaderAbsent {
		s.removeUnusedMarker(after, req)
	}
	what := fmt.Sprintf("cannot format %s with LUKS2: afterwards it has %s", req.Device, h)
	return h, commandError(ctx, what, req.Device, stderr, runErr)
}

// readBackTimeout bounds the reading of the header after a cryptsetup that was killed.
const readBackTimeout = 5 * time.Second

// removeUnusedMarker removes the marker after a format that failed before it wrote anything.
func (s *System) removeUnusedMarker(ctx context.Context, req FormatRequest) {
	c, err := req.Content(ctx)
	if err == nil && c.Blank {
		err = RemoveMarker(req.Marker)
	}
	if err != nil {
		s.log.ErrorContext(ctx, "cannot remove the marker of a failed LUKS format",
			"device", req.Device.Path, "error", err)
	}
}

// How much isZero reads: about sampleCount samples of sampleLength bytes each.
const (
	sampleCount  = 256
	sampleLength = 4096
)

// isZero reports whether all samples of a device after DataOffset are zero. The samples are
// evenly spread, at most 1/256 of the device apart.
func isZero(ctx context.Context, d blockdev.Device, r io.ReaderAt, size volume.Size) (bool, error) {
	stride := max((size-DataOffset)/sampleCount, sampleLength).RoundDown(sampleLength)
	zero, err := operation.AwaitCall(ctx, func() (bool, error) {
		for at := DataOffset; at < size && ctx.Err() == nil; at += stride {
			b, err := readUpTo(r, at.Bytes(), sampleLength)
			if err != nil || bytes.Count(b, []byte{0}) < len(b) {
				return false, err
			}
		}
		return true, ctx.Err()
	})
	if err != nil {
		return false, volume.Errorf(volume.KindOf(err), "cannot read %s: %w", d, err).
			WithRemedy("check the kernel log of this node, and that the volume is still attached to it")
	}
	return zero, nil
}

// checkPassphrase refuses an empty passphrase, which cryptsetup would accept.
func checkPassphrase(p []byte) error {
	if len(p) > 0 {
		return nil
	}
	return volume.Errorf(volume.KindInvalid, "the volume is encrypted, but the request has no passphrase").
		WithRemedy("name a secret with the key \"passphrase\" in the StorageClass: " +
			"csi.storage.k8s.io/node-stage-secret-name and csi.storage.k8s.io/node-stage-secret-namespace")
}

// formatArgs returns the arguments of cryptsetup luksFormat; see Format for the reasons.
func formatArgs(uuid string) []string {
	const memory = 64 * volume.MiB
	return []string{
		"luksFormat", "--batch-mode", "--type", "luks2", "--uuid", uuid,
		"--cipher", "aes-xts-plain64", "--key-size", "512", "--hash", "sha256",
		"--pbkdf", "argon2id", "--pbkdf-memory", strconv.FormatInt(memory.Bytes()>>10, 10), // KiB
		"--pbkdf-parallel", "1", "--pbkdf-force-iterations", "4",
		"--offset", strconv.FormatInt(DataOffset.Bytes()/sectorSize, 10), // sectors
		"--key-file", "-", "--", diskPath,
	}
}
