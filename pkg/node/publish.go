package node

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/capability"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// NodePublishVolume binds the staged filesystem, or the raw device, to the
// target path.
func (s *Server) NodePublishVolume(ctx context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	id := req.GetVolumeId()
	if err := errors.Join(checkID(id), checkPath("target_path", req.GetTargetPath())); err != nil {
		return nil, err
	}
	access, err := capability.Access(req.GetVolumeCapability())
	if err != nil {
		return nil, err
	}
	encrypted, err := isEncryptedByNode(req.GetVolumeContext())
	if err != nil {
		return nil, err
	}
	if req.GetStagingTargetPath() == "" {
		// Spec v1.13, NodePublishVolume errors: FAILED_PRECONDITION.
		return nil, &volume.Error{Kind: volume.KindPrecondition, Op: "publish", ID: id, Msg: "staging_target_path is missing from the request", Remedy: "stage the volume first"}
	}
	ctx, cancel := s.withAnswerMargin(ctx)
	defer cancel()
	// A raw device must not appear while a format or a check of the volume is
	// under way, which hold the volume's lock.
	lock := s.lockPublish
	if access.Block {
		lock = s.lockBoth
	}
	unlock, err := lock(ctx, id)
	if err != nil {
		return nil, volume.Wrap(err, "publish", id)
	}
	p := publishCall{
		Server: s, id: id, access: access, lease: s.lease(id, unlock),
		staging: filepath.Clean(req.GetStagingTargetPath()), target: filepath.Clean(req.GetTargetPath()), encrypted: encrypted,
		readOnly: req.GetReadonly() || access.Mode.IsReadOnly() || filesystem.RequestsReadOnly(access.MountFlags),
	}
	defer p.lease.Release()
	if err := p.run(ctx); err != nil {
		return nil, volume.Wrap(err, "publish", id)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// publishCall is one NodePublishVolume under way.
type publishCall struct {
	*Server
	id              string
	access          volume.Access
	staging, target string
	readOnly        bool
	encrypted       bool // by its volume context
	lease           *operation.Lease
}

func (p *publishCall) run(ctx context.Context) error {
	vol, err := p.openStaged(ctx)
	if err != nil {
		return err
	}
	dev := vol.device
	done, err := p.isPublished(ctx, dev)
	if err != nil || done {
		return err
	}
	if err := p.checkNoOtherUse(ctx, p.id, dev, p.access.Block); err != nil {
		return err
	}
	// Only for a new path: a pod that has the volume may have further mounts
	// of it below its own (kubelet makes them for sub-paths and raw devices).
	if err := p.checkSinglePath(ctx, dev); err != nil {
		return err
	}
	source := p.staging
	if p.access.Block {
		source = dev.Path
	}
	if err := p.createTarget(); err != nil {
		return err
	}
	bind := filesystem.BindRequest{Source: source, Target: p.target}
	if p.readOnly {
		bind.Options = []string{"ro"}
	}
	if err := p.checkPropagation(p.target); err != nil {
		return err
	}
	err = runStep(ctx, p.lease, "mounting the target path", func(ctx context.Context) error {
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

// noteFirstPublish remembers when the first pod got the volume since it was staged:
// kubelet may ask for a growth as a part of starting that pod; see mountWindow.
func (p *publishCall) noteFirstPublish(ctx context.Context, dev blockdev.Device) error {
	mounts, err := p.mountsOf(ctx, dev)
	if err != nil {
		return err
	}
	own := 2 // the staging mount and this one
	if p.access.Block {
		own = 1
	}
	if len(mounts) <= own {
		p.firstPublishTimes.set(p.id, time.Now())
	}
	return nil
}

// checkBindMount reads back what the target path shows after the bind, of which
// nothing was there before. A mount that is proved not to be the one asked for is
// taken away again: the source may have changed between the look and the bind.
// One that cannot be read stays; the retry finds it and reads it, see published.
func (p *publishCall) checkBindMount(ctx context.Context, dev blockdev.Device) error {
	m, mounted, err := p.opts.Filesystems.FindMount(p.target)
	if err != nil {
		return err
	}
	if !mounted {
		return volume.Errorf(volume.KindInternal, "the bind mount was made, but nothing is mounted at the target path %s", p.target)
	}
	same, err := p.isMountOf(m, dev)
	if err != nil {
		return volume.Errorf(volume.KindOf(err), "the bind mount at %s was made, but what it shows cannot be read, so it is left there: %w",
			p.target, err).
			WithRemedy("Kubernetes retries this automatically; if it lasts, find out why the device of the mount cannot be identified")
	}
	var wrong *volume.Error
	switch {
	case !same:
		wrong = volume.Errorf(volume.KindInternal, "the bind mount at %s shows something else (%s of %s) than %s", p.target, m.FSType, m.Source, dev.Path)
		err = p.checkNotCovered(ctx, m, dev)
	case m.IsReadOnly() != p.readOnly:
		wrong = volume.Errorf(volume.KindPrecondition, "the bind mount at %s is read-only=%t, asked for read-only=%t", p.target, m.IsReadOnly(), p.readOnly)
	default:
		return nil
	}
	if err != nil {
		return err
	}
	return p.undoBind(ctx, m, wrong)
}

// undoBind unmounts a bind mount that is not what was asked for.
func (p *publishCall) undoBind(ctx context.Context, m filesystem.Mount, wrong *volume.Error) error {
	if err := p.opts.Filesystems.Unmount(ctx, m); err != nil {
		return volume.Errorf(wrong.Kind, "%w; and it could not be taken away: %v", wrong, err).WithRemedy("unmount " + p.target)
	}
	return volume.Errorf(wrong.Kind, "%w; it was taken away", wrong).
		WithRemedy("Kubernetes retries this automatically; if it lasts, find out what is mounted at the staging path " + p.staging + ", and how")
}

// checkNotCovered refuses a mount at the target path, not of dev, that lies over the
// bind mount: somebody else has made it meanwhile.
func (p *publishCall) checkNotCovered(ctx context.Context, m filesystem.Mount, dev blockdev.Device) error {
	mounts, err := p.mountsOf(ctx, dev)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(mounts, func(o filesystem.Mount) bool { return o.MountPoint == m.MountPoint }) {
		return nil
	}
	return volume.Errorf(volume.KindInternal, "something else (%s of %s) was mounted over the bind mount at %s; it is left alone", m.FSType, m.Source, p.target).
		WithRemedy("find out who mounted it there, and unmount it")
}

// openStaged returns the device that was staged, open and confirmed to be the
// volume.
func (p *publishCall) openStaged(ctx context.Context) (*openVolume, error) {
	if p.access.Block {
		dev, err := p.stagedDevice(ctx)
		if err != nil {
			return nil, err
		}
		return p.openVerified(ctx, p.id, dev, p.lease)
	}
	m, ok, err := p.findMount(ctx, p.lease, p.staging)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, volume.Errorf(volume.KindPrecondition, "nothing is mounted at the staging path %s", p.staging).WithRemedy("stage the volume first")
	}
	if m.IsFilesystemReadOnly() && !p.readOnly {
		return nil, volume.Errorf(volume.KindPrecondition, "the filesystem at the staging path %s is read-only, so it cannot be published for writing", p.staging).
			WithRemedy("look at the kernel log of this node: an error makes a filesystem read-only; when no pod uses the volume any more it is checked and mounted anew")
	}
	dev, err := p.deviceOfMount(m)
	if err != nil {
		return nil, err
	}
	vol, err := p.openVerified(ctx, p.id, dev, p.lease)
	if err != nil {
		return nil, err
	}
	// A pod must not start on a filesystem that has failed.
	return vol, p.opts.Filesystems.CheckHealth(ctx, vol, p.staging)
}

// stagedDevice returns the raw device that was staged: the disk, or the
// mapping of an encrypted volume. The ciphertext is never published in its
// place.
func (p *publishCall) stagedDevice(ctx context.Context) (blockdev.Device, error) {
	notStaged := volume.Errorf(volume.KindPrecondition, "the volume is not staged on this node").WithRemedy("stage the volume first")
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
	r, err := p.readRecord(p.id)
	if err != nil || !p.encrypted && !r.Encrypted {
		return disk, err
	}
	m, mapped, err := p.findMapping(ctx, p.id, disk)
	if err == nil && !mapped {
		err = notStaged
	}
	return m.Device, err
}

// checkSinglePath keeps the promise of SINGLE_NODE_SINGLE_WRITER (ReadWriteOncePod):
// one target path at a time. Spec v1.13, NodePublishVolume errors.
func (p *publishCall) checkSinglePath(ctx context.Context, dev blockdev.Device) error {
	if p.access.Mode != volume.AccessSingleNodeSingleWriter {
		return nil
	}
	ours := map[int]bool{} // by mount id: paths may contain symbolic links
	for _, path := range []string{p.staging, p.target} {
		m, ok, err := p.findMount(ctx, p.lease, path)
		if err != nil {
			return err
		}
		ours[m.ID] = ok
	}
	mounts, err := p.mountsOf(ctx, dev)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if !ours[m.ID] {
			return volume.Errorf(volume.KindPrecondition, "already published at %s, and its access mode %s allows one path at a time", m.MountPoint, p.access.Mode).
				WithRemedy("delete the pod that uses the volume at that path")
		}
	}
	return nil
}

// isPublished reports whether the target already is what the request asks for.
func (p *publishCall) isPublished(ctx context.Context, dev blockdev.Device) (bool, error) {
	m, ok, err := p.findMount(ctx, p.lease, p.target)
	if err != nil || !ok {
		return false, err
	}
	same, err := p.isMountOf(m, dev)
	switch {
	case err != nil:
		return false, err
	case !same:
		return false, volume.Errorf(volume.KindAlreadyExists, "something else (%s of %s) is mounted at the target path %s", m.FSType, m.Source, p.target)
	case m.IsReadOnly() != p.readOnly:
		return false, volume.Errorf(volume.KindAlreadyExists, "already published at %s with read-only=%t, asked for read-only=%t", p.target, m.IsReadOnly(), p.readOnly)
	}
	return true, nil
}

// createTarget makes the mount point: a directory, or an empty file for a raw
// device. What a crash half-way left is used; anything else is an error.
func (p *publishCall) createTarget() error {
	info, err := os.Lstat(p.target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return volume.Errorf(volume.KindInternal, "the target path cannot be examined: %w", err)
	case p.access.Block && info.Mode().IsRegular() && info.Size() == 0, !p.access.Block && info.IsDir():
		return nil
	default:
		return volume.Errorf(volume.KindPrecondition, "the target path %s is taken by a %s", p.target, describeFile(info)).WithRemedy("remove it, then retry")
	}
	if err := os.MkdirAll(filepath.Dir(p.target), 0o750); err != nil {
		return volume.Errorf(volume.KindInternal, "the parent of the target path cannot be made: %w", err)
	}
	if !p.access.Block {
		err = os.Mkdir(p.target, 0o750)
	} else {
		var f *os.File
		if f, err = os.OpenFile(p.target, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o640); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return volume.Errorf(volume.KindInternal, "the target path cannot be made: %w", err)
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

// NodeUnpublishVolume unmounts the target path and removes it. It never
// removes content: what is not an empty mount point stays and is reported.
func (s *Server) NodeUnpublishVolume(ctx context.Context, req *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	id, target := req.GetVolumeId(), req.GetTargetPath()
	if err := errors.Join(checkID(id), checkPath("target_path", target)); err != nil {
		return nil, err
	}
	ctx, cancel := s.withAnswerMargin(ctx)
	defer cancel()
	unlock, err := s.lockPublish(ctx, id)
	if err != nil {
		return nil, volume.Wrap(err, "unpublish", id)
	}
	l := s.lease(id, unlock)
	defer l.Release()
	if err := s.unpublish(ctx, id, filepath.Clean(target), l); err != nil {
		return nil, volume.Wrap(err, "unpublish", id)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

func (s *Server) unpublish(ctx context.Context, id, target string, l *operation.Lease) error {
	if err := s.unmountAll(ctx, id, target, l); err != nil {
		return err
	}
	info, err := os.Lstat(target)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return volume.Errorf(volume.KindInternal, "the target path cannot be examined: %w", err)
	}
	if !info.IsDir() && (!info.Mode().IsRegular() || info.Size() > 0) {
		return volume.Errorf(volume.KindPrecondition, "the target path %s is a %s, not a mount point; it is left alone", target, describeFile(info))
	}
	// Remove, unlike RemoveAll, cannot take anyone's data with it.
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return volume.Errorf(volume.KindInternal, "the target path is unmounted but cannot be removed: %w", err)
	}
	return nil
}
