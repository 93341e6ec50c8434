package node

import (
	"context"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/capability"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// PassphraseKey is the key of the node expand secret that holds the LUKS
// passphrase. LUKS2 wants it again for a resize when the volume key is kept in
// the kernel's keyring.
const PassphraseKey = "passphrase"

// NodeExpandVolume makes the volume's device, the mappings on it and its
// filesystem as large as the request demands, while they are in use, and
// answers OK only after each was read back at its new size. What is large
// enough already is left alone, so a repeated call costs a few reads.
//
// Path problems are never NOT_FOUND here: kubelet takes that as "can never be
// expanded". A device that stays short is DEADLINE_EXCEEDED with both sizes.
func (s *Server) NodeExpandVolume(ctx context.Context, req *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	id := req.GetVolumeId()
	e, err := s.newExpansion(req)
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.withMargin(ctx)
	defer cancel()
	size, err := e.run(ctx)
	if err != nil {
		return nil, volume.Wrap(err, "expand", id)
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: size.Bytes()}, nil
}

// expansion is one NodeExpandVolume under way.
type expansion struct {
	*Server
	id            string
	path, staging string
	access        *volume.Access // nil when the request has no capability
	required      volume.Size    // of the volume; zero: whatever the device has
	secrets       map[string]string
	conn          volume.Connection
}

func (s *Server) newExpansion(req *csi.NodeExpandVolumeRequest) (*expansion, error) {
	if err := requireID(req.GetVolumeId()); err != nil {
		return nil, err
	}
	if req.GetVolumePath() == "" {
		return nil, invalid("volume_path is missing from the request")
	}
	r := volume.Range{Required: volume.Size(req.GetCapacityRange().GetRequiredBytes()), Limit: volume.Size(req.GetCapacityRange().GetLimitBytes())}
	if _, err := r.Resolve(volume.Limits{}); err != nil {
		return nil, err
	}
	e := &expansion{Server: s, id: req.GetVolumeId(), path: filepath.Clean(req.GetVolumePath()), required: r.Required, secrets: req.GetSecrets()}
	if staging := req.GetStagingTargetPath(); staging != "" {
		e.staging = filepath.Clean(staging)
	}
	if req.GetVolumeCapability() != nil {
		access, err := capability.Access(req.GetVolumeCapability())
		if err != nil {
			return nil, err
		}
		e.access = &access
	}
	return e, nil
}

func (e *expansion) run(ctx context.Context) (volume.Size, error) {
	// First of all: a volume that the backend does not know is the one case
	// of NOT_FOUND.
	conn, connected, err := e.opts.Connector.Locate(ctx, e.id)
	if err != nil {
		return 0, err
	}
	if !connected {
		return 0, volume.Errorf(volume.Internal, "the volume is not connected to this node, although it is to grow here").
			WithRemedy("delete the pod; the volume is connected again when the pod starts, and grows then")
	}
	if err := requirePath("volume_path", e.path); err != nil {
		return 0, err
	}
	start := time.Now()
	lock, err := e.lockVolume(ctx, e.id)
	e.opts.Observer.PhaseDone(PhaseLock, time.Since(start), err)
	if err != nil {
		return 0, err
	}
	l := volume.NewLease(lock.unlock)
	defer l.Release()

	block, err := e.isBlock(ctx)
	if err != nil {
		return 0, err
	}
	e.conn = conn
	if block {
		return e.growBlock(ctx)
	}
	return e.growMounted(ctx, l)
}

// isBlock tells whether the path is a published device node. A request
// without a capability (it is optional) is judged by the path; a capability
// that contradicts the path means that the path is not what it is taken for.
func (e *expansion) isBlock(ctx context.Context) (bool, error) {
	node, err := isDeviceNode(ctx, e.path)
	if err != nil {
		return false, err
	}
	if e.access != nil && e.access.Block != node {
		want, is := "a directory", "a block device"
		if e.access.Block {
			want, is = is, want
		}
		return false, volume.Errorf(volume.Internal, "%s should be %s but is %s", e.path, want, is).WithRemedy("delete the pod, so that the volume is published anew")
	}
	return node, nil
}

// growBlock is growth of a raw block volume: its device is all there is.
func (e *expansion) growBlock(ctx context.Context) (volume.Size, error) {
	dev, err := e.opts.Devices.ByPath(e.path)
	if err != nil {
		return 0, err
	}
	size, _, err := e.growDevice(ctx, dev)
	return size, err
}

// growMounted is growth of a mounted filesystem, and of what lies below it.
func (e *expansion) growMounted(ctx context.Context, l *volume.Lease) (volume.Size, error) {
	m, err := e.mountAt(e.path)
	if err != nil {
		return 0, err
	}
	dev, err := e.deviceOfMount(m)
	if err != nil {
		return 0, err
	}
	size, required, err := e.growDevice(ctx, dev)
	if err != nil {
		return 0, err
	}
	at, err := e.growthMount(m, dev)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	grown, err := e.grow(ctx, filesystem.GrowRequest{MountPoint: at, Device: dev.Path, Required: required}, l)
	e.opts.Observer.PhaseDone(PhaseFilesystem, time.Since(start), err)
	if err != nil {
		return 0, err
	}
	if grown.After > grown.Before {
		e.opts.Observer.Grown(grown.After-grown.Before, string(grown.Method))
	}
	e.log.InfoContext(ctx, "volume expanded on the node", "volume", e.id, "device", dev.Path, "device_size", size,
		"filesystem_before", grown.Before, "filesystem_after", grown.After, "method", grown.Method)
	return size, nil
}

// mountAt returns the mount at exactly this path. A plain directory there
// means that the mount is lost; the filesystem that contains the directory is
// the node's own and is never touched.
func (e *expansion) mountAt(path string) (filesystem.Mount, error) {
	m, ok, err := e.opts.Filesystems.FindMount(path)
	if err != nil {
		return filesystem.Mount{}, err
	}
	if !ok {
		return filesystem.Mount{}, volume.Errorf(volume.Internal, "%s is not a mount point: the volume's mount is lost, and nothing was touched", path).
			WithRemedy("delete the pod, so that the volume is mounted anew")
	}
	return m, nil
}

// growthMount chooses the mount on whose descriptor the filesystem grows: the
// staging mount, because the published one may be a read-only bind.
func (e *expansion) growthMount(published filesystem.Mount, dev blockdev.Device) (string, error) {
	if e.staging != "" && e.staging != e.path {
		m, err := e.mountAt(e.staging)
		if err != nil {
			return "", err
		}
		same, err := e.isOn(m, dev)
		if err != nil {
			return "", err
		}
		if !same {
			return "", volume.Errorf(volume.Internal, "%s (%s) is mounted at the staging path %s, but the volume is on %s", m.Source, m.FSType, e.staging, dev.Path).
				WithRemedy("delete the pod, so that the volume is staged anew")
		}
		return e.staging, nil
	}
	if !published.ReadOnly() {
		return e.path, nil
	}
	mounts, err := e.opts.Filesystems.MountsOf(dev.Path)
	if err != nil {
		return "", err
	}
	for _, m := range mounts {
		if !m.ReadOnly() {
			return m.Mountpoint, nil
		}
	}
	return e.path, nil
}

// growDevice waits until the disk and everything between it and dev has the
// size that the volume's demands. It returns the size of the disk as read, and
// what dev must hold for the filesystem: as much, or what its mapping leaves of
// it.
func (e *expansion) growDevice(ctx context.Context, dev blockdev.Device) (size, required volume.Size, err error) {
	layers, err := e.diskOf(ctx, e.id, dev)
	if err != nil {
		return 0, 0, err
	}
	disk := layers[len(layers)-1]
	start := time.Now()
	size, err = e.awaitDisk(ctx, disk)
	e.opts.Observer.PhaseDone(PhaseDevice, time.Since(start), err)
	if err != nil {
		return 0, 0, err
	}
	if len(layers) == 1 {
		// The filesystem is asked for what the user wants, not for all the
		// volume has: its format may have a limit between the two. What is
		// hidden of the volume no filesystem on it can have.
		return size, min(e.required, size), nil
	}
	start = time.Now()
	required, err = e.growMappings(ctx, layers)
	e.opts.Observer.PhaseDone(PhaseMapper, time.Since(start), err)
	return size, required, err
}

// awaitDisk waits until the disk is as large as one of the volume must be, and
// returns what it reads.
func (e *expansion) awaitDisk(ctx context.Context, disk blockdev.Device) (volume.Size, error) {
	want := e.conn.DeviceSize(max(e.required, e.conn.Size))
	size, err := e.opts.Devices.AwaitSize(ctx, disk, want)
	if err != nil {
		return 0, shortDevice(e.conn, max(e.required, e.conn.Size), err)
	}
	if size < want {
		return 0, volume.Errorf(volume.Internal, "the device %s was said to have grown, but reads %s instead of %s", disk.Path, size, want)
	}
	return size, nil
}

// growMappings resizes what stands between the disk and the filesystem, from
// the disk upwards, and returns the size of the topmost as read back.
func (e *expansion) growMappings(ctx context.Context, layers []blockdev.Device) (size volume.Size, err error) {
	for i := len(layers) - 2; i >= 0; i-- {
		layer := layers[i]
		if layer.Kind != blockdev.Crypt {
			return 0, volume.Errorf(volume.Precondition, "between the filesystem and the disk %s is %s (%s), which this driver does not resize", layers[len(layers)-1].Path, layer.Path, layer.Kind).
				WithRemedy("resize " + layer.Path + " by hand, then the filesystem grows with the next expansion")
		}
		if size, err = e.opts.Devices.ResizeCrypt(ctx, layer, []byte(e.secrets[PassphraseKey])); err != nil {
			return 0, err
		}
	}
	return size, nil
}

// grow has the filesystem grown, for longer than the call if need be.
func (s *Server) grow(ctx context.Context, req filesystem.GrowRequest, l *volume.Lease) (filesystem.Growth, error) {
	return volume.Outlive(ctx, l, "growing the filesystem at "+req.MountPoint, func() (filesystem.Growth, error) {
		return s.opts.Filesystems.Grow(ctx, req)
	})
}
