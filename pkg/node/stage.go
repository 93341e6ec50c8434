package node

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/capability"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/node/internal/inspect"
	"github.com/growvol/growvol/pkg/node/stagerecord"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// NodeStageVolume connects the volume and, unless it is a raw block volume, mounts its filesystem
// at the staging path. It formats a volume that is provably blank, and grows a filesystem that is
// smaller than its device. Every step first reads the present state, so that a call after a crash
// at any point reaches the same end.
//
// It fails while the device is smaller than the volume, and after a growth that failed for a
// transient reason: Kubernetes sends no NodeExpandVolume for a restore or clone into a larger
// claim, so nothing would report the failure. After a growth that needs a person it succeeds, so
// that the pod has its data; NodeGetVolumeHealth reports the failure.
func (s *Server) NodeStageVolume(
	ctx context.Context, req *csi.NodeStageVolumeRequest,
) (*csi.NodeStageVolumeResponse, error) {
	st, err := s.newStageCall(req)
	if err != nil {
		return nil, err
	}
	rpcCtx := ctx
	ctx, cancel := operation.WithMargin(rpcCtx, s.opts.RollbackMargin, 4)
	defer cancel()
	if st.lease, err = s.lockVolume(ctx, st.id); err != nil {
		return nil, volume.Wrap(err, "stage", st.id)
	}
	defer st.lease.Release()
	err = st.run(ctx, volume.ConnectRequest{
		ID: st.id, PublishContext: req.GetPublishContext(), VolumeContext: req.GetVolumeContext(),
		ReadOnly: st.access.NeedsReadOnlyDevice(), Secrets: req.GetSecrets(),
	})
	if err != nil {
		st.rollBack(rpcCtx, err)
		return nil, volume.Wrap(err, "stage", st.id)
	}
	return &csi.NodeStageVolumeResponse{}, nil
}

// stageCall is one call of NodeStageVolume.
type stageCall struct {
	*Server
	id, path      string
	access        volume.Access
	volumeContext map[string]string // volume context
	lease         *operation.Lease  // of the volume's lock

	connectedHere  bool               // the volume was not connected before this call
	wasMounted     bool               // the volume was mounted before this call, as requested
	mountedHere    bool               // this call has mounted the volume
	previousRecord stagerecord.Record // of the volume before this call
	isRecorded     bool               // this call has written the record
	vol            *inspect.Volume    // nil until its device is open and verified

	// Of a volume that this node encrypts: vol is the disk first, and the mapping once that is open.
	isEncrypted       bool
	passphrase        string
	wasMapped         bool // the mapping was open before this call
	mappingOpenedHere bool // this call opens the mapping
	headerMadeHere    bool // the LUKS2 header was made on this node, and the volume not used since
}

func (s *Server) newStageCall(req *csi.NodeStageVolumeRequest) (*stageCall, error) {
	id, path := req.GetVolumeId(), req.GetStagingTargetPath()
	if err := cmp.Or(checkID(id), checkPath("staging_target_path", path)); err != nil {
		return nil, err
	}
	access, err := capability.ParseAccess(req.GetVolumeCapability())
	if err != nil {
		return nil, err
	}
	st := &stageCall{
		Server: s, id: id, path: filepath.Clean(path), access: access,
		volumeContext: req.GetVolumeContext(), passphrase: req.GetSecrets()[PassphraseKey],
	}
	st.isEncrypted, err = isEncryptedByNode(st.volumeContext)
	if err == nil && st.isEncrypted && st.passphrase == "" {
		err = volume.Errorf(volume.KindInvalid,
			"the volume is encrypted, but the node stage secret of the request has no key %q, or an empty one", PassphraseKey).
			WithRemedy("name a Secret with that key in the StorageClass (csi.storage.k8s.io/node-stage-secret-name and " +
				"csi.storage.k8s.io/node-stage-secret-namespace); " +
				"an existing PersistentVolume names it in spec.csi.nodeStageSecretRef")
	}
	return st, volume.Wrap(err, "stage", id)
}

