package filesystem

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	mount "k8s.io/mount-utils"
	utilexec "k8s.io/utils/exec"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/statefile"
	"github.com/growvol/growvol/pkg/volume"
)

// FormatRequest asks for a filesystem on a blank device.
type FormatRequest struct {
	Device Device
	Type   Type
	// Options are passed on to mkfs after the safe profile (see Format).
	Options []string
	// Marker is the path of a file in the node's state directory, one per
	// volume, which proves for a day that an interrupted mkfs was ours (see
	// RemoveMarker). Empty: such a device is refused.
	Marker string
	// IsEncrypted says that the device is decrypted on its way here (dm-crypt, or
	// LUKS in the hypervisor), so that sectors never written read as random
	// bytes and not as zeros. Random bytes then count as blank.
	IsEncrypted bool
}

// Format makes a filesystem, on a blank device only, and returns once the
// finished filesystem was read back from it. A complete filesystem of the
// wanted type is a success and left alone.
//
// The device must be blank according to Probe, or the marker must prove that
// an earlier Format on this volume was interrupted; even then nothing with a
// complete filesystem or the signature of something else is touched.
//
// The safe profile: ext with 4 KiB blocks always (an explicit other -b is
// refused, as is sparse_super2), nothing reserved for root (an explicit -m
// wins), lazy initialization as mke2fs chooses, no discard.
//
// mkfs is killed when ctx ends, and Format returns only when it is really
// gone: a second one on the same device would be worse than a late answer. A
// large ext3 takes minutes; give it a context that outlives one RPC.
//
// Kinds: Precondition (the device holds something else, or is in use),
// Invalid (options), Deadline (also: somebody took the device before mkfs
// did), Canceled, Internal (unreadable, mkfs failed).
func (s *System) Format(ctx context.Context, req FormatRequest) error {
	args, err := mkfsArgs(req.Type, req.Options)
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
	if sig.State == StateFormatted && sig.IsComplete && sig.Type == req.Type {
		return RemoveMarker(req.Marker)
	}
	if err := checkMayFormat(req, sig, size, s.now()); err != nil {
		return err
	}
	if err := writeMarker(req.Marker, marker{Type: req.Type, Device: size, Begun: s.now()}); err != nil {
		return markerError(err)
	}
	if sig.State != StateBlank {
		what := "the leftovers of an interrupted mkfs"
		if req.IsEncrypted && sig.IsRandom {
			what = "the random bytes of a new encrypted volume"
		}
		if err := s.wipe(ctx, req.Device, size.Bytes(), what); err != nil {
			return err
		}
	}
	if err := s.mkfs(ctx, req, args); err != nil {
		if dropErr := s.removeUnusedMarker(ctx, req, err); dropErr != nil {
			s.log.ErrorContext(ctx, "the record of a failed mkfs stays", "device", req.Device.Path(), "error", dropErr)
		}
		return err
	}
	return s.verifyFormat(ctx, req, size)
}

// removeUnusedMarker removes the marker after a mkfs that has failed before it wrote
// anything: later it would pass somebody's data off as leftovers. When the
// device was in use the marker may be that of the mkfs which uses it.
func (s *System) removeUnusedMarker(ctx context.Context, req FormatRequest, cause error) error {
	if errors.Is(cause, unix.EBUSY) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), markerProbeTimeout)
	defer cancel()
	if sig, err := s.Probe(ctx, req.Device); err != nil || sig.State != StateBlank {
		return nil // the marker stays
	}
	return RemoveMarker(req.Marker)
}

// markerProbeTimeout bounds the look at the device that decides on the marker;
// the caller's time may have run out with mkfs.
const markerProbeTimeout = 5 * time.Second

