package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/capability"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/volume"
)

// stepTimeout bounds a step that may outlive its call. mkfs of a large ext3
// takes many minutes (unlike ext4 it has its inode tables written out), and so
// does e2fsck of one.
const stepTimeout = time.Hour

// NodeStageVolume connects the volume and, unless it is a raw block volume,
// mounts its filesystem at the staging path: formatting it if it is provably
// blank, growing it if the device is larger. Every step reads what is there
// first, so that a call repeated after a crash at any point converges.
//
// It does not succeed while the device is smaller than the volume, or a growth
// fails for a reason that can pass: Kubernetes sends no NodeExpandVolume for a
// restore or clone into a larger claim, so nobody would notice. A growth that
// needs a person lets the pod have its data; NodeGetVolumeHealth reports it.
func (s *Server) NodeStageVolume(ctx context.Context, req *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	id := req.GetVolumeId()
	access, err := checkStage(req)
	if err != nil {
		return nil, err
	}
	encrypted, err := encryptionRequested(req)
	if err != nil {
		return nil, volume.Wrap(err, "stage", id)
	}
	call := ctx
	ctx, cancel := s.withAnswerMargin(call)
	defer cancel()
	lock, err := s.lockVolume(ctx, id)
	if err != nil {
		return nil, volume.Wrap(err, "stage", id)
	}
	st := stageCall{
		Server: s, id: id, path: filepath.Clean(req.GetStagingTargetPath()), access: access,
		context: req.GetVolumeContext(), lease: s.lease(id, lock.unlock), lock: lock,
		encrypted: encrypted, passphrase: req.GetSecrets()[PassphraseKey],
	}
	defer st.lease.Release()
	err = st.run(ctx, volume.ConnectRequest{
		ID: id, PublishContext: req.GetPublishContext(), VolumeContext: req.GetVolumeContext(), ReadOnly: connectReadOnly(access), Secrets: req.GetSecrets(),
	})
	if err != nil {
		st.rollBack(call, err)
		return nil, volume.Wrap(err, "stage", id)
	}
	return &csi.NodeStageVolumeResponse{}, nil
}

func checkStage(req *csi.NodeStageVolumeRequest) (volume.Access, error) {
	if err := errors.Join(checkID(req.GetVolumeId()), checkPath("staging_target_path", req.GetStagingTargetPath())); err != nil {
		return volume.Access{}, err
	}
	return capability.Access(req.GetVolumeCapability())
}

// connectReadOnly reports whether the device itself should refuse writes. Not
// for a filesystem that this node alone reads: the kernel has to replay its
// journal, if it was cut off in use, before it can be read.
func connectReadOnly(a volume.Access) bool {
	return a.Mode.IsReadOnly() && (a.Block || a.Mode.IsMultiNode())
}

// stageCall is one NodeStageVolume under way.
type stageCall struct {
	*Server
	id             string
	path           string
	access         volume.Access
	context        map[string]string
	lease          *operation.Lease
	lock           volumeLock
	connectedHere  bool        // the volume was not connected before this call
	wasMounted     bool        // it was mounted before this call, as asked for
	mountedHere    bool        // this call has mounted it
	previousRecord record      // what was recorded of the volume before this call
	isRecorded     bool        // this call has recorded it
	vol            *openVolume // nil until its device is open and verified

	// Of an encrypted volume: vol is the disk, and then the mapping.
	encrypted         bool
	passphrase        string
	wasMapped         bool // the mapping was open before this call
	mappingOpenedHere bool // this call opens the mapping
	headerMadeHere    bool // the LUKS2 header was made here, and the volume was not used since
}

func (st *stageCall) run(ctx context.Context, req volume.ConnectRequest) error {
	located, before, err := st.opts.Connector.Locate(ctx, st.id)
	st.connectedHere = err == nil && !before
	if err == nil && before {
		if err := st.checkReadOnlyMode(ctx, located.Path, req.ReadOnly); err != nil {
			return err
		}
	}
	conn, err := st.opts.Connector.Connect(ctx, req)
	if err != nil {
		return err
	}
	dev, err := st.opts.Devices.ByPath(conn.Path)
	if err != nil {
		return err
	}
	if st.vol, err = st.openVerified(ctx, st.id, dev, st.lease); err != nil {
		return err
	}
	if err := st.useForeignMapping(ctx); err != nil {
		return err
	}
	if err := st.checkDiskUse(ctx); err != nil {
		return err
	}
	if err := st.prepareVolume(ctx, conn); err != nil {
		return err
	}
	if st.access.Block {
		return st.stageBlock(ctx, conn)
	}
	if err := st.mountFilesystem(ctx, conn); err != nil || st.readOnly() {
		return err
	}
	return st.growStaged(ctx, conn)
}