func (st *stageCall) run(ctx context.Context, req volume.ConnectRequest) error {
	located, connected, err := st.opts.Connector.Locate(ctx, st.id)
	st.connectedHere = err == nil && !connected
	if err == nil && connected {
		if err := st.checkReadOnlyMode(ctx, located.Path, req.ReadOnly); err != nil {
			return err
		}
	}
	conn, err := st.opts.Connector.Connect(ctx, req) // also after an error of Locate: Connect finds the disk itself
	if err != nil {
		return err
	}
	dev, err := st.opts.Devices.ByPath(conn.Path)
	if err != nil {
		return err
	}
	if st.vol, err = st.inspector.Open(ctx, st.id, dev, st.lease); err != nil {
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
	if err := st.mountFilesystem(ctx, conn); err != nil || st.isReadOnly() {
		return err
	}
	if err := st.awaitFullSize(ctx, conn); err != nil {
		st.opts.Metrics.growthFailed(occasionStage, err)
		return err
	}
	return st.growStaged(ctx, st.path)
}

// prepareVolume opens the mapping of an encrypted volume, compares the request with the mount at
// the staging path, and writes the record. A request that contradicts the mount changes no record,
// but the record is written before a mapping is opened and before anything is mounted.
func (st *stageCall) prepareVolume(ctx context.Context, conn volume.Connection) error {
	disk := st.vol.Disk()
	if st.isEncrypted {
		if !st.wasMapped {
			if err := st.writeRecord(disk, conn); err != nil {
				return err
			}
		}
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

// writeRecord records that the volume is staged, or is about to be. It replaces a damaged record.
func (st *stageCall) writeRecord(disk blockdev.Device, conn volume.Connection) error {
	st.previousRecord, _ = st.records.Read(st.id)
	st.isRecorded = true
	return st.records.Write(stagerecord.Record{
		ID: st.id, Staging: st.path, Block: st.access.Block, ReadOnly: st.isReadOnly(), Encrypted: st.isEncrypted,
		Size: conn.Size, PublishedSize: conn.PublishedSize,
		Granularity: conn.Granularity, MaxOverhead: conn.MaxOverhead,
		Major: disk.Major, Minor: disk.Minor,
	})
}

// stageBlock stages a raw device. Its user owns the content from now on: a format of the volume
// that was interrupted must never be resumed.
func (st *stageCall) stageBlock(ctx context.Context, conn volume.Connection) error {
	if err := st.removeMarkers(st.id); err != nil {
		return err
	}
	if err := st.awaitFullSize(ctx, conn); err != nil || st.isReadOnly() {
		return err
	}
	return st.growStaged(ctx, "")
}

// mountFilesystem mounts the filesystem, after making or checking it, unless it was mounted before
// this call.
func (st *stageCall) mountFilesystem(ctx context.Context, conn volume.Connection) error {
	if st.wasMounted {
		return nil
	}
	requested, err := st.requestedType()
	if err != nil {
		return err
	}
	fstype, err := st.prepareFilesystem(ctx, requested, conn)
	if err != nil {
		return err
	}
	return st.mount(ctx, fstype)
}

// awaitFullSize waits until the disk is large enough for the size that the backend reports.
func (st *stageCall) awaitFullSize(ctx context.Context, conn volume.Connection) error {
	_, err := st.opts.Devices.AwaitSize(ctx, st.vol.Disk(), conn.MinDeviceSize(conn.Size))
	return explainShortDevice(conn, conn.Size, err)
}

// requestedType returns the filesystem type of the request, empty when it names none.
func (st *stageCall) requestedType() (filesystem.Type, error) {
	if st.access.FSType == "" {
		return "", nil
	}
	return filesystem.ParseType(st.access.FSType)
}

func (st *stageCall) isReadOnly() bool {
	return st.access.Mode.IsReadOnly() || filesystem.RequestsReadOnly(st.access.MountFlags)
}

// prepareFilesystem makes sure that the device holds a sound filesystem of the requested type
// (empty: any) and returns its type.
func (st *stageCall) prepareFilesystem(
	ctx context.Context, requested filesystem.Type, conn volume.Connection,
) (filesystem.Type, error) {
	sig, err := st.opts.Filesystems.Probe(ctx, st.vol)
	if err != nil {
		return "", err
	}
	if err := st.checkNotEncrypted(ctx, sig); err != nil {
		return "", err
	}
	if sig.State != filesystem.StateFormatted || !sig.IsComplete {
		return st.format(ctx, sig, requested, conn)
	}
	if !requested.Accepts(sig.Type) {
		return "", volume.Errorf(volume.KindPrecondition,
			"the volume holds %s, but the request is for %s; it is left untouched", sig, requested).
			WithRemedy("recreate the PersistentVolume with spec.csi.fsType: " + string(sig.Type) +
				"; a StorageClass sets it with csi.storage.k8s.io/fstype")
	}
	// A volume that was formatted here is never formatted again.
	if err := st.removeMarkers(st.id); err != nil {
		return "", err
	}
	if st.isReadOnly() {
		return sig.Type, nil
	}
	// A repair must neither be killed nor begin again with each retry.
	return sig.Type, runStep(ctx, st.lease, "checking the filesystem", func(ctx context.Context) error {
		return st.opts.Filesystems.Check(ctx, st.vol, sig.Type)
	})
}

// format makes the filesystem. Filesystems.Format decides by its own readings whether that is safe.
func (st *stageCall) format(
	ctx context.Context, sig filesystem.Signature, fstype filesystem.Type, conn volume.Connection,
) (filesystem.Type, error) {
	if st.isReadOnly() {
		return "", volume.Errorf(volume.KindPrecondition,
			"the volume holds no filesystem (%s), and none can be made because the request is read-only", sig).
			WithRemedy("start a pod that uses the claim for writing once: the filesystem is made then")
	}
	// A format cannot be undone: the device must have the size that the backend reports.
	if err := st.awaitFullSize(ctx, conn); err != nil {
		return "", err
	}
	if fstype == "" {
		fstype = st.opts.DefaultFSType
	}
	if err := os.MkdirAll(st.opts.StateDir, 0o700); err != nil {
		return "", volume.Errorf(volume.KindInternal, "cannot make the state directory of the node plugin: %w", err)
	}
	req := filesystem.FormatRequest{
		Device: st.vol, Type: fstype, Options: capability.SplitMkfsOptions(st.volumeContext[volume.MkfsOptionsKey]),
		Marker: st.formatMarker(st.id), IsEncrypted: conn.Encrypted,
	}
	if st.isEncrypted { // what is below the mapping does not show in its content
		req.IsEncrypted = st.headerMadeHere
	}
	what := "formatting the volume as " + string(fstype)
	return fstype, st.runVerified(ctx, what, func(ctx context.Context) error {
		if err := st.opts.Filesystems.Format(ctx, req); err != nil {
			return st.explainFormatRefusal(sig, err)
		}
		return st.removeMarkers(st.id)
	})
}

// runVerified is runStep for a step on st.vol. It verifies once more, directly before the step,
// that st.vol is the volume: the waits before may have been long.
func (st *stageCall) runVerified(ctx context.Context, what string, step func(context.Context) error) error {
	vol := st.vol
	return runStep(ctx, st.lease, what, func(ctx context.Context) error {
		if err := st.inspector.Verify(ctx, vol); err != nil {
			return err
		}
		return step(ctx)
	})
}

func (st *stageCall) mount(ctx context.Context, fstype filesystem.Type) error {
	if err := os.MkdirAll(st.path, 0o750); err != nil {
		return volume.Errorf(volume.KindInternal, "cannot make the staging path: %w", err)
	}
	flags := slices.Clone(st.access.MountFlags)
	if st.access.Mode.IsReadOnly() && !filesystem.RequestsReadOnly(flags) {
		flags = append(flags, "ro")
	}
	if err := st.checkPropagation(st.path); err != nil {
		return err
	}
	req := filesystem.MountRequest{Device: st.vol, Target: st.path, Type: fstype, Options: flags}
	err := st.runVerified(ctx, "mounting the filesystem", func(ctx context.Context) error {
		return st.opts.Filesystems.Mount(ctx, req)
	})
	st.mountedHere = err == nil
	return err
}

// checkPropagation returns an error when a mount at path would be visible in the plugin's own mount
// namespace only: the pod would write to the node's disk instead.
func (s *Server) checkPropagation(path string) error {
	if !s.opts.RequireShared {
		return nil
	}
	propagates, err := s.opts.Filesystems.Propagates(path)
	if err != nil || propagates {
		return err
	}
	return volume.Errorf(volume.KindPrecondition,
		"a mount at %s would not be visible outside of this plugin: the mount that holds the path is not shared", path).
		WithRemedy("mount kubelet's directory into the plugin's container with mountPropagation: Bidirectional")
}

// growStaged grows the mapping and the filesystem (none: empty mountPoint) to the disk, after a
// clone or a restore into a larger volume, an offline expansion or a missed call. A transient error
// fails the stage, and kubelet retries it. Any other error is logged: it must not keep the pod from
// its data.
func (st *stageCall) growStaged(ctx context.Context, mountPoint string) error {
	g := growth{vol: st.vol, occasion: occasionStage, mountPoint: mountPoint, passphrase: st.passphrase}
	err := st.growVolume(ctx, g, st.lease)
	if err == nil || isTransient(err) {
		return err
	}
	st.log.ErrorContext(ctx, "the volume is staged, but cannot be grown to the size of its disk",
		"volume", st.id, "device", st.vol.Path(), "error", err)
	return nil
}

// formatMarker returns the path of the file that shows a retry that a format of this volume has
// begun on this node.
func (s *Server) formatMarker(id string) string { return s.records.Path("formatting-", id) }

// encryptionMarker returns the path of the file that proves that the LUKS2 header of this volume
// was made on this node, and that the volume was not used since.
func (s *Server) encryptionMarker(id string) string { return s.records.Path("encrypting-", id) }

// removeMarkers removes the markers of the volume's format and encryption.
func (s *Server) removeMarkers(id string) error {
	if err := filesystem.RemoveMarker(s.formatMarker(id)); err != nil {
		return err
	}
	return luks.RemoveMarker(s.encryptionMarker(id))
}
