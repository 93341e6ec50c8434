package node

import (
	"context"

	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// findStagingMount sets wasMounted if the staging path already is as requested. Another filesystem
// there is an error and is left alone.
func (st *stageCall) findStagingMount(ctx context.Context) error {
	requested, err := st.requestedType()
	if err != nil {
		return err
	}
	m, mounted, err := st.inspector.FindMount(ctx, st.lease, st.path)
	if err != nil || !mounted {
		return err
	}
	isVolume, err := st.inspector.IsMountOf(m, st.vol.Device)
	if err != nil {
		return err
	}
	if !isVolume {
		return volume.Errorf(volume.KindPrecondition,
			"another filesystem (%s of %s) is mounted at the staging path %s", m.FSType, m.Source, st.path).
			WithRemedy("find out which program mounted it there, then run on this node: umount " + st.path)
	}
	if isUnmounted, err := st.unmountIfFailed(ctx, m); err != nil || isUnmounted {
		return err
	}
	// The mount table shows the driver, which is ext4 for an ext2; the superblock shows the type.
	sig, err := st.opts.Filesystems.Probe(ctx, st.vol)
	switch {
	case err != nil:
		return err
	case !requested.Accepts(sig.Type):
		return volume.Errorf(volume.KindAlreadyExists,
			"already staged at %s as %s, but the request is for %s", st.path, sig.Type, requested)
	case m.IsReadOnly() != st.isReadOnly():
		return volume.Errorf(volume.KindAlreadyExists,
			"already staged at %s with read-only=%t, but the request has read-only=%t",
			st.path, m.IsReadOnly(), st.isReadOnly())
	}
	st.wasMounted = true
	return nil
}

// unmountIfFailed unmounts the filesystem of m if it has shut down or recorded errors, so that it
// is checked and mounted again. If the filesystem is mounted elsewhere too, it returns the failure
// instead. A filesystem that does not answer has not failed.
func (st *stageCall) unmountIfFailed(ctx context.Context, m filesystem.Mount) (isUnmounted bool, err error) {
	failure := st.opts.Filesystems.CheckHealth(ctx, st.vol, st.path)
	if !volume.IsKind(failure, volume.KindPrecondition) {
		return false, failure
	}
	// The lock keeps pods from getting the volume between the check and the unmount.
	publish, err := st.lockPublish(ctx, st.id)
	if err != nil {
		return false, err
	}
	mounts, err := st.inspector.MountsOf(ctx, st.vol.Device)
	if err == nil && (len(mounts) != 1 || mounts[0].ID != m.ID) {
		err = failure
	}
	if err != nil {
		publish.Release()
		return false, err
	}
	st.log.WarnContext(ctx, "unmounting a filesystem that has failed, so that it is checked and mounted again",
		"volume", st.id, "staging", st.path, "error", failure)
	return true, runStep(ctx, st.lease, "unmounting the failed filesystem", func(ctx context.Context) error {
		defer publish.Release()
		return st.opts.Filesystems.Unmount(ctx, m)
	})
}
