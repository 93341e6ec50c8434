package node

import (
	"context"

	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// findStagingMount learns whether the filesystem is mounted already, as asked for.
func (st *stageCall) findStagingMount(ctx context.Context) error {
	want, err := st.requestedType()
	if err != nil {
		return err
	}
	st.wasMounted, err = st.isMounted(ctx, want)
	return err
}

// isMounted reports whether the staging path already is what this request
// asks for. Another filesystem there is left alone and reported.
func (st *stageCall) isMounted(ctx context.Context, want filesystem.Type) (bool, error) {
	m, ok, err := st.findMount(ctx, st.lease, st.path)
	if err != nil || !ok {
		return false, err
	}
	same, err := st.isMountOf(m, st.vol.device)
	if err != nil {
		return false, err
	}
	if !same {
		return false, volume.Errorf(volume.KindPrecondition, "another filesystem (%s of %s) is mounted at the staging path %s", m.FSType, m.Source, st.path).
			WithRemedy("find out who mounted it there, and unmount it")
	}
	if alive, err := st.unmountIfFailed(ctx, m); err != nil || !alive {
		return false, err
	}
	// The mount table tells what driver serves the filesystem, which is ext4
	// for ext2; the superblock tells what it is.
	sig, err := st.opts.Filesystems.Probe(ctx, st.vol)
	switch {
	case err != nil:
		return false, err
	case !want.Accepts(sig.Type):
		return false, volume.Errorf(volume.KindAlreadyExists, "already staged at %s as %s, not %s", st.path, sig.Type, want)
	case m.IsReadOnly() != st.readOnly():
		return false, volume.Errorf(volume.KindAlreadyExists, "already staged at %s with read-only=%t, asked for read-only=%t", st.path, m.IsReadOnly(), st.readOnly())
	}
	return true, nil
}

// unmountIfFailed reports whether the filesystem staged on the device, mounted as m, can be
// used. One that has shut itself down, or recorded errors, is unmounted if
// nobody uses it, so that it is checked and mounted anew; under a pod it is
// left alone.
func (st *stageCall) unmountIfFailed(ctx context.Context, m filesystem.Mount) (bool, error) {
	dead := st.opts.Filesystems.CheckHealth(ctx, st.vol, st.path)
	if !volume.IsKind(dead, volume.KindPrecondition) {
		return dead == nil, dead // no answer is no evidence of a failure
	}
	// Under the lock no pod gets the volume between the look and the unmount.
	unlock, err := st.lock.lockPublish(ctx)
	if err != nil {
		return false, err
	}
	mounts, err := st.mountsOf(ctx, st.vol.device)
	if err == nil && (len(mounts) != 1 || mounts[0].ID != m.ID) {
		err = dead
	}
	if err != nil {
		unlock()
		return false, err
	}
	st.log.WarnContext(ctx, "a filesystem that has failed is unmounted to be checked and mounted anew", "volume", st.id, "staging", st.path, "error", dead)
	return false, runStep(ctx, st.lease, "unmounting the failed filesystem", func(ctx context.Context) error {
		defer unlock()
		return st.opts.Filesystems.Unmount(ctx, m)
	})
}