// checkMayFormat decides whether what was found may be overwritten.
func checkMayFormat(req FormatRequest, sig Signature, size volume.Size, now time.Time) error {
	refuse := func(why string) error {
		remedy := "if nothing on it is needed, clear it with wipefs -a and blkdiscard -z; otherwise ask for the filesystem it has"
		if sig.State == StateForeign && sig.Type != "" {
			remedy = repairCommand(sig.Type, req.Device.Path())
		}
		return volume.Errorf(volume.KindPrecondition, "device %s (%s) is not blank: it holds %s; %s: it was not formatted as %s",
			req.Device.Path(), size, sig, why, req.Type).WithRemedy(remedy)
	}
	switch {
	case sig.State == StateBlank, req.IsEncrypted && sig.IsRandom:
		return nil
	case sig.IsRecognized:
		return refuse("it belongs to something else")
	case sig.State == StateFormatted && sig.IsComplete:
		return refuse("another filesystem was asked for")
	}
	m, exists, err := readMarker(req.Marker)
	switch {
	case err != nil:
		return markerError(err)
	case !exists:
		return refuse("nothing on this node proves that an interrupted mkfs of this volume left it")
	case !statefile.IsFresh(m.Begun, now):
		return refuse("the record of an interrupted mkfs on this node is damaged or older than a day, so this may be data by now")
	case m.Type != req.Type:
		return refuse("the interrupted mkfs on this node made " + string(m.Type))
	case m.Device > size:
		return refuse("the interrupted mkfs on this node ran on a device of " + m.Device.String())
	}
	return nil
}

func markerError(err error) error {
	if err == nil {
		return nil
	}
	return volume.Errorf(volume.KindInternal, "keep the record of a running mkfs: %w", err).
		WithRemedy("check the state directory of the driver on this node")
}

// wipe zeroes what Probe looks at, so that what is there (leftovers of an
// interrupted mkfs, or the noise of a new encrypted volume) passes for nothing
// else. what names it for messages.
func (s *System) wipe(ctx context.Context, dev Device, size int64, what string) error {
	d, err := dev.OpenWriter()
	if err != nil {
		return err
	}
	err = wipeAreas(ctx, d, size)
	if err = errors.Join(err, d.Close()); err != nil {
		return volume.Errorf(volume.KindOf(err), "clear %s on %s: %w", what, dev.Path(), err)
	}
	s.log.InfoContext(ctx, "cleared a device before mkfs", "device", dev.Path(), "of", what)
	return nil
}

func wipeAreas(ctx context.Context, d blockdev.Writer, size int64) error {
	zero := make([]byte, probeLength)
	tail := max(size-probeLength, 0)
	for _, area := range append([]span{{0, min(probeLength, size)}, {tail, size - tail}}, sampleSpans(size)...) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := d.WriteAt(zero[:area.length], area.at); err != nil {
			return err
		}
	}
	return d.Sync()
}

// mkfs formats through mount-utils, whose own look at the device (blkid) is a
// second opinion, and whose mount step is left out.
func (s *System) mkfs(ctx context.Context, req FormatRequest, args []string) error {
	device := req.Device.Path()
	s.log.InfoContext(ctx, "formatting", "device", device, "type", req.Type, "options", strings.Join(args, " "))
	run := &formatExec{
		Interface: s.exec, ctx: ctx, checkPath: req.Device.CheckPath,
		keepReserve: slices.ContainsFunc(args, func(w string) bool { return strings.HasPrefix(w, "-m") }),
	}
	if req.Type == TypeExt2 { // mount-utils knows the force flags of ext3 and ext4 only
		args = append([]string{"-F", "-m0"}, args...)
	}
	formatter := mount.NewSafeFormatAndMount(mountNothing{}, run)
	err := formatter.FormatAndMountSensitiveWithFormatOptions(device, "", string(req.Type), nil, nil, args)
	switch {
	case ctx.Err() != nil:
		return &volume.Error{
			Kind: volume.KindOf(ctx.Err()), Msg: "mkfs of " + string(req.Type) + " on " + device + " was stopped before it finished", Cause: ctx.Err(),
			Remedy: "it starts over at the next try; a very large ext3 needs a longer deadline, or use ext4 or xfs",
		}
	case run.foundData:
		// What blkid sees may be a mkfs at work, of a plugin that has crashed.
		if err := checkUnused(req.Device); err != nil {
			return err
		}
		if err := RemoveMarker(req.Marker); err != nil { // mkfs never ran
			return err
		}
		return volume.Errorf(volume.KindPrecondition, "blkid recognizes data on %s that this driver does not know; it was not formatted", device).
			WithRemedy("look at it with blkid -p; if nothing on it is needed, clear it with wipefs -a and blkdiscard -z")
	case run.pathErr != nil:
		return run.pathErr
	case run.missingProgram != "":
		return volume.Errorf(volume.KindInternal, "%s was not formatted as %s: this node has no program %s", device, req.Type, run.missingProgram).
			WithRemedy("use the image of the node plugin, or install what is missing beside it (util-linux, e2fsprogs, xfsprogs, btrfs-progs)")
	case err != nil && run.isInUse:
		return volume.Errorf(volume.KindDeadline, "mkfs of %s did not touch %s, which is in use (%w): %v", req.Type, device, unix.EBUSY, err).
			WithRemedy(inUseRemedy)
	case err != nil:
		return volume.Errorf(volume.KindInternal, "format %s as %s: %w", device, req.Type, err).
			WithRemedy("check the size of the volume, the mkfs options of the StorageClass and the kernel log of this node")
	}
	return nil
}

