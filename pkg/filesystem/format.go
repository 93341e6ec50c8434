package filesystem

import (
	"cmp"
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/statefile"
	"github.com/growvol/growvol/pkg/volume"
)

// FormatRequest asks for a filesystem on a blank device.
type FormatRequest struct {
	Device Device
	Type   Type
	// Options are passed to mkfs after the safe profile (see Format).
	Options []string
	// Marker is the path of a file in the node's state directory, one file per volume. The
	// file exists while mkfs runs. After an interruption it proves for a day that the device
	// holds what mkfs left there, and no user's data (see RemoveMarker). With an empty path
	// there is no such proof, so Format refuses the leftovers of an interrupted mkfs.
	Marker string
	// IsEncrypted says that a layer below the device decrypts its data (dm-crypt, or LUKS in
	// the hypervisor): unwritten sectors then read as random bytes instead of zeros, so
	// Format treats random bytes as blank.
	IsEncrypted bool
}

// Format makes a filesystem, and returns once it has read the finished filesystem back. If
// the device already holds a complete filesystem of the requested type, Format does not
// change the device; it removes the marker and succeeds.
//
// Format overwrites a device in three cases only:
//
//   - Probe reports that the device is blank.
//   - IsEncrypted is set, and Probe cannot distinguish the content from random bytes.
//   - The device holds an unfinished filesystem or unknown data, and the marker proves that an
//     earlier Format of this volume with the same type was interrupted.
//
// So Format never overwrites a complete filesystem of another type, nor content that Probe
// recognizes as something else.
//
// The safe profile is: ext always with blocks of 4 KiB (another -b and sparse_super2 are
// refused), no blocks reserved for root (-m overrides that), lazy initialization as mke2fs
// chooses, no discard.
//
// mkfs is killed when ctx ends, and Format returns only after mkfs has ended: a second mkfs
// on the same device would do more harm than a late answer. A large ext3 takes minutes:
// give Format a context that outlives one RPC.
//
// Kinds: Precondition (the device holds something else), Invalid (options), Deadline (ctx
// ended, or the device is in use), Canceled, Internal (the device cannot be read, or mkfs
// failed).
func (s *System) Format(ctx context.Context, req FormatRequest) error {
	options, err := mkfsOptions(req.Type, req.Options)
	if err != nil {
		return err
	}
	sig, err := s.Probe(ctx, req.Device)
	if err != nil {
		return err
	}
	size, err := sizeOf(req.Device)
	if err != nil {
		return err
	}
	if sig.holdsComplete(req.Type) {
		return RemoveMarker(req.Marker)
	}
	if err := checkOverwritable(req, sig, size, s.now()); err != nil {
		return err
	}
	if err := writeMarker(req.Marker, marker{Type: req.Type, DeviceSize: size, Begun: s.now()}); err != nil {
		return err
	}
	if sig.State != StateBlank {
		content := "the leftovers of an interrupted mkfs"
		if req.IsEncrypted && sig.IsRandom {
			content = "the random bytes of a new encrypted volume"
		}
		if err := s.wipe(ctx, req.Device, size.Bytes(), content); err != nil {
			return err
		}
	}
	if err := s.mkfs(ctx, req, options); err != nil {
		if removeErr := s.removeUnusedMarker(ctx, req, err); removeErr != nil {
			s.log.ErrorContext(ctx, "cannot remove the marker of a failed mkfs",
				"device", req.Device.Path(), "error", removeErr)
		}
		return err
	}
	return s.finishFormat(ctx, req, size)
}

