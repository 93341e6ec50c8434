package luks

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// DataOffset is where the encrypted data begin on a device that this driver
// has formatted.
const DataOffset = volume.EncryptionHeaderSize

// minData is the least that is worth a mapping.
const minData = volume.MiB

// FormatRequest asks for a LUKS2 header on a blank device.
type FormatRequest struct {
	Device blockdev.Device
	// Passphrase is used as it is, each byte of it.
	Passphrase []byte
	// Marker is the path of a file in the node's state directory, one per
	// volume; see RemoveMarker. Its directory must exist.
	Marker string
	// Content reads what the device holds. Format calls it directly before it
	// writes.
	Content func(ctx context.Context) (Content, error)
}

// Content is what was read on a device.
type Content struct {
	Blank bool   // nothing was ever written to it
	Named bool   // it holds something that was recognized
	Name  string // what it holds, for a message: "an xfs filesystem of 1 GiB"
}

// Format makes a LUKS2 header, on a blank device only, and returns it as read
// back. A sound header is a success and left alone; its passphrase is not
// tried, Open does that. fresh reports whether the marker proves that this
// header was made here and the volume was not put to use since: only then is
// noise in the mapping what an unwritten volume looks like.
//
// The device must be blank according to Content, or the marker must prove that
// an earlier Format of this volume was cut short: the device then has no
// header, or one with the marker's own UUID that no passphrase could open yet.
// A damaged header of any other kind is never touched, and neither is a device
// that holds something recognized.
//
// Unlocking takes 64 MiB of memory and one thread (argon2id, four passes: a
// fixed cost, about half a second, which no load on the node makes weaker).
// The data are encrypted with AES-256 in XTS mode and begin at DataOffset.
//
// cryptsetup is killed when ctx ends, and Format returns when it is really
// gone. Kinds: Invalid (no passphrase), Precondition (the device holds
// something, or is too small), Deadline, Canceled, Internal.
func (s *System) Format(ctx context.Context, req FormatRequest) (h Header, fresh bool, err error) {
	if err := checkPassphrase(req.Passphrase); err != nil {
		return Header{}, false, err
	}
	f, err := s.lockDisk(ctx, req.Device)
	if err != nil {
		return Header{}, false, err
	}
	defer closeQuietly(f)
	if h, err = headerOf(ctx, req.Device, blockdev.Uncached(f)); err != nil {
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
	proved := m.proves(size, s.now())
	if h.State == HeaderSound {
		return h, proved && m.UUID == h.UUID, nil
	}
	if size < DataOffset+minData {
		return h, false, volume.Errorf(volume.KindPrecondition, "the device %s (%s) is too small for encryption: the LUKS2 header takes %s", req.Device, size, DataOffset).
			WithRemedy(fmt.Sprintf("ask for a volume of at least %s", DataOffset+minData))
	}
	zero, err := isZero(ctx, req.Device, blockdev.Uncached(f), size)
	if err != nil {
		return h, false, err
	}
	if err := s.checkFormat(ctx, req, h, m, proved, zero); err != nil {
		return h, false, err
	}
	// A format that is taken up again keeps the UUID of the first try: a second
	// crash finds either of the two.
	if !proved {
		m = marker{UUID: newUUID(), Device: size, Zero: zero, Begun: s.now()}
		if err := writeMarker(req.Marker, m); err != nil {
			return h, false, err
		}
	}
	h, err = s.format(ctx, req, f, m.UUID)
	return h, err == nil, err
}

// checkFormat decides whether what was found may be overwritten.
func (s *System) checkFormat(ctx context.Context, req FormatRequest, h Header, m marker, proved, zero bool) error {
	refuse := func(found, why string) error {
		return volume.Errorf(volume.KindPrecondition, "the device %s is not blank: it holds %s; %s: it was not formatted with LUKS2", req.Device, found, why).
			WithRemedy("if nothing on it is needed, clear it with wipefs -a and blkdiscard -z; if it holds the volume's data, restore its LUKS header from a backup")
	}
	leftover := proved && (zero || !m.Zero) // of our own format, behind which nothing was written
	switch h.State {
	case HeaderAbsent:
	case HeaderUnfinished, HeaderDamaged:
		// The first header is written before the second copy: a damaged one beside
		// a second copy was finished once.
		if leftover && h.UUID == m.UUID && (h.State == HeaderUnfinished || !h.hasSecondary) {
			return nil
		}
		return refuse(h.String(), "nothing on this node proves that an interrupted format of this volume left it")
	default:
		return refuse(h.String(), "this driver did not make it")
	}
	c, err := req.Content(ctx)
	switch {
	case err != nil:
		return err
	case c.Blank:
		return nil
	case c.Named:
		return refuse(c.Name, "it belongs to something else")
	case !leftover:
		return refuse(c.Name, "nothing on this node proves that an interrupted format of this volume left it")
	}
	return nil
}

// format runs cryptsetup and reads the header back.
func (s *System) format(ctx context.Context, req FormatRequest, f *os.File, uuid string) (Header, error) {
	s.log.InfoContext(ctx, "making a LUKS2 header", "device", req.Device.Path, "uuid", uuid)
	stderr, runErr := s.cryptsetup(ctx, req.Device, Command{Args: formatArgs(uuid), Passphrase: req.Passphrase, Disk: f})
	// The caller's time may have run out with cryptsetup.
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), readBackTimeout)
	defer cancel()
	h, err := headerOf(after, req.Device, blockdev.Uncached(f))
	if err != nil {
		return h, errors.Join(err, runErr)
	}
	if h.State == HeaderSound && h.UUID == uuid && h.Offset == DataOffset {
		return h, nil
	}
	if h.State == HeaderAbsent {
		s.dropMarker(after, req)
	}
	what := fmt.Sprintf("format %s with LUKS2: it has %s afterwards", req.Device, h)
	return h, commandError(ctx, what, req.Device, stderr, runErr)
}

