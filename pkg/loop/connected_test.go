package loop

import (
	"errors"
	"os"
	"testing"

	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/looptest"
)

// openConnected returns a backend with the attached volume "a", which has a loop device
// until disconnect.
func openConnected(t *testing.T) (b *Backend, device string, disconnect func()) {
	t.Helper()
	looptest.NeedDevices(t)
	b = openBackend(t)
	createVolume(t, b, "a", 64*volume.MiB)
	attachVolume(t, b, volA)
	device, disconnect = looptest.Bind(t, b.store.DataPath(volumedir.Volumes, volA))
	return b, device, disconnect
}

// A filesystem without reflinks (ext4) copies a volume that is attached, but not one that
// is connected: a pod may write to it during the copy.
func TestCopyOfConnectedVolumeNeedsReflinks(t *testing.T) {
	b, _, disconnect := openConnected(t)
	b.shareBlocks = noReflink
	volumetest.WantKind(t, snapshotA(t.Context(), b), volume.KindPrecondition, volA, "reflink")
	volumetest.WantKind(t, cloneAToB(t.Context(), b, volume.GiB), volume.KindPrecondition, volA)
	if snaps, _, err := b.ListSnapshots(t.Context(), volume.SnapshotFilter{}, volume.Page{}); err != nil ||
		len(snaps) != 0 {
		t.Errorf("after the refusals: got snapshots %v, %v, want none", snaps, err)
	}
	disconnect()
	if err := snapshotA(t.Context(), b); err != nil {
		t.Error(err)
	}
}

func TestConnectedVolumeIsNeitherDetachedNorDeleted(t *testing.T) {
	b, device, disconnect := openConnected(t)
	volumetest.WantKind(t, b.Detach(t.Context(), volA, ""), volume.KindPrecondition, device)
	volumetest.WantKind(t, b.Delete(t.Context(), volA), volume.KindPrecondition)

	// Where the controller cannot open the device, it compares the path that the kernel
	// shows.
	b.loops.Dev = t.TempDir()
	volumetest.WantKind(t, b.Detach(t.Context(), volA, ""), volume.KindPrecondition)
	b.loops.Dev = "/dev"

	// A volume that is connected without an attachment is not deleted either.
	if err := os.Remove(b.store.attachmentPath(volA)); err != nil {
		t.Fatal(err)
	}
	volumetest.WantKind(t, b.Delete(t.Context(), volA), volume.KindPrecondition, device)

	disconnect()
	if err := errors.Join(b.Detach(t.Context(), volA, ""), b.Delete(t.Context(), volA)); err != nil {
		t.Error(err)
	}
}
