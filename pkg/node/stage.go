package node

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/capability"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// MkfsOptionsKey is the volume context's key for extra options of mkfs,
// separated by white space (StorageClass parameter of the same name).
const MkfsOptionsKey = "mkfsOptions"

// stagePatience is how long staging waits for the device of a volume that
// holds data to reach its size: the pod must not wait for what it can do
// without.
const stagePatience = 2 * time.Second

// retreatLimit bounds the disconnection of a volume that could not be staged;
// it is less than DefaultAnswerMargin.
const retreatLimit = 2 * time.Second

// stepLimit bounds a step that may outlive its call. mkfs of a large ext3
// takes many minutes (unlike ext4 it has its inode tables written out), and so
// does e2fsck of one.
const stepLimit = time.Hour

// NodeStageVolume connects the volume and, unless it is a raw block volume,
// mounts its filesystem at the staging path: formatting it if it is provably
// blank, growing it if the device is larger. Every step looks at what is there
// first, so that a call repeated after a crash at any point converges.
func (s *Server) NodeStageVolume(ctx context.Context, req *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	id := req.GetVolumeId()
	access, err := checkStage(req)
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.withMargin(ctx)
	defer cancel()
	lock, err := s.lockVolume(ctx, id)
	if err != nil {
		return nil, volume.Wrap(err, "stage", id)
	}
	st := stage{
		Server: s, id: id, path: filepath.Clean(req.GetStagingTargetPath()), access: access, context: req.GetVolumeContext(), lease: volume.NewLease(lock.unlock), lock: lock,
	}
	defer st.lease.Release()
	err = st.run(ctx, volume.ConnectRequest{
		ID: id, Publish: req.GetPublishContext(), Context: req.GetVolumeContext(), ReadOnly: connectReadOnly(access), Secrets: req.GetSecrets(),
	})
	if err != nil {
		st.retreat(ctx)
		return nil, volume.Wrap(err, "stage", id)
	}
	return &csi.NodeStageVolumeResponse{}, nil
}

func checkStage(req *csi.NodeStageVolumeRequest) (volume.Access, error) {
	if err := errors.Join(requireID(req.GetVolumeId()), requirePath("staging_target_path", req.GetStagingTargetPath())); err != nil {
		return volume.Access{}, err
	}
	return capability.Access(req.GetVolumeCapability())
}

// connectReadOnly tells whether the device itself should refuse writes. Not
// for a filesystem that this node alone reads: the kernel has to replay its
// journal, if it was cut off in use, before it can be read.
func connectReadOnly(a volume.Access) bool {
	return a.Mode.ReadOnly() && (a.Block || a.Mode.MultiNode())
}

// stage is one NodeStageVolume under way.
type stage struct {
	*Server
	id      string
	path    string
	access  volume.Access
	context map[string]string
	lease   *volume.Lease
	lock    volumeLock
	ours    bool // the volume was not connected before this call
}

func (st *stage) run(ctx context.Context, req volume.ConnectRequest) error {
	_, before, err := st.opts.Connector.Locate(ctx, st.id)
	st.ours = err == nil && !before
	conn, err := st.opts.Connector.Connect(ctx, req)
	if err != nil {
		return err
	}
	dev, err := st.verified(ctx, st.id, conn.Path)
	if err != nil {
		return err
	}
	if err := st.checkUse(ctx, dev, st.access.Block); err != nil {
		return err
	}
	if st.access.Block {
		return st.runBlock(ctx, dev, conn)
	}
	want, err := st.fstype()
	if err != nil {
		return err
	}
	mounted, err := st.alreadyMounted(ctx, dev, want)
	if err != nil {
		return err
	}
	if !mounted {
		fstype, err := st.prepare(ctx, dev, want, conn)
		if err != nil {
			return err
		}
		if err := st.mount(ctx, dev, fstype); err != nil {
			return err
		}
	}
	if !st.readOnly() {
		st.growStaged(ctx, dev, conn.DeviceSize(conn.Size))
	}
	return nil
}

// retreat disconnects a volume whose staging has failed, if it was this call
// that connected it: otherwise it may be staged as a raw device. After an error
// that it takes for final, kubelet never unstages, and a volume that stays
// connected could not be detached ever again. What is in use stays connected,
// and so does what work that outlives the call needs.
func (st *stage) retreat(ctx context.Context) {
	if !st.ours || !st.lease.Held() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), retreatLimit)
	defer cancel()
	err := func() error {
		unlock, err := st.lock.lockPublish(ctx)
		if err != nil {
			return err
		}
		defer unlock()
		conn, connected, err := st.opts.Connector.Locate(ctx, st.id)
		if err != nil || !connected {
			return err
		}
		if err := st.unused(ctx, st.id, conn.Path); err != nil {
			return err
		}
		return st.opts.Connector.Disconnect(ctx, st.id)
	}()
	if err != nil && !volume.IsKind(err, volume.NotFound) {
		st.log.WarnContext(ctx, "a volume that could not be staged stays connected", "volume", st.id, "error", err)
	}
}