// readBackTimeout bounds the reading of what a cryptsetup that was killed has
// left.
const readBackTimeout = 5 * time.Second

// dropMarker removes the marker after a format that has failed before it wrote
// anything.
func (s *System) dropMarker(ctx context.Context, req FormatRequest) {
	c, err := req.Content(ctx)
	if err == nil && c.Blank {
		err = RemoveMarker(req.Marker)
	}
	if err != nil {
		s.log.ErrorContext(ctx, "the record of a failed LUKS format stays", "device", req.Device.Path, "error", err)
	}
}

// sampled is how many places of a device are read to tell whether it is zero.
const (
	samples      = 256
	sampleLength = 4096
)

// isZero reports whether a device reads as zeros behind DataOffset, at places
// at most 1/256 of the device apart.
func isZero(ctx context.Context, d blockdev.Device, r io.ReaderAt, size volume.Size) (bool, error) {
	stride := max((size-DataOffset)/samples, sampleLength).RoundDown(sampleLength)
	zero, err := operation.AwaitCall(ctx, func() (bool, error) {
		for at := DataOffset; at < size && ctx.Err() == nil; at += stride {
			b, err := readAt(r, at.Bytes(), sampleLength)
			if err != nil || bytes.Count(b, []byte{0}) < len(b) {
				return false, err
			}
		}
		return true, ctx.Err()
	})
	if err != nil {
		return false, volume.Errorf(volume.KindOf(err), "read %s: %w", d, err).
			WithRemedy("check the kernel log of this node and the connection of the volume")
	}
	return zero, nil
}

// newUUID makes a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// checkPassphrase refuses an empty one, which cryptsetup would take.
func checkPassphrase(p []byte) error {
	if len(p) > 0 {
		return nil
	}
	return volume.Errorf(volume.KindInvalid, "the volume is encrypted, but the request has no passphrase").
		WithRemedy("name a secret with the key \"passphrase\" in the StorageClass (csi.storage.k8s.io/node-stage-secret-name and -namespace)")
}

// formatArgs are the arguments of luksFormat; see Format.
func formatArgs(uuid string) []string {
	const memory = 64 * volume.MiB
	return []string{
		"luksFormat", "--batch-mode", "--type", "luks2", "--uuid", uuid, "--cipher", "aes-xts-plain64", "--key-size", "512", "--hash", "sha256",
		"--pbkdf", "argon2id", "--pbkdf-memory", strconv.FormatInt(memory.Bytes()>>10, 10), "--pbkdf-parallel", "1", "--pbkdf-force-iterations", "4",
		"--offset", strconv.FormatInt(DataOffset.Bytes()/sectorSize, 10), "--key-file", "-", "--", DiskPath,
	}
}