// prepareVolume opens the mapping of an encrypted volume, compares the request with
// what is mounted, and records the volume. A request that contradicts what is
// staged changes no record; but the record is there before a mapping is opened
// and before anything is mounted.
func (st *stageCall) prepareVolume(ctx context.Context, conn volume.Connection) error {
	disk := st.vol.disk()
	if st.encrypted && !st.wasMapped {
		if err := st.writeRecord(disk, conn); err != nil {
			return err
		}
	}
	if st.encrypted {
		if err := st.openMapping(ctx, conn); err != nil {
			return err
		}
	}
	if !st.access.Block {
		if err := st.findStagingMount(ctx); err != nil {
			return err
		}
	}
	if st.isRecorded {
		return nil
	}
	return st.writeRecord(disk, conn)
}

// mountFilesystem mounts the filesystem unless it is mounted already.
func (st *stageCall) mountFilesystem(ctx context.Context, conn volume.Connection) error {
	if st.wasMounted {
		return nil
	}
	want, err := st.requestedType()
	if err != nil {
		return err
	}
	fstype, err := st.prepareFilesystem(ctx, want, conn)
	if err != nil {
		return err
	}
	return st.mount(ctx, fstype)
}

// stageBlock stages a raw device. From now on what it holds is its user's: a
// format that was cut short here must never be taken up again.
func (st *stageCall) stageBlock(ctx context.Context, conn volume.Connection) error {
	if err := st.removeMarkers(st.id); err != nil {
		return err
	}
	if err := st.awaitFullSize(ctx, conn); err != nil || st.readOnly() {
		return err
	}
	return st.growNow(ctx, "")
}

// awaitFullSize waits until the disk is as large as the backend says.
func (st *stageCall) awaitFullSize(ctx context.Context, conn volume.Connection) error {
	_, err := st.opts.Devices.AwaitSize(ctx, st.vol.disk(), conn.DeviceSize(conn.Size))
	return explainShortDevice(conn, conn.Size, err)
}

// requestedType is the filesystem the request wants.
func (st *stageCall) requestedType() (filesystem.Type, error) {
	if st.access.FSType == "" {
		return "", nil
	}
	return filesystem.ParseType(st.access.FSType)
}

func (st *stageCall) readOnly() bool {
	return st.access.Mode.IsReadOnly() || filesystem.RequestsReadOnly(st.access.MountFlags)
}

// prepareFilesystem makes sure that the device holds a sound filesystem of the wanted
// type (empty: any) and returns that type.
func (st *stageCall) prepareFilesystem(ctx context.Context, want filesystem.Type, conn volume.Connection) (filesystem.Type, error) {
	sig, err := st.opts.Filesystems.Probe(ctx, st.vol)
	if err != nil {
		return "", err
	}
	if err := st.checkNotEncrypted(ctx, sig); err != nil {
		return "", err
	}
	if sig.State != filesystem.StateFormatted || !sig.IsComplete {
		return st.format(ctx, sig, want, conn)
	}
	if !want.Accepts(sig.Type) {
		return "", volume.Errorf(volume.KindPrecondition, "the volume holds %s, but %s was asked for; it is left untouched", sig, want).
			WithRemedy("set the fsType of the volume to " + string(sig.Type))
	}
	// What was formatted here is not formatted again, whatever comes.
	if err := st.removeMarkers(st.id); err != nil {
		return "", err
	}
	if st.readOnly() {
		return sig.Type, nil
	}
	// A check that repairs must neither be killed nor start over with each
	// retry.
	return sig.Type, runStep(ctx, st.lease, "checking the filesystem", func(ctx context.Context) error {
		return st.opts.Filesystems.Check(ctx, st.vol, sig.Type)
	})
}