// runBlock stages a raw device. From now on what it holds is its user's: a
// format that was cut short here must never be taken up again.
func (st *stage) runBlock(ctx context.Context, dev blockdev.Device, conn volume.Connection) error {
	if err := st.forgetFormat(st.id); err != nil {
		return err
	}
	return st.awaitWhole(ctx, dev, conn)
}

// awaitWhole waits until the device is as large as the backend says.
func (st *stage) awaitWhole(ctx context.Context, dev blockdev.Device, conn volume.Connection) error {
	_, err := st.opts.Devices.AwaitSize(ctx, dev, conn.DeviceSize(conn.Size))
	return shortDevice(conn, conn.Size, err)
}

// fstype is the filesystem the request wants.
func (st *stage) fstype() (filesystem.Type, error) {
	if st.access.FSType == "" {
		return "", nil
	}
	return filesystem.ParseType(st.access.FSType)
}

func (st *stage) readOnly() bool {
	return st.access.Mode.ReadOnly() || slices.Contains(st.access.MountFlags, "ro")
}

// alreadyMounted tells whether the staging path already is what this request
// asks for. Another filesystem there is left alone and reported.
func (st *stage) alreadyMounted(ctx context.Context, dev blockdev.Device, want filesystem.Type) (bool, error) {
	m, ok, err := st.opts.Filesystems.FindMount(st.path)
	if err != nil || !ok {
		return false, err
	}
	same, err := st.isOn(m, dev)
	if err != nil {
		return false, err
	}
	if !same {
		return false, volume.Errorf(volume.Precondition, "another filesystem (%s of %s) is mounted at the staging path %s", m.FSType, m.Source, st.path).
			WithRemedy("find out who mounted it there, and unmount it")
	}
	if alive, err := st.alive(ctx, dev, m); err != nil || !alive {
		return false, err
	}
	// The mount table tells what driver serves the filesystem, which is ext4
	// for ext2; the superblock tells what it is.
	sig, err := st.opts.Filesystems.Probe(ctx, dev.Path)
	switch {
	case err != nil:
		return false, err
	case want != "" && sig.Type != want:
		return false, volume.Errorf(volume.AlreadyExists, "already staged at %s as %s, not %s", st.path, sig.Type, want)
	case m.ReadOnly() != st.readOnly():
		return false, volume.Errorf(volume.AlreadyExists, "already staged at %s with read-only=%t, asked for read-only=%t", st.path, m.ReadOnly(), st.readOnly())
	}
	return true, nil
}

// alive tells whether the filesystem staged on the device, mounted as m, can be
// used. One that has shut itself down, or recorded errors, is unmounted if
// nobody uses it, so that it is checked and mounted anew; under a pod it is
// left alone.
func (st *stage) alive(ctx context.Context, dev blockdev.Device, m filesystem.Mount) (bool, error) {
	dead := st.opts.Filesystems.Alive(ctx, dev.Path, st.path)
	if dead == nil {
		return true, nil
	}
	// Under the lock no pod gets the volume between the look and the unmount.
	unlock, err := st.lock.lockPublish(ctx)
	if err != nil {
		return false, err
	}
	mounts, err := st.mountsOf(ctx, dev)
	if err == nil && (len(mounts) != 1 || mounts[0].ID != m.ID) {
		err = dead
	}
	if err != nil {
		unlock()
		return false, err
	}
	st.log.WarnContext(ctx, "a filesystem that has failed is unmounted to be checked and mounted anew", "volume", st.id, "staging", st.path, "error", dead)
	return false, unhurried(ctx, st.lease, "unmounting the failed filesystem", func(ctx context.Context) error {
		defer unlock()
		return st.opts.Filesystems.Unmount(ctx, m)
	})
}

