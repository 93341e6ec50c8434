package e2e

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// copySources returns the sources for a clone of the volume and for a restore of a new
// snapshot of it, and a function that deletes the snapshot.
func copySources(
	t *testing.T, d *csiclient.Deployment, v *csiclient.Volume,
) (sources map[string]*csi.VolumeContentSource, deleteSnapshot func()) {
	t.Helper()
	created := must.Value(d.Controller.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{
		SourceVolumeId: v.ID, Name: "snap-" + volumeName(t),
	}))(t)
	id := created.GetSnapshot().GetSnapshotId()
	sources = map[string]*csi.VolumeContentSource{
		"clone": cloneSource(v),
		"restore": {Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id},
		}},
	}
	return sources, func() {
		must.Value(d.Controller.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: id}))(t)
	}
}

func cloneSource(v *csiclient.Volume) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
		Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: v.ID},
	}}
}

// A clone and a restored snapshot that are larger than their source begin with a
// filesystem of the source's size: stage grows it.
func TestStageGrowsLargerCopies(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			d, ctx := deploy(t), t.Context()
			v := createAndUse(t, d, volumeName(t), gib, csiclient.MountCapability(fstype))
			w := csiclient.StartWriter(ctx, v.Target, 8<<20, 0)
			must.Succeed(t, w.WaitUntilFull())
			must.Succeed(t, d.Release(ctx, v))
			sources, deleteSnapshot := copySources(t, d, v)
			for kind, source := range sources {
				capability := csiclient.MountCapability(fstype)
				c := must.Value(d.Create(ctx, volumeName(t)+"-"+kind, 3*gib, capability, source))(t)
				must.Succeed(t, d.Use(ctx, c))
				wantSize(t, c, 3*gib)
				if _, err := w.Verify(c.Target); err != nil {
					t.Errorf("%s: %v", kind, err)
				}
				releaseAndDelete(t, d, c)
			}
			deleteSnapshot()
			must.Succeed(t, d.Delete(ctx, v))
		})
	}
}

// Clones and restored snapshots of an encrypted volume have its header and
// passphrase. Larger ones grow at stage while their source is in use.
// TestStageGrowsLargerCopies has the other filesystems.
func TestStageGrowsLargerEncryptedCopies(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := createEncrypted(t, d, volumeName(t), gib, csiclient.MountCapability("xfs"), nil)
	must.Succeed(t, d.Use(ctx, v))
	w := csiclient.StartWriter(ctx, v.Target, 8<<20, 0)
	must.Succeed(t, w.WaitUntilFull())
	must.Succeed(t, d.Release(ctx, v))
	sources, deleteSnapshot := copySources(t, d, v)
	var copies []*csiclient.Volume
	for kind, source := range sources {
		capability := csiclient.MountCapability("xfs")
		copies = append(copies, createEncrypted(t, d, volumeName(t)+"-"+kind, 3*gib, capability, source))
	}
	must.Succeed(t, d.Use(ctx, v))
	for _, c := range copies {
		must.Succeed(t, d.Use(ctx, c))
		wantSize(t, c, 3*gib-luksHeader)
		if _, err := w.Verify(c.Target); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
		releaseAndDelete(t, d, c)
	}
	deleteSnapshot()
	releaseAndDelete(t, d, v)
}