// format makes the filesystem. Whether that is safe, Format decides by what
// it reads itself.
func (st *stageCall) format(ctx context.Context, sig filesystem.Signature, want filesystem.Type, conn volume.Connection) (filesystem.Type, error) {
	if st.readOnly() {
		return "", volume.Errorf(volume.KindPrecondition, "the volume holds no filesystem (%s) and is asked for read-only, so none can be made", sig)
	}
	// Formatting is for good: never on a device that is not yet what the
	// backend says it is.
	if err := st.awaitFullSize(ctx, conn); err != nil {
		return "", err
	}
	if want == "" {
		want = st.opts.DefaultFSType
	}
	if err := os.MkdirAll(st.opts.StateDir, 0o700); err != nil {
		return "", volume.Errorf(volume.KindInternal, "the state directory of the node plugin cannot be made: %w", err)
	}
	req := filesystem.FormatRequest{
		Device: st.vol, Type: want, Options: capability.MkfsOptions(st.context[volume.MkfsOptionsKey]), Marker: st.formatMarker(st.id), IsEncrypted: conn.Encrypted,
	}
	if st.encrypted { // whatever lies below the mapping
		req.IsEncrypted = st.headerMadeHere
	}
	return want, runStep(ctx, st.lease, "formatting the volume as "+string(want), func(ctx context.Context) error {
		// The wait for the device may have been long.
		if err := st.verifyDisk(ctx, st.vol); err != nil {
			return err
		}
		if err := st.opts.Filesystems.Format(ctx, req); err != nil {
			return st.explainFormatRefusal(sig, err)
		}
		return st.removeMarkers(st.id)
	})
}

func (st *stageCall) mount(ctx context.Context, fstype filesystem.Type) error {
	if err := os.MkdirAll(st.path, 0o750); err != nil {
		return volume.Errorf(volume.KindInternal, "the staging path cannot be made: %w", err)
	}
	flags := slices.Clone(st.access.MountFlags)
	if st.access.Mode.IsReadOnly() && !filesystem.RequestsReadOnly(flags) {
		flags = append(flags, "ro")
	}
	if err := st.checkPropagation(st.path); err != nil {
		return err
	}
	err := runStep(ctx, st.lease, "mounting the filesystem", func(ctx context.Context) error {
		if err := st.verifyDisk(ctx, st.vol); err != nil {
			return err
		}
		return st.opts.Filesystems.Mount(ctx, filesystem.MountRequest{Device: st.vol, Target: st.path, Type: fstype, Options: flags})
	})
	st.mountedHere = err == nil
	return err
}

// growStaged grows a filesystem that is smaller than its device: a clone or a
// restore into a larger volume, an offline expansion, a call that was missed.
// What can pass fails the stage, and kubelet tries again. What cannot must not
// keep the pod from its data.
func (st *stageCall) growStaged(ctx context.Context, conn volume.Connection) error {
	if err := st.awaitFullSize(ctx, conn); err != nil {
		st.opts.Observer.GrowthFailed(OccasionStage, err)
		return err
	}
	return st.growNow(ctx, st.path)
}

// growNow grows the mapping and the filesystem, if the volume has them, to the
// disk. See growStaged for what becomes of an error.
func (st *stageCall) growNow(ctx context.Context, mountPoint string) error {
	g := growth{vol: st.vol, occasion: OccasionStage, mountPoint: mountPoint, passphrase: st.passphrase}
	err := st.growVolume(ctx, g, st.lease)
	if err == nil || isTransient(err) {
		return err
	}
	st.log.ErrorContext(ctx, "the volume is staged, but is smaller than its disk allows and could not be grown",
		"volume", st.id, "device", st.vol.Path(), "error", err)
	return nil
}

// formatMarker is the file that tells a retry that a format of this volume was
// under way here.
func (s *Server) formatMarker(id string) string {
	return filepath.Join(s.opts.StateDir, "formatting-"+fileName(id))
}

// removeMarkers removes the markers of a format, and of the encryption below.
func (s *Server) removeMarkers(id string) error {
	if err := filesystem.RemoveMarker(s.formatMarker(id)); err != nil {
		return err
	}
	return luks.RemoveMarker(s.encryptionMarker(id))
}