// prepare makes sure that the device holds a sound filesystem of the wanted
// type (empty: any) and returns that type.
func (st *stage) prepare(ctx context.Context, dev blockdev.Device, want filesystem.Type, conn volume.Connection) (filesystem.Type, error) {
	sig, err := st.opts.Filesystems.Probe(ctx, dev.Path)
	if err != nil {
		return "", err
	}
	if sig.State != filesystem.Formatted || !sig.Complete {
		return st.format(ctx, dev, sig, want, conn)
	}
	if want != "" && sig.Type != want {
		return "", volume.Errorf(volume.Precondition, "the volume holds %s, but %s was asked for; it is left untouched", sig, want).
			WithRemedy("set the fsType of the volume to " + string(sig.Type))
	}
	// What was formatted here is not formatted again, whatever comes.
	if err := st.forgetFormat(st.id); err != nil {
		return "", err
	}
	if st.readOnly() {
		return sig.Type, nil
	}
	// A check that repairs must neither be killed nor start over with each
	// retry.
	return sig.Type, unhurried(ctx, st.lease, "checking the filesystem", func(ctx context.Context) error {
		return st.opts.Filesystems.Check(ctx, dev.Path, sig.Type)
	})
}

// format makes the filesystem. Whether that is safe, Format decides by what
// it reads itself.
func (st *stage) format(ctx context.Context, dev blockdev.Device, sig filesystem.Signature, want filesystem.Type, conn volume.Connection) (filesystem.Type, error) {
	if st.readOnly() {
		return "", volume.Errorf(volume.Precondition, "the volume holds no filesystem (%s) and is asked for read-only, so none can be made", sig)
	}
	// Formatting is for good: never on a device that is not yet what the
	// backend says it is.
	if err := st.awaitWhole(ctx, dev, conn); err != nil {
		return "", err
	}
	if want == "" {
		want = st.opts.DefaultFSType
	}
	if err := os.MkdirAll(st.opts.StateDir, 0o700); err != nil {
		return "", volume.Errorf(volume.Internal, "the state directory of the node plugin cannot be made: %w", err)
	}
	req := filesystem.FormatRequest{
		Device: dev.Path, Type: want, Options: strings.Fields(st.context[MkfsOptionsKey]), Marker: st.marker(st.id), Encrypted: conn.Encrypted,
	}
	return want, unhurried(ctx, st.lease, "formatting the volume as "+string(want), func(ctx context.Context) error {
		return st.opts.Filesystems.Format(ctx, req)
	})
}

func (st *stage) mount(ctx context.Context, dev blockdev.Device, fstype filesystem.Type) error {
	if err := os.MkdirAll(st.path, 0o750); err != nil {
		return volume.Errorf(volume.Internal, "the staging path cannot be made: %w", err)
	}
	flags := slices.Clone(st.access.MountFlags)
	if st.access.Mode.ReadOnly() && !slices.Contains(flags, "ro") {
		flags = append(flags, "ro")
	}
	if err := st.propagates(st.path); err != nil {
		return err
	}
	return unhurried(ctx, st.lease, "mounting the filesystem", func(ctx context.Context) error {
		return st.opts.Filesystems.Mount(ctx, filesystem.MountRequest{Source: dev.Path, Target: st.path, Type: fstype, Flags: flags})
	})
}

// growStaged grows a filesystem that is smaller than its device: a clone or a
// restore into a larger volume, an offline expansion, a call that was missed.
// A failure must not keep the pod from its data; NodeExpandVolume, which
// follows when growth was asked for, reports it.
func (st *stage) growStaged(ctx context.Context, dev blockdev.Device, want volume.Size) {
	patient, cancel := context.WithTimeout(ctx, stagePatience)
	defer cancel()
	size, err := st.opts.Devices.AwaitSize(patient, dev, want)
	if err != nil {
		st.log.WarnContext(ctx, "the volume is staged, but its device is smaller than the backend says", "volume", st.id, "device", dev.Path, "size", size, "expected", want, "error", err)
	}
	grown, err := st.grow(ctx, filesystem.GrowRequest{MountPoint: st.path, Device: dev.Path}, st.lease)
	if err != nil {
		st.log.WarnContext(ctx, "the volume is staged, but its filesystem could not be grown to its device", "volume", st.id, "device", dev.Path, "size", size, "error", err)
		return
	}
	if grown.After > grown.Before {
		st.log.InfoContext(ctx, "filesystem grown at stage", "volume", st.id, "device", dev.Path, "before", grown.Before, "after", grown.After)
	}
}

// marker is the file that tells a retry that a format of this volume was
// under way here.
func (s *Server) marker(id string) string {
	return filepath.Join(s.opts.StateDir, "formatting-"+url.PathEscape(id))
}

// verified returns the device at the path after the connector has confirmed
// that the disk under it is the volume.
func (s *Server) verified(ctx context.Context, id, path string) (blockdev.Device, error) {
	dev, err := s.opts.Devices.ByPath(path)
	if err != nil {
		return blockdev.Device{}, err
	}
	_, err = s.diskOf(ctx, id, dev)
	return dev, err
}

// forgetFormat removes the marker of a format.
func (s *Server) forgetFormat(id string) error { return filesystem.RemoveMarker(s.marker(id)) }
