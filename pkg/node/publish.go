package node

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/capability"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/node/internal/inspect"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// NodePublishVolume binds the staged filesystem, or the raw device, to the target path. It reports
// success only after reading back what the target path shows.
func (s *Server) NodePublishVolume(
	ctx context.Context, req *csi.NodePublishVolumeRequest,
) (*csi.NodePublishVolumeResponse, error) {
	p, err := s.newPublishCall(req)
	if err != nil {
		return nil, err
	}
	if err := p.run(ctx); err != nil {
		return nil, volume.Wrap(err, "publish", p.id)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// publishCall is one call of NodePublishVolume.
type publishCall struct {
	*Server
	id              string
	access          volume.Access
	staging, target string
	readOnly        bool
	isEncrypted     bool             // by the volume context
	limits          volume.IOLimits  // by the publish context
	lease           *operation.Lease // of the publish lock; for a raw device also of the volume's lock
}

func (s *Server) newPublishCall(req *csi.NodePublishVolumeRequest) (*publishCall, error) {
	id, target, staging := req.GetVolumeId(), req.GetTargetPath(), req.GetStagingTargetPath()
	if err := cmp.Or(checkID(id), checkPath("target_path", target)); err != nil {
		return nil, err
	}
	access, err := capability.ParseAccess(req.GetVolumeCapability())
	if err != nil {
		return nil, err
	}
	isEncrypted, err := isEncryptedByNode(req.GetVolumeContext())
	if err != nil {
		return nil, err
	}
	limits, err := volume.ParseIOLimits(req.GetPublishContext())
	if err != nil {
		return nil, err
	}
	if staging == "" {
		// Spec v1.13, NodePublishVolume errors: FAILED_PRECONDITION.
		err := volume.Errorf(volume.KindPrecondition, "staging_target_path is missing from the request").
			WithRemedy("call NodeStageVolume first")
		return nil, volume.Wrap(err, "publish", id)
	}
	return &publishCall{
		Server: s, id: id, access: access, isEncrypted: isEncrypted, limits: limits,
		staging: filepath.Clean(staging), target: filepath.Clean(target),
		readOnly: req.GetReadonly() || access.Mode.IsReadOnly() || filesystem.RequestsReadOnly(access.MountFlags),
	}, nil
}

func (p *publishCall) run(ctx context.Context) (err error) {
	// A format or a check of the volume holds the volume's lock: a raw device must not be published
	// at the same time.
	lock := p.lockPublish
	if p.access.Block {
		lock = p.lockVolumeAndPublish
	}
	if p.lease, err = lock(ctx, p.id); err != nil {
		return err
	}
	defer p.lease.Release()
	vol, err := p.openStaged(ctx)
	if err != nil {
		return err
	}
	dev := vol.Device
	if err := p.limitIO(ctx, dev); err != nil {
		return err
	}
	switch isPublished, err := p.isPublished(ctx, dev); {
	case err != nil:
		return err
	case isPublished:
		p.noteRepeatedPublish()
		return nil
	}
	return p.publish(ctx, dev)
}

// publish mounts the volume at the target path.
func (p *publishCall) publish(ctx context.Context, dev blockdev.Device) error {
	if err := p.inspector.CheckUse(ctx, p.id, dev, p.access.Block); err != nil {
		return err
	}
	// This check is for a new path only: below the path of a pod that has the volume there may be
	// more mounts of it (kubelet makes them for sub-paths and raw devices).
	if err := p.checkSinglePath(ctx, dev); err != nil {
		return err
	}
	bind := filesystem.BindRequest{Source: p.staging, Target: p.target}
	if p.access.Block {
		bind.Source = dev.Path
	}
	if p.readOnly {
		bind.Options = []string{"ro"}
	}
	if err := p.makeTarget(); err != nil {
		return err
	}
	if err := p.checkPropagation(p.target); err != nil {
		return err
	}
	err := runStep(ctx, p.lease, "mounting the target path", func(ctx context.Context) error {
		if err := p.opts.Filesystems.Bind(ctx, bind); err != nil {
			return err
		}
		return p.checkBindMount(ctx, dev)
	})
	if err != nil {
		return err
	}
	return p.noteFirstPublish(ctx, dev)
}

// checkBindMount reads back what the target path shows after the bind. A mount that is proved not
// to be the requested one is unmounted: the source can have changed between the check and the bind.
// A mount that cannot be read stays; the retry reads it in isPublished.
func (p *publishCall) checkBindMount(ctx context.Context, dev blockdev.Device) error {
	m, mounted, err := p.opts.Filesystems.FindMount(p.target)
	if err != nil {
		return err
	}
	if !mounted {
		return volume.Errorf(volume.KindInternal,
			"the bind mount was made, but nothing is mounted at the target path %s", p.target)
	}
	isVolume, err := p.inspector.IsMountOf(m, dev)
	switch {
	case err != nil:
		return volume.Errorf(volume.KindOf(err),
			"the bind mount at %s was made, but what it shows cannot be read, so it is left there: %w", p.target, err).
			WithRemedy(inspect.RemedyUnidentified)
	case !isVolume:
		if err := p.checkNotCovered(ctx, m, dev); err != nil {
			return err
		}
		return p.undoBind(ctx, m, volume.Errorf(volume.KindInternal,
			"the bind mount at %s shows %s of %s instead of %s", p.target, m.FSType, m.Source, dev.Path))
	case m.IsReadOnly() != p.readOnly:
		return p.undoBind(ctx, m, volume.Errorf(volume.KindPrecondition,
			"the bind mount at %s has read-only=%t, but the request has read-only=%t", p.target, m.IsReadOnly(), p.readOnly))
	}
	return nil
}

// undoBind unmounts a bind mount that is not the requested one. It returns the cause, completed
// with the result of the unmount.
func (p *publishCall) undoBind(ctx context.Context, m filesystem.Mount, cause *volume.Error) error {
	if err := p.opts.Filesystems.Unmount(ctx, m); err != nil {
		return volume.Errorf(cause.Kind, "%w; it could not be unmounted: %v", cause, err).
			WithRemedy("run on this node: umount " + p.target)
	}
	return volume.Errorf(cause.Kind, "%w; it was unmounted", cause).
		WithRemedy("Kubernetes retries this automatically; if the error persists, " +
			"check what is mounted at the staging path of this node: findmnt " + p.staging)
}

// checkNotCovered returns an error when m, which is at the target path and not of dev, covers the
// bind mount: another program has mounted it meanwhile.
func (p *publishCall) checkNotCovered(ctx context.Context, m filesystem.Mount, dev blockdev.Device) error {
	mounts, err := p.inspector.MountsOf(ctx, dev)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(mounts, func(o filesystem.Mount) bool { return o.MountPoint == m.MountPoint }) {
		return nil
	}
	return volume.Errorf(volume.KindInternal,
		"something else (%s of %s) was mounted over the bind mount at %s; it is left alone", m.FSType, m.Source, p.target).
		WithRemedy("find out which program mounted it there, then run on this node: umount " + p.target)
}

// openStaged opens the device that was staged.
func (p *publishCall) openStaged(ctx context.Context) (*inspect.Volume, error) {
	if p.access.Block {
		dev, err := p.stagedDevice(ctx)
		if err != nil {
			return nil, err
		}
		return p.inspector.Open(ctx, p.id, dev, p.lease)
	}
	var err error
	if p.staging, err = p.stagedPath(ctx, p.id, p.staging, p.lease); err != nil {
		return nil, err
	}
	m, mounted, err := p.inspector.FindMount(ctx, p.lease, p.staging)
	if err != nil {
		return nil, err
	}
	if !mounted {
		return nil, volume.Errorf(volume.KindPrecondition, "nothing is mounted at the staging path %s", p.staging).
			WithRemedy("delete the pod: the volume is staged again when the pod starts")
	}
	if m.IsFilesystemReadOnly() && !p.readOnly {
		return nil, volume.Errorf(volume.KindPrecondition,
			"the filesystem at the staging path %s is read-only, so it cannot be published for writing", p.staging).
			WithRemedy("check the kernel log of this node for an error of the filesystem: journalctl --dmesg; " +
				"the filesystem is checked and mounted again once no pod uses the volume")
	}
	vol, err := p.inspector.OpenMount(ctx, p.id, m, p.lease)
	if err != nil {
		return nil, err
	}
	// A pod must not start on a filesystem that has failed.
	return vol, p.opts.Filesystems.CheckHealth(ctx, vol, p.staging)
}

// stagedDevice returns the raw device that was staged: the disk, or the mapping of an encrypted
// volume. It never returns the disk of an encrypted volume, which holds ciphertext.
func (p *publishCall) stagedDevice(ctx context.Context) (blockdev.Device, error) {
	notStaged := volume.Errorf(volume.KindPrecondition, "the volume is not staged on this node").
		WithRemedy("delete the pod: the volume is staged again when the pod starts")
	conn, connected, err := p.opts.Connector.Locate(ctx, p.id)
	if err != nil {
		return blockdev.Device{}, err
	}
	if !connected {
		return blockdev.Device{}, notStaged
	}
	disk, err := p.opts.Devices.ByPath(conn.Path)
	if err != nil {
		return blockdev.Device{}, err
	}
	r, err := p.records.Read(p.id)
	if err != nil || !p.isEncrypted && !r.Encrypted {
		return disk, err
	}
	m, mapped, err := p.inspector.FindMapping(ctx, p.id, disk)
	if err == nil && !mapped {
		err = notStaged
	}
	return m.Device, err
}

// checkSinglePath returns an error when a volume with the access mode SINGLE_NODE_SINGLE_WRITER
// (ReadWriteOncePod) is published at another path. Spec v1.13, NodePublishVolume errors.
func (p *publishCall) checkSinglePath(ctx context.Context, dev blockdev.Device) error {
	if p.access.Mode != volume.AccessSingleNodeSingleWriter {
		return nil
	}
	isOwn := map[int]bool{} // by mount id: paths may contain symbolic links
	for _, path := range []string{p.staging, p.target} {
		m, mounted, err := p.inspector.FindMount(ctx, p.lease, path)
		if err != nil {
			return err
		}
		isOwn[m.ID] = mounted
	}
	mounts, err := p.inspector.MountsOf(ctx, dev)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if !isOwn[m.ID] {
			return volume.Errorf(volume.KindPrecondition,
				"already published at %s, but its access mode %s allows one path at a time", m.MountPoint, p.access.Mode).
				WithRemedy("delete the pod that uses the volume at that path")
		}
	}
	return nil
}

// isPublished reports whether the target path already shows the volume as requested. It returns an
// error of kind AlreadyExists when the path shows something else.
func (p *publishCall) isPublished(ctx context.Context, dev blockdev.Device) (bool, error) {
	m, mounted, err := p.inspector.FindMount(ctx, p.lease, p.target)
	if err != nil || !mounted {
		return false, err
	}
	isVolume, err := p.inspector.IsMountOf(m, dev)
	switch {
	case err != nil:
		return false, err
	case !isVolume:
		return false, volume.Errorf(volume.KindAlreadyExists,
			"something else (%s of %s) is mounted at the target path %s", m.FSType, m.Source, p.target)
	case m.IsReadOnly() != p.readOnly:
		return false, volume.Errorf(volume.KindAlreadyExists,
			"already published at %s with read-only=%t, but the request has read-only=%t", p.target, m.IsReadOnly(), p.readOnly)
	}
	return true, nil
}

// makeTarget makes the mount point: a directory, or an empty file for a raw device. It uses what an
// interrupted call has left; anything else at the path is an error.
func (p *publishCall) makeTarget() error {
	info, err := os.Lstat(p.target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return volume.Errorf(volume.KindInternal, "cannot read the target path: %w", err)
	case p.access.Block && info.Mode().IsRegular() && info.Size() == 0, !p.access.Block && info.IsDir():
		return nil
	default:
		return volume.Errorf(volume.KindPrecondition, "there is a %s at the target path %s", describeFile(info), p.target).
			WithRemedy("remove it; Kubernetes retries this automatically")
	}
	err = os.MkdirAll(filepath.Dir(p.target), 0o750)
	switch {
	case err != nil:
	case p.access.Block:
		var f *os.File
		if f, err = os.OpenFile(p.target, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o640); err == nil {
			err = f.Close()
		}
	default:
		err = os.Mkdir(p.target, 0o750)
	}
	if err != nil {
		return volume.Errorf(volume.KindInternal, "cannot make the target path: %w", err)
	}
	return nil
}

func describeFile(info fs.FileInfo) string {
	switch {
	case info.IsDir():
		return "directory"
	case info.Mode().IsRegular():
		return "file with content"
	default:
		return info.Mode().Type().String()
	}
}