// checkOverwritable returns an error of kind Precondition unless the content of the device
// may be overwritten.
func checkOverwritable(req FormatRequest, sig Signature, size volume.Size, now time.Time) error {
	device := req.Device.Path()
	refuse := func(reason string) error {
		remedy := "check what the device holds: blkid -p " + device
		if sig.State == StateFormatted && sig.IsComplete {
			remedy = "to keep its data, recreate the PersistentVolume with spec.csi.fsType: " + string(sig.Type)
		}
		remedy += "; if nothing on the device is needed, run on this node: " + clearCommand(device)
		if sig.State == StateForeign && sig.Type != "" {
			remedy = sig.Type.repairRemedy(device)
		}
		return volume.Errorf(volume.KindPrecondition,
			"cannot format device %s (%s) as %s: it is not blank: it holds %s; %s", device, size, req.Type, sig, reason).
			WithRemedy(remedy)
	}
	switch {
	case sig.State == StateBlank, req.IsEncrypted && sig.IsRandom:
		return nil
	case sig.IsRecognized:
		return refuse("this driver does not overwrite data of others")
	case sig.State == StateFormatted && sig.IsComplete:
		return refuse("this driver does not replace one filesystem by another")
	}
	m, exists, err := statefile.ReadMarker[marker](req.Marker)
	switch {
	case err != nil:
		return markerError(err)
	case !exists:
		return refuse("no marker on this node proves that an interrupted mkfs of this volume left it")
	case !statefile.IsFresh(m.Begun, now):
		return refuse("the marker of an interrupted mkfs on this node is damaged or older than a day, " +
			"so this may be a user's data")
	case m.Type != req.Type:
		return refuse("the marker on this node is that of an interrupted mkfs of " + string(m.Type))
	case m.DeviceSize > size:
		return refuse("the marker on this node is that of an interrupted mkfs on a larger device of " + m.DeviceSize.String())
	}
	return nil
}

// wipe writes zeros to the areas that Probe reads, so that a later probe finds the device
// blank. content describes what the areas hold, for messages.
func (s *System) wipe(ctx context.Context, dev Device, size int64, content string) error {
	w, err := dev.OpenWriter()
	if err != nil {
		return err
	}
	err = wipeAreas(ctx, w, size)
	if err = cmp.Or(err, w.Close()); err != nil {
		return volume.Errorf(volume.KindOf(err), "cannot clear %s on %s: %w", content, dev.Path(), err)
	}
	s.log.InfoContext(ctx, "cleared a device before mkfs", "device", dev.Path(), "content", content)
	return nil
}

func wipeAreas(ctx context.Context, w blockdev.Writer, size int64) error {
	zeros := make([]byte, probeLength)
	tail := max(size-probeLength, 0)
	for _, area := range append([]span{{0, min(probeLength, size)}, {tail, size - tail}}, sampleSpans(size)...) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := w.WriteAt(zeros[:area.length], area.offset); err != nil {
			return err
		}
	}
	return w.Sync()
}

// markerProbeTimeout bounds the probe of removeUnusedMarker, which ignores the end of the
// caller's context, because that can have ended during mkfs.
const markerProbeTimeout = 5 * time.Second

// removeUnusedMarker removes the marker after a mkfs that failed before it wrote anything.
// Otherwise the marker would later allow a user's data to be overwritten as leftovers. It
// leaves the marker when the device was in use: the marker might belong to the mkfs that
// uses the device.
func (s *System) removeUnusedMarker(ctx context.Context, req FormatRequest, cause error) error {
	if errors.Is(cause, unix.EBUSY) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), markerProbeTimeout)
	defer cancel()
	if sig, err := s.Probe(ctx, req.Device); err != nil || sig.State != StateBlank {
		return nil // mkfs might have written something
	}
	return RemoveMarker(req.Marker)
}

// finishFormat reads the finished filesystem back, and removes the marker.
func (s *System) finishFormat(ctx context.Context, req FormatRequest, size volume.Size) error {
	sig, err := s.Probe(ctx, req.Device)
	if err != nil {
		return err
	}
	if !sig.holdsComplete(req.Type) {
		return volume.Errorf(volume.KindInternal, "mkfs of %s succeeded, but device %s (%s) holds %s",
			req.Type, req.Device.Path(), size, sig).
			WithRemedy("check the mkfs options of the StorageClass: they must make a complete " + string(req.Type) +
				" filesystem")
	}
	return RemoveMarker(req.Marker)
}
