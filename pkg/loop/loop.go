// Package loop is growvol's embedded backend: volumes are sparse files in a
// directory of one node, and loop devices bring them to pods. It needs no
// cloud, and its volumes behave like a cloud's: growing one does not touch the
// device on the node, which has to notice by itself.
//
// The directory is shared by Backend (controller) and Connector (node), which
// run on the same machine:
//
//	volumes/<id>/data             the content; its length is the volume's size
//	volumes/<id>/meta.json        name, source
//	volumes/<id>/attachment.json  where and how it is attached, if it is
//	snapshots/<id>/...            data and meta.json
//	pending/<id>/...              being made, or being removed
//
// An object exists from the rename of its complete directory out of pending
// to the rename back into it. So whatever a crash leaves half-done is in
// pending, where the next call for that id, or the next New, removes it. An
// id is made of the object's name: a repeated creation finds the first
// without a search. Work on one object is serialized by flock(2) on its
// directory, across processes.
package loop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// TopologyKey is the topology segment whose value is the node that holds the
// volumes.
const TopologyKey = "topology.loop.growvol.io/node"

// PublishSize is the key of the publish context that holds the volume's size
// in bytes when it was attached.
const PublishSize = "loop.growvol.io/size"

// DefaultMaxVolumeSize is the largest volume unless told otherwise. Sparse
// files promise anything, and a volume that was grown to exabytes by a slip of
// the keyboard never shrinks; 16 TiB is what ext3, and ext4 without its feature
// 64bit, can hold in blocks of 4 KiB.
const DefaultMaxVolumeSize = 16 * volume.TiB

// sidecarPrefix marks parameters that the CSI sidecars add.
const sidecarPrefix = "csi.storage.k8s.io/"

const (
	granule     = volume.MiB
	defaultSize = volume.GiB
)

// Options configure a Backend.
type Options struct {
	Dir           string      // holds everything; made if missing, on one filesystem
	Node          string      // name of the node whose directory it is
	MaxVolumeSize volume.Size // largest volume; 0: DefaultMaxVolumeSize
	// PoolSize bounds the sum of the sizes of all volumes and snapshots. With 0
	// they may promise more than the filesystem holds: the files are sparse.
	PoolSize volume.Size
	// Detached gets to know the copies that outlive their calls; nil: nobody asks.
	Detached *operation.Tracker
	Log      *slog.Logger // nil: none
}

// Backend keeps volumes as files. It implements volume.Backend, Snapshotter,
// Cloner, Attacher, Lister, SnapshotLister, CapacityReporter, TopologyAware,
// HealthLister and HealthChecker.
type Backend struct {
	opts  Options
	store *store
	loops *loops
	pool  pool
	late  failures
	log   *slog.Logger

	makeLimit time.Duration // 0: the constant
}

// New opens the directory, makes it if it is missing, and removes what
// interrupted calls have left in it.
func New(ctx context.Context, o Options) (*Backend, error) {
	if o.Dir == "" || o.Node == "" {
		return nil, volume.Errorf(volume.KindInvalid, "the loop backend needs a directory and the name of its node")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxVolumeSize == 0 {
		o.MaxVolumeSize = DefaultMaxVolumeSize
	}
	b := &Backend{opts: o, store: &store{dir: o.Dir}, loops: newLoops(), log: o.Log}
	if err := b.store.init(); err != nil {
		return nil, volume.Errorf(volume.KindInternal, "prepare the directory for volumes: %w", err)
	}
	for _, left := range b.store.sweep() {
		b.log.WarnContext(ctx, "could not remove what an interrupted call left", "error", left)
	}
	return b, nil
}

// Limits implements volume.Backend.
func (b *Backend) Limits() volume.Limits {
	return volume.Limits{Granularity: granule, Min: granule, Max: b.opts.MaxVolumeSize.RoundDown(granule), Default: defaultSize}
}

// AccessModes implements volume.Backend: a file of one node serves that node.
func (*Backend) AccessModes() []volume.AccessMode {
	return []volume.AccessMode{
		volume.AccessSingleNodeWriter, volume.AccessSingleNodeReaderOnly, volume.AccessSingleNodeSingleWriter, volume.AccessSingleNodeMultiWriter,
	}
}

// HasTopology implements volume.TopologyAware: a volume can be reached from the
// node whose directory holds it.
func (*Backend) HasTopology() bool { return true }

// CheckHealth implements volume.HealthChecker: the directories are there and can
// be written to.
func (b *Backend) CheckHealth(context.Context) error {
	for _, name := range []string{string(volumes), string(snapshots), pendingDir} {
		dir := filepath.Join(b.opts.Dir, name)
		if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
			return volume.Errorf(volume.KindUnavailable, "the directory for volumes cannot be written to: %w", &os.PathError{Op: "access", Path: dir, Err: err}).
				WithRemedy("check that the node's directory is mounted into the controller, read-write")
		}
	}
	return nil
}

func (b *Backend) topology() volume.Topology { return volume.Topology{TopologyKey: b.opts.Node} }

// placeable checks that the volume may be on this node.
func (b *Backend) placeable(requisite []volume.Topology) error {
	for _, t := range requisite {
		if b.topology().IsWithin(t) {
			return nil
		}
	}
	if len(requisite) == 0 {
		return nil
	}
	return volume.Errorf(volume.KindExhausted, "the volumes of this backend are on node %s, which is in none of the requisite places %v", b.opts.Node, requisite).
		WithRemedy(fmt.Sprintf("schedule the pod to node %s, or allow %s=%s in the StorageClass", b.opts.Node, TopologyKey, b.opts.Node))
}

// volumeContext checks the StorageClass parameters and returns those that are
// for the node.
func volumeContext(parameters map[string]string) (map[string]string, error) {
	var out map[string]string
	for k, v := range parameters {
		switch {
		case k == volume.MkfsOptionsKey:
			out = map[string]string{k: v}
		case !strings.HasPrefix(k, sidecarPrefix):
			return nil, unknownParameter("StorageClass", k, volume.MkfsOptionsKey+", "+volume.EncryptedKey)
		}
	}
	return out, nil
}

func unknownParameter(class, key, known string) error {
	return volume.Errorf(volume.KindInvalid, "unknown parameter %q of the %s; the loop backend knows: %s", key, class, known).
		WithRemedy("remove the parameter from the " + class)
}

// spaceError gives a failed write its kind: what the filesystem cannot hold
// is out of range.
func spaceError(err error, size volume.Size) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return volume.Errorf(volume.KindOutOfRange, "the node's filesystem has no room for %s: %w", size, err).
			WithRemedy("free space in the directory for volumes, or ask for less")
	case errors.Is(err, unix.EFBIG):
		return volume.Errorf(volume.KindOutOfRange, "the node's filesystem cannot hold a file of %s: %w", size, err).
			WithRemedy("ask for less")
	}
	return err
}
