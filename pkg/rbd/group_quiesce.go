package rbd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/snapname"
	"github.com/growvol/growvol/pkg/volume"
)

// This file takes snapshots of several images together. There is a moment at which this client
// holds the exclusive locks of all images, and each image keeps its lock from then until its
// snapshot is taken. A write that began after another had ended is therefore in the snapshots
// only together with that other one: if it is in a snapshot, it had ended before the moment.

// quiesceTimeout bounds how long the writes to an image wait for the locks of the others. A node
// that is cut off keeps its lock for up to 30 s; filesystems and databases survive such a wait,
// but people notice it.
const quiesceTimeout = 10 * time.Second

// groupMember is one image of a group snapshot in the making.
type groupMember struct {
	target target
	image  ceph.Image // open read-only
	info   ceph.ImageInfo
	claim  snapname.Claim // of its snapshot
	holder ceph.Watcher   // of the exclusive lock before the snapshot; empty: nobody
}

// openMember opens the image of a volume. Kind Precondition: it cannot be part of a group snapshot.
func (s *session) openMember(id, groupName string) (*groupMember, error) {
	t, err := s.resolve(id)
	if err != nil {
		return nil, err
	}
	if t.handle.Snapshot != "" {
		return nil, volume.Errorf(volume.KindPrecondition, "the volume is a snapshot itself").
			WithRemedy("use labels that select no such volume")
	}
	if err := t.checkNotCephCSIEncrypted(); err != nil {
		return nil, err
	}
	im, err := t.open(true)
	if err != nil {
		return nil, err
	}
	info, err := im.Info()
	if err == nil && !slices.Contains(info.Features, "exclusive-lock") {
		err = volume.Errorf(volume.KindPrecondition, "image %s lacks the feature exclusive-lock, without which writes "+
			"cannot be stopped for a consistent group snapshot", t.spec()).
			WithRemedy("stop the pods that use the volume, then run: rbd feature enable " + t.spec() + " exclusive-lock")
	}
	if err != nil {
		return nil, volume.Join(err, im.Close())
	}
	claim := memberClaim(id, groupName)
	claim.ImageID = info.ID
	return &groupMember{target: t, image: im, info: info, claim: claim}, nil
}

// memberClaim returns the name of a member's snapshot. It has no id of an image.
func memberClaim(id, groupName string) snapname.Claim {
	return snapname.Claim{Name: "group " + groupName + " " + id, VolumeID: id}
}

// prepareMember removes the snapshot that an interrupted creation has left, and claims its name.
func (s *session) prepareMember(ctx context.Context, m *groupMember) error {
	if err := s.removeLeftover(ctx, m); err != nil {
		return err
	}
	snapshots, err := s.memberSnapshots(ctx, m)
	if err == nil {
		err = checkSnapshotCount(snapshots, m.target.spec())
	}
	if err == nil {
		err = s.claimName(ctx, m.target, m.claim)
	}
	if err == nil {
		err = m.readHolder()
	}
	return err
}

// memberSnapshots reads the snapshots of the image. It opens the image again: one that is open
// read-only shows the snapshots of the time when it was opened.
func (s *session) memberSnapshots(ctx context.Context, m *groupMember) ([]ceph.Snapshot, error) {
	im, err := m.target.open(true)
	if err != nil {
		return nil, err
	}
	defer s.closeImage(ctx, im)
	snapshots, err := im.Snapshots()
	if err != nil {
		return nil, fmt.Errorf("cannot read the snapshots of image %s: %w", m.target.spec(), err)
	}
	return snapshots, nil
}

// removeLeftover removes the snapshot of the member, if it exists, with the object of its name. The
// creation of the group snapshot has not ended, so nothing depends on it.
func (s *session) removeLeftover(ctx context.Context, m *groupMember) error {
	snapshots, err := s.memberSnapshots(ctx, m)
	if err != nil {
		return err
	}
	if _, ok := findSnapshot(snapshots, m.claim.Object()); ok {
		writable, err := m.target.open(false)
		if err != nil {
			return err
		}
		removed := s.removeSnapshotOf(writable, m.target, m.claim.Object())
		if err := volume.Join(removed, writable.Close()); err != nil && !isMissing(err) {
			return s.snapshotRemovalError(err, m.info.Name)
		}
	}
	return s.dropClaim(m.target.pool, m.info.ID, m.claim.Object())
}

// readHolder reads who holds the exclusive lock. Kind Unavailable: a client that does not watch the
// image any more, such as a node that is cut off. librbd would break its lock, and its last writes
// could still arrive.
func (m *groupMember) readHolder() error {
	holder, isHeld, err := m.image.LockHolder()
	if err != nil {
		return fmt.Errorf("cannot read the lock of image %s: %w", m.target.spec(), err)
	}
	if isHeld {
		m.holder = holder
	}
	return checkHolder(m.image, m.target.spec(), m.holder)
}

