package openstack_test

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/openstack"
)

// create creates a volume with parameters of a StorageClass.
func (g *guest) create(t *testing.T, req *csi.CreateVolumeRequest) *csiclient.Volume {
	t.Helper()
	v := get(g.Controller.CreateVolume(t.Context(), req))(t).GetVolume()
	return &csiclient.Volume{
		ID: v.GetVolumeId(), Name: req.GetName(), Size: v.GetCapacityBytes(), VolumeContext: v.GetVolumeContext(), Capability: req.GetVolumeCapabilities()[0],
		Staging: g.Dir + "/" + req.GetName() + "/globalmount", Target: g.Dir + "/" + req.GetName() + "/pod",
	}
}

// testEncrypted: a volume that QEMU decrypts. The guest's device is smaller
// than the volume, by the header of LUKS; so "as large as the volume" cannot be
// what a growth is judged by.
func (r *rig) testEncrypted(t *testing.T) {
	r.tidy(t)
	// LUKS 1, as QEMU formats it, has a header of some 2 MiB.
	const header = 4 << 20
	g, ctx := r.guest(t, openstack.VirtioBlk), limited(t)
	req := request(name(t), gib)
	req.Parameters = map[string]string{"type": "rbd-luks"}
	v := g.create(t, req)
	if raw := get(r.User.Volume(ctx, v.ID))(t); !raw.Encrypted {
		t.Fatalf("volume %s is not encrypted: nothing is proved", v.ID)
	}
	must(t, g.Use(ctx, v))
	w := g.startWriter(t, v)
	for _, size := range []int64{2 * gib, 3 * gib} {
		if e := get(g.Expand(ctx, v, size))(t); e.ControllerSize != size {
			t.Errorf("the controller says %s, want %s", short(e.ControllerSize), short(size))
		}
		g.wantGrownBut(t, v, size, header)
	}
	w.stop(t)
	must(t, g.Release(ctx, v))
	must(t, g.Use(ctx, v))
	w.verify(t, v)
	must(t, g.Release(ctx, v))
	must(t, g.Delete(ctx, v))
}

// testLiveCopies: a snapshot and a clone of a volume in use, larger than it
// and used in another server, hold its data, and their filesystems have grown
// when the pod starts.
func (r *rig) testLiveCopies(t *testing.T) {
	r.tidy(t)
	ctx := limited(t)
	g, other := r.guest(t, openstack.VirtioBlk), r.guest(t, openstack.VirtioSCSI)
	v := get(g.Create(ctx, name(t), gib, csiclient.MountCapability("xfs"), nil))(t)
	must(t, g.Use(ctx, v))
	g.sh(t, "echo precious >"+v.Target+"/data && sync")
	req := &csi.CreateSnapshotRequest{SourceVolumeId: v.ID, Name: name(t)}
	snapshot := get(g.Controller.CreateSnapshot(ctx, req))(t).GetSnapshot().GetSnapshotId()
	r.awaitSnapshot(t, req)
	for kind, source := range map[string]*csi.VolumeContentSource{"restored": fromSnapshot(snapshot), "cloned": fromVolume(v.ID)} {
		made := get(other.Create(ctx, name(t)+"-"+kind, 3*gib, csiclient.MountCapability("xfs"), source))(t)
		must(t, other.Use(ctx, made))
		if got := other.sh(t, "cat "+made.Target+"/data"); got != "precious" {
			t.Errorf("%s: the file holds %q", kind, got)
		}
		other.wantGrown(t, made, 3*gib)
		must(t, other.Release(ctx, made))
		must(t, other.Delete(ctx, made))
	}
	must(t, g.Release(ctx, v))
	get(g.Controller.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snapshot}))(t)
	must(t, g.Delete(ctx, v))
}

// testMultiattach: a volume in two guests at once grows, and both see it. A
// block volume, as two kernels would destroy a filesystem between them.
func (r *rig) testMultiattach(t *testing.T) {
	r.tidy(t)
	ctx := limited(t)
	guests := []*guest{r.guest(t, openstack.VirtioBlk), r.guest(t, openstack.VirtioSCSI)}
	shared := csiclient.BlockCapability()
	shared.AccessMode.Mode = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	req := request(name(t), gib)
	req.VolumeCapabilities, req.Parameters = []*csi.VolumeCapability{shared}, map[string]string{"type": "rbd-multi"}
	volumes := make([]*csiclient.Volume, len(guests))
	for i, g := range guests {
		volumes[i] = g.create(t, req) // the second call finds the volume of the first
		must(t, g.Use(ctx, volumes[i]))
	}
	guests[0].stamp(t, volumes[0], gib)
	must(t, guests[0].ExpandController(ctx, volumes[0], 2*gib))
	for i, g := range guests {
		if size := get(g.ExpandNode(ctx, volumes[i], 2*gib))(t); size != 2*gib {
			t.Errorf("guest %d says %s", i, short(size))
		}
		g.wantStamp(t, volumes[i], gib)
	}
	// The first detachment must leave the other guest its disk.
	must(t, guests[0].Release(ctx, volumes[0]))
	guests[1].wantStamp(t, volumes[1], gib)
	must(t, guests[1].Release(ctx, volumes[1]))
	must(t, guests[0].Delete(ctx, volumes[0]))
}
