package loop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/loop/internal/losetup"
	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/loopcsi"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// Backend keeps volumes as files. It implements volume.Backend, Snapshotter, Cloner,
// Attacher, Lister, SnapshotLister, CapacityReporter, VolumeHealthReporter and
// VolumeHealthLister.
type Backend struct {
	opts     Options
	store    store
	loops    *losetup.System
	pool     pool
	failures sync.Map // error by id; see takeFailure
	log      *slog.Logger

	buildTimeout time.Duration // bounds the creation of one object
	// shareBlocks makes dst a copy of src that shares its blocks (FICLONE, ioctl_ficlone(2)).
	shareBlocks func(dst, src *os.File) error
}

// Options configure a Backend.
type Options struct {
	Dir           string      // directory of the volumes and snapshots, all on one filesystem
	Node          string      // name of the node that has the directory
	MaxVolumeSize volume.Size // 0 means DefaultMaxVolumeSize
	// PoolSize bounds the sum of the sizes of all volumes and snapshots. With 0 there is no
	// bound: the sum can exceed the filesystem, because the files are sparse.
	PoolSize volume.Size
	Detached *operation.Tracker // tracks copies that continue after their calls; nil means untracked
	Log      *slog.Logger       // nil means no log
}

const (
	granularity   = volume.MiB
	defaultSize   = volume.GiB
	sidecarPrefix = "csi.storage.k8s.io/" // of the parameters that the CSI sidecars add
)

// DefaultMaxVolumeSize is the default size of the largest volume. Sparse files accept any
// size, and a volume that was expanded to exabytes by a typing error never shrinks;
// 16 TiB is what ext3, and ext4 without its feature 64bit, can hold in blocks of 4 KiB.
const DefaultMaxVolumeSize = 16 * volume.TiB

// New opens the directory, creates it if it is missing, and removes what interrupted
// calls have left in it.
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
	b := newBackend(o)
	if err := b.store.createDirs(); err != nil {
		return nil, volume.Errorf(volume.KindInternal, "cannot prepare the directory of the volumes: %w", err)
	}
	for _, err := range b.store.discardAllPending() {
		b.log.WarnContext(ctx, "cannot remove what an interrupted call left behind", "error", err)
	}
	return b, nil
}

// newBackend is New without any access to the directory.
func newBackend(o Options) *Backend {
	return &Backend{
		opts: o, store: store{Dir: volumedir.Dir(o.Dir)}, loops: losetup.New(), log: o.Log,
		buildTimeout: defaultBuildTimeout, shareBlocks: ficlone,
	}
}

// Limits implements volume.Backend.
func (b *Backend) Limits() volume.Limits {
	return volume.Limits{
		Granularity: granularity, Min: granularity, Max: b.opts.MaxVolumeSize.RoundDown(granularity), Default: defaultSize,
	}
}

// AccessModes implements volume.Backend. It returns the modes of a single node, because only
// one node has the files.
func (*Backend) AccessModes() []volume.AccessMode {
	return []volume.AccessMode{
		volume.AccessSingleNodeWriter, volume.AccessSingleNodeReaderOnly,
		volume.AccessSingleNodeSingleWriter, volume.AccessSingleNodeMultiWriter,
	}
}

// HasTopology implements volume.Backend. It is true because only the node that has the
// directory can reach a volume.
func (*Backend) HasTopology() bool { return true }

// CheckHealth implements volume.Backend. It returns an error unless the directories exist
// and are writable.
func (b *Backend) CheckHealth(context.Context) error {
	for _, dir := range b.store.dirs() {
		if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
			return volume.Errorf(volume.KindUnavailable, "cannot write to the directory of the volumes: %w",
				&os.PathError{Op: "access", Path: dir, Err: err}).
				WithRemedy("check that the node's directory is mounted into the controller, read-write")
		}
	}
	return nil
}

func (b *Backend) topology() volume.Topology {
	return volume.Topology{loopcsi.TopologyKey: b.opts.Node}
}

// checkRequisite returns an error of kind Exhausted unless requisite allows the volume to be
// on this node. An empty requisite allows every node.
func (b *Backend) checkRequisite(requisite []volume.Topology) error {
	if len(requisite) == 0 || slices.ContainsFunc(requisite, b.topology().IsWithin) {
		return nil
	}
	return volume.Errorf(volume.KindExhausted,
		"the volumes of this backend are on node %s, but the request requires one of %v",
		b.opts.Node, requisite).
		WithRemedy(fmt.Sprintf("schedule the pod to node %s, or allow %s=%s in the StorageClass",
			b.opts.Node, loopcsi.TopologyKey, b.opts.Node))
}

// nodeParameters checks the StorageClass parameters and returns those for the node.
func nodeParameters(class map[string]string) (map[string]string, error) {
	var forNode map[string]string
	for key, value := range class {
		switch {
		case key == volume.MkfsOptionsKey:
			forNode = map[string]string{key: value}
		case !strings.HasPrefix(key, sidecarPrefix):
			return nil, unknownParameterError("StorageClass", key, volume.MkfsOptionsKey+", "+volume.EncryptedKey)
		}
	}
	return forNode, nil
}

func unknownParameterError(class, key, known string) error {
	return volume.Errorf(volume.KindInvalid,
		"unknown parameter %q of the %s: the loop backend knows %s", key, class, known).
		WithRemedy("remove the parameter from the " + class)
}

func checkName(name string) error {
	if name == "" || !utf8.ValidString(name) {
		return volume.Errorf(volume.KindInvalid, "the name %q is empty or not UTF-8", name)
	}
	return nil
}

// withSpaceKind gives the error of a failed write its kind: OutOfRange if the filesystem
// is full or cannot hold a file of size.
func withSpaceKind(err error, size volume.Size) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return volume.Errorf(volume.KindOutOfRange, "the node's filesystem has no space for %s: %w", size, err).
			WithRemedy("free space in the directory of the volumes, or request a smaller size")
	case errors.Is(err, unix.EFBIG):
		return volume.Errorf(volume.KindOutOfRange, "the node's filesystem cannot hold a file of %s: %w", size, err).
			WithRemedy("request a smaller size")
	}
	return err
}