// silentTimeout is how long a client may take to answer before its image is refused.
const silentTimeout = 3 * time.Second

// checkClients returns an error of kind Unavailable if a client of an image does not answer: the
// writes to all images would wait for it.
func (s *session) checkClients(members []*groupMember) error {
	var tasks errgroup.Group
	for _, m := range members {
		tasks.Go(func() error {
			quiescer, ok := m.image.(ceph.Quiescer)
			if !ok {
				return volume.Errorf(volume.KindUnsupported, "this build of the driver cannot take consistent group snapshots")
			}
			silent, err := quiescer.SilentClients(silentTimeout)
			if err != nil {
				return fmt.Errorf("cannot ask the clients of image %s: %w", m.target.spec(), err)
			}
			if len(silent) > 0 {
				return m.silentError(silent)
			}
			return nil
		})
	}
	return tasks.Wait()
}

func (m *groupMember) silentError(silent []string) error {
	watchers, err := m.image.Watchers()
	if err != nil {
		return fmt.Errorf("cannot read the watchers of image %s: %w", m.target.spec(), err)
	}
	var names []string
	for _, w := range watchers {
		if slices.Contains(silent, w.Client) {
			names = append(names, w.Client+" at "+w.Address)
		}
	}
	return volume.Errorf(volume.KindUnavailable, "image %s has clients that do not answer within %s: %s; "+
		"nothing was snapshotted, because the writes to all volumes would wait for them",
		m.target.spec(), silentTimeout, strings.Join(names, ", ")).
		WithRemedy("check the network of that node; " + retryRemedy)
}

// quiesceAndSnapshot takes the snapshots. The time that it returns is the moment to which they
// belong.
func (s *session) quiesceAndSnapshot(ctx context.Context, members []*groupMember) (time.Time, error) {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, quiesceTimeout)
	defer cancel()
	gate := &gate{missing: len(members), all: make(chan struct{})}
	// The first member that fails ends ctx, and with it the wait of the others.
	tasks, ctx := errgroup.WithContext(ctx)
	for _, m := range members {
		tasks.Go(func() error {
			quiescer, ok := m.image.(ceph.Quiescer)
			if !ok {
				return volume.Errorf(volume.KindUnsupported, "image %s cannot be quiesced", m.target.spec())
			}
			err := quiescer.CreateQuiescedSnapshot(m.claim.Object(), func() error {
				if err := gate.arrive(ctx); err != nil {
					return err
				}
				return checkHolder(m.image, m.target.spec(), m.holder)
			})
			return s.memberError(m, err)
		})
	}
	err := tasks.Wait()
	if first, last := gate.times(); !first.IsZero() {
		s.log.InfoContext(ctx, "group snapshot: writes have waited", "images", len(members), "taken", err == nil,
			"locks_after", first.Sub(begin), "all_locks_after", last.Sub(begin), "longest_wait", time.Since(first))
	}
	return gate.moment(), err
}

// memberError is the error for a member whose snapshot was not taken.
func (s *session) memberError(m *groupMember, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return volume.Errorf(volume.KindUnavailable, "the exclusive locks of all images were not available within %s, so "+
			"nothing was snapshotted: %w", quiesceTimeout, err).
			WithRemedy("no action needed: Kubernetes retries this automatically; if it lasts, find the node that does not " +
				"answer among the watchers: rbd status " + m.target.spec())
	case errors.Is(err, unix.EINVAL):
		return volume.Errorf(volume.KindPrecondition, "the writes to image %s cannot be stopped: %w", m.target.spec(), err)
	}
	return s.snapshotError(err, m.target.spec())
}

// gate lets the members pass when all of them have arrived.
type gate struct {
	all chan struct{} // closed when missing is zero

	mu          sync.Mutex
	missing     int       // guarded by mu
	first, last time.Time // of the arrivals; guarded by mu
}

// arrive waits until all have arrived, or ctx ends.
func (g *gate) arrive(ctx context.Context) error {
	g.mu.Lock()
	g.last = time.Now()
	if g.first.IsZero() {
		g.first = g.last
	}
	if g.missing--; g.missing == 0 {
		close(g.all)
	}
	g.mu.Unlock()
	select {
	case <-g.all:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the locks of the other images: %w", ctx.Err())
	}
}

// times returns when the first and the last member arrived.
func (g *gate) times() (first, last time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.first, g.last
}

// moment returns the time at which all locks were held.
func (g *gate) moment() time.Time {
	_, last := g.times()
	return last
}