// checkUnused makes sure that nothing else has the device in use.
func checkUnused(dev Device) error {
	w, err := dev.OpenWriter()
	if err != nil {
		return err
	}
	closeQuietly(w)
	return nil
}

func (s *System) verifyFormat(ctx context.Context, req FormatRequest, size volume.Size) error {
	sig, err := s.Probe(ctx, req.Device)
	if err != nil {
		return err
	}
	if sig.State != StateFormatted || !sig.IsComplete || sig.Type != req.Type {
		return volume.Errorf(volume.KindInternal, "after mkfs of %s the device %s (%s) holds %s", req.Type, req.Device.Path(), size, sig).
			WithRemedy("check the mkfs options of the StorageClass: they must leave the filesystem a complete " + string(req.Type))
	}
	return RemoveMarker(req.Marker)
}

// mountNothing turns FormatAndMount of mount-utils into format alone.
type mountNothing struct{ mount.Interface }

// MountSensitive does nothing.
func (mountNothing) MountSensitive(string, string, string, []string, []string) error { return nil }

// formatExec binds every command to a context, which mount-utils does not do,
// and lets it start blkid and mkfs only: should blkid recognize something that
// Probe does not, mount-utils would go on to repair it.
type formatExec struct {
	utilexec.Interface
	ctx            context.Context //nolint:containedctx // mount-utils passes none; this value lives for one call
	checkPath      func() error    // called directly before mkfs starts
	keepReserve    bool            // the user chose -m
	foundData      bool            // blkid recognized something
	isInUse        bool            // mkfs found the device in use
	pathErr        error           // the path leads to another device
	missingProgram string          // a program that this node does not have
}

// Command makes a command that is bound to the context.
func (fe *formatExec) Command(name string, args ...string) utilexec.Cmd {
	switch {
	case name == "blkid":
		return &formatCommand{Cmd: fe.CommandContext(fe.ctx, name, args...), exec: fe, name: name}
	case strings.HasPrefix(name, "mkfs."):
		if i := len(args) - 2; fe.keepReserve && i >= 0 && args[i] == "-m0" { // mount-utils puts it behind the user's
			args = slices.Delete(slices.Clone(args), i, i+1)
		}
		return &formatCommand{Cmd: fe.CommandContext(fe.ctx, name, args...), exec: fe, name: name, mkfs: true}
	default:
		fe.foundData = true
		return refusedCommand{}
	}
}

// formatCommand notices why a command failed, and keeps of the output of mkfs
// what belongs into a message.
type formatCommand struct {
	utilexec.Cmd
	exec *formatExec
	name string
	mkfs bool
}

// CombinedOutput runs the command.
func (fc *formatCommand) CombinedOutput() ([]byte, error) {
	if fc.mkfs {
		if fc.exec.pathErr = fc.exec.checkPath(); fc.exec.pathErr != nil {
			return nil, fc.exec.pathErr
		}
	}
	out, err := fc.Cmd.CombinedOutput()
	if errors.Is(err, utilexec.ErrExecutableNotFound) {
		fc.exec.missingProgram = fc.name
	}
	if !fc.mkfs {
		return out, err
	}
	fc.exec.isInUse = err != nil && isInUse(string(out))
	return []byte(shortenOutput(string(out))), err
}

// refusedCommand stands for a program that must not run on this device.
type refusedCommand struct{ utilexec.Cmd }

// CombinedOutput fails.
func (refusedCommand) CombinedOutput() ([]byte, error) {
	return nil, errors.New("not run on a device with data that this driver does not know")
}
