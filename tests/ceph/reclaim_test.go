package ceph_test

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/csi-addons/spec/lib/go/reclaimspace"
	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// This file tests that the space of deleted files goes back to Ceph.

// testReclaimSpace runs the tests of csi-addons' services.
func (r *rig) testReclaimSpace(t *testing.T) {
	t.Parallel()
	t.Run("ext4", r.testReclaim("ext4", nil))
	t.Run("xfs", r.testReclaim("xfs", map[string]string{"imageFeatures": allFeatures}))
	t.Run("refused", r.testReclaimRefused)
}

// usage returns what the image of the volume occupies in bytes, as Ceph's own tool counts it.
func (r *rig) usage(t *testing.T, v *csiclient.Volume) int64 {
	t.Helper()
	var answer struct {
		Images []struct {
			Used int64 `json:"used_size"`
		} `json:"images"`
	}
	must.Succeed(t, r.ToolJSON(testContext(t), &answer, "rbd", "du", "--exact", imageOf(v.ID)))
	return answer.Images[0].Used
}

// trim calls NodeReclaimSpace as csi-addons does.
func (n *node) trim(t *testing.T, v *csiclient.Volume) error {
	t.Helper()
	conn := must.Value(n.guest.DialNode())(t)
	defer func() { must.Succeed(t, conn.Close()) }()
	_, err := reclaimspace.NewReclaimSpaceNodeClient(conn).NodeReclaimSpace(testContext(t),
		&reclaimspace.NodeReclaimSpaceRequest{
			VolumeId: v.ID, StagingTargetPath: v.Staging, VolumeCapability: v.Capability,
		})
	return err
}

// sparsify calls ControllerReclaimSpace.
func (r *rig) sparsify(t *testing.T, v *csiclient.Volume) (*reclaimspace.ControllerReclaimSpaceResponse, error) {
	t.Helper()
	return reclaimspace.NewReclaimSpaceControllerClient(r.controller.Conn).ControllerReclaimSpace(testContext(t),
		&reclaimspace.ControllerReclaimSpaceRequest{VolumeId: v.ID})
}

// testReclaim returns a test that deletes a file of 64 MiB and has its space reclaimed while the
// volume is in use, and then a file of zeros while it is not.
func (r *rig) testReclaim(fstype string, parameters map[string]string) func(*testing.T) {
	return func(t *testing.T) { //nolint:thelper // a test, no helper
		t.Parallel()
		n, ctx := r.nextNode(), testContext(t)
		v := must.Value(n.CreateWithParameters(ctx, class(parameters), testName(t), gib,
			csiclient.MountCapability(fstype), nil))(t)
		must.Succeed(t, n.Use(ctx, v))
		n.runScript(t, "echo kept >"+v.Target+"/kept; dd if=/dev/urandom of="+v.Target+"/data bs=1M count=64 conv=fsync 2>&1")
		written := r.usage(t, v)
		// XFS frees the blocks later than rm and sync end (fs/xfs/xfs_icache.c, xfs_inodegc_worker), and
		// a trim discards only what is free.
		n.runScript(t, `cd `+v.Target+` && before=$(stat -f -c %f .) && rm data && sync &&
			until [ $((($(stat -f -c %f .) - before) * $(stat -f -c %S .) >> 20)) -ge 60 ]; do sleep 0.1; sync; done`)
		if deleted := r.usage(t, v); deleted < written-mib {
			t.Errorf("deleting the file alone has freed %s; the test proves nothing", sizeText(written-deleted))
		}
		must.Succeed(t, n.trim(t, v))
		trimmed := r.usage(t, v)
		t.Logf("%s in use after writing 64 MiB, %s after deleting and discarding them", sizeText(written), sizeText(trimmed))
		// An object of 4 MiB that also holds something else counts up to its last byte.
		if freed := written - trimmed; freed < 48*mib {
			t.Errorf("discarding has freed %s, want about 64 MiB, at least 48 MiB", sizeText(freed))
		}
		if resp := must.Value(r.sparsify(t, v))(t); resp.GetPreUsage() != nil || resp.GetPostUsage() != nil {
			t.Errorf("of a volume in use the controller reports %v, want no usage", resp)
		}
		n.runScript(t, "dd if=/dev/zero of="+v.Target+"/zeros bs=1M count=64 conv=fsync 2>&1")
		must.Succeed(t, n.Release(ctx, v))
		before := r.usage(t, v)
		resp := must.Value(r.sparsify(t, v))(t)
		after := r.usage(t, v)
		t.Logf("zeros deallocated: from %s to %s, the controller reports %v", sizeText(before), sizeText(after), resp)
		if before-after < 48*mib {
			t.Errorf("the zeros have freed %s, want about 64 MiB, at least 48 MiB", sizeText(before-after))
		}
		pre, post := resp.GetPreUsage().GetUsageBytes(), resp.GetPostUsage().GetUsageBytes()
		if pre != before || post != after {
			t.Errorf("the controller reports %s and %s, but rbd du %s and %s",
				sizeText(pre), sizeText(post), sizeText(before), sizeText(after))
		}
		must.Succeed(t, n.Use(ctx, v))
		n.runScript(t, "grep -q kept "+v.Target+"/kept && cmp -n 67108864 "+v.Target+"/zeros /dev/zero")
		must.Succeed(t, n.Release(ctx, v))
		n.wantCleanFilesystem(t, v)
		must.Succeed(t, n.Delete(ctx, v))
	}
}

// testReclaimRefused checks the refusals: their codes decide what csi-addons does.
func (r *rig) testReclaimRefused(t *testing.T) {
	t.Parallel()
	n, ctx := r.nextNode(), testContext(t)
	create := func(name string, parameters map[string]string, capability *csi.VolumeCapability) *csiclient.Volume {
		v := must.Value(n.CreateWithParameters(ctx, class(parameters), testName(t)+name, gib, capability, nil))(t)
		v.Secrets = map[string]string{"passphrase": passphrase}
		return v
	}
	encrypted := create("-encrypted", map[string]string{"encrypted": "true"}, csiclient.MountCapability("ext4"))
	must.Succeed(t, n.Use(ctx, encrypted))
	must.FailWith(t, n.trim(t, encrypted), codes.FailedPrecondition, "without discards", "--encrypted-discards")
	must.Succeed(t, n.Release(ctx, encrypted))
	_, err := r.sparsify(t, encrypted)
	must.FailWith(t, err, codes.Unimplemented, "encrypted")
	block := create("-block", nil, csiclient.BlockCapability())
	must.Succeed(t, n.Use(ctx, block))
	must.FailWith(t, n.trim(t, block), codes.Unimplemented, "raw block")
	must.Succeed(t, n.Release(ctx, block))
	separate := create("-separate", map[string]string{"dataPool": "ecdata"}, csiclient.MountCapability("ext4"))
	_, err = r.sparsify(t, separate)
	must.FailWith(t, err, codes.Unimplemented, "data pool ecdata")
	for _, v := range []*csiclient.Volume{encrypted, block, separate} {
		must.Succeed(t, n.Delete(ctx, v))
	}
}
