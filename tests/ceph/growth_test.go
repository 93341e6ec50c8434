package ceph_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/tests/ceph"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/inguest"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/vm"
)

// This file tests volumes that grow in use.

// passphrase is that of the encrypted volumes.
const passphrase = "correct horse battery staple"

// testGrowth returns a test that expands a volume twice under a writer. It reads every size back in
// Ceph and in the guest, verifies every byte after the volume has been unmapped, and has the
// filesystem checked.
func (r *rig) testGrowth(fstype string, parameters map[string]string) func(*testing.T) {
	return func(t *testing.T) { //nolint:thelper // a test, no helper
		t.Parallel()
		n := r.nextNode()
		ctx := testContext(t)
		v := must.Value(n.CreateWithParameters(ctx, class(parameters), testName(t), gib,
			csiclient.MountCapability(fstype), nil))(t)
		v.Secrets = map[string]string{"passphrase": passphrase}
		r.wantClass(t, v, parameters)
		must.Succeed(t, n.Use(ctx, v))
		w := n.startWriter(t, v)
		for _, size := range []int64{2 * gib, 3 * gib} {
			e := must.Value(n.Expand(ctx, v, size))(t)
			// An encrypted volume is larger than its device by the header.
			if e.ControllerSize != size || e.NodeSize > size || e.NodeSize < size-16*mib {
				t.Errorf("expanded to %s: the controller reports %s, the node %s",
					sizeText(size), sizeText(e.ControllerSize), sizeText(e.NodeSize))
			}
			t.Logf("to %s: controller %s, node %s", sizeText(size), e.ControllerDuration.Round(time.Millisecond),
				e.NodeDuration.Round(time.Millisecond))
			r.wantSize(t, v.ID, size)
			n.wantGrown(t, v, size)
			again := must.Value(n.Expand(ctx, v, size))(t)
			if again.NodeSize != e.NodeSize {
				t.Errorf("the repeated call reports %s, want %s", sizeText(again.NodeSize), sizeText(e.NodeSize))
			}
		}
		bytes, stall := w.stop(t)
		must.Succeed(t, n.Release(ctx, v))
		r.wantUnused(t, v)
		// A new mapping makes sure that the data come from the image, not from a cache.
		must.Succeed(t, n.Use(ctx, v))
		w.verify(t, v)
		must.Succeed(t, n.Release(ctx, v))
		n.wantCleanFilesystem(t, v)
		must.Succeed(t, n.Delete(ctx, v))
		r.wantNoImage(t, v.ID)
		t.Logf("1 → 3 GiB in two growths; %s written meanwhile, longest stall %s", sizeText(bytes), stall)
	}
}

// nextNode returns the nodes in turn.
func (r *rig) nextNode() *node { return r.nodes[int(r.used.Add(1))%len(r.nodes)] }

// wantClass fails the test unless Ceph has the image where the parameters want it, and as they want
// it.
func (r *rig) wantClass(t *testing.T, v *csiclient.Volume, parameters map[string]string) {
	t.Helper()
	info := must.Value(r.Image(t.Context(), imageOf(v.ID)))(t)
	features := parameters["imageFeatures"]
	if features == "" {
		features = "layering,exclusive-lock"
	}
	if parameters["dataPool"] != "" {
		features += ",data-pool"
	}
	if got := strings.Join(info.Features, ","); got != features {
		t.Errorf("image %s has the features %s, want %s", imageOf(v.ID), got, features)
	}
	if info.DataPool != parameters["dataPool"] {
		t.Errorf("image %s has the data pool %q, want %q", imageOf(v.ID), info.DataPool, parameters["dataPool"])
	}
	inNamespace := strings.HasPrefix(imageOf(v.ID), ceph.Pool+"/"+ceph.Namespace+"/")
	if want := parameters["clusterID"] == ceph.TenantCluster; inNamespace != want {
		t.Errorf("got the handle %s; want the image in the namespace %s: %t", v.ID, ceph.Namespace, want)
	}
}

// wantUnused fails the test if a client has the image of the volume open.
func (r *rig) wantUnused(t *testing.T, v *csiclient.Volume) {
	t.Helper()
	if watchers := must.Value(r.Watchers(t.Context(), imageOf(v.ID)))(t); len(watchers) > 0 {
		t.Errorf("after the volume was released, image %s is watched by %v", imageOf(v.ID), watchers)
	}
}

// wantNoImage fails the test if Ceph still has the image of the volume.
func (r *rig) wantNoImage(t *testing.T, id string) {
	t.Helper()
	if info, err := r.Image(t.Context(), imageOf(id)); err == nil {
		t.Errorf("after DeleteVolume, Ceph still has image %+v", info)
	}
}

// testBlock expands a raw block volume that a program in the guest holds open. The data at the old
// ends and at the new end must stay.
func (r *rig) testBlock(t *testing.T) {
	t.Parallel()
	n, ctx := r.nextNode(), testContext(t)
	v := must.Value(n.CreateWithParameters(ctx, class(nil), testName(t), gib, csiclient.BlockCapability(), nil))(t)
	must.Succeed(t, n.Use(ctx, v))
	holder := must.Value(n.guest.Start(ctx, vm.Command{Argv: []string{"sh", "-c", "exec sleep 6000 <" + v.Target}}))(t)
	inguest.WriteMark(t, n.guest.Agent, v.Target, gib)
	for _, size := range []int64{2 * gib, 4 * gib} {
		if e := must.Value(n.Expand(ctx, v, size))(t); e.ControllerSize != size || e.NodeSize != size {
			t.Errorf("expanded to %s: the controller reports %s, the node %s",
				sizeText(size), sizeText(e.ControllerSize), sizeText(e.NodeSize))
		}
		inguest.WriteMark(t, n.guest.Agent, v.Target, size)
		if total, _, err := n.Stats(ctx, v); err != nil || total != size {
			t.Errorf("NodeGetVolumeStats: got %s (%v), want %s", sizeText(total), err, sizeText(size))
		}
	}
	must.Succeed(t, holder.Kill(ctx))
	must.Succeed(t, n.Release(ctx, v))
	must.Succeed(t, n.Use(ctx, v))
	for _, end := range []int64{gib, 2 * gib, 4 * gib} {
		inguest.WantMark(t, n.guest.Agent, v.Target, end)
	}
	must.Succeed(t, n.Release(ctx, v))
	must.Succeed(t, n.Delete(ctx, v))
}

// testReadOnly expands a volume that a node has mapped read-only. Such a mapping has no watch: the
// kernel is not told the new size, and the node has to ask for it.
func (r *rig) testReadOnly(t *testing.T) {
	t.Parallel()
	n, ctx := r.nextNode(), testContext(t)
	v := must.Value(n.CreateWithParameters(ctx, class(nil), testName(t), gib, csiclient.BlockCapability(), nil))(t)
	v.Capability.AccessMode.Mode = csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	must.Succeed(t, n.Use(ctx, v))
	if watchers := must.Value(r.Watchers(ctx, imageOf(v.ID)))(t); len(watchers) > 0 {
		t.Errorf("the image is watched by %v, so this test proves nothing", watchers)
	}
	if e := must.Value(n.Expand(ctx, v, 2*gib))(t); e.NodeSize != 2*gib {
		t.Errorf("the node reports %s, want 2 GiB", sizeText(e.NodeSize))
	}
	must.Succeed(t, n.Release(ctx, v))
	must.Succeed(t, n.Delete(ctx, v))
}

// testRenamedImage expands a mapped image that was renamed. The kernel still shows the old name,
// which now belongs to another image: that one must stay as it is.
func (r *rig) testRenamedImage(t *testing.T) {
	t.Parallel()
	n, ctx := r.nextNode(), testContext(t)
	image := ceph.OtherPool + "/" + testName(t)
	v := r.useStatic(t, n, image)
	must.Value(r.Tool(ctx, "rbd", "rename", image, image+"-new"))(t)
	must.Value(r.Tool(ctx, "rbd", "create", "--size=1G", image))(t)
	must.Value(r.Tool(ctx, "rbd", "resize", "--size=2G", "--no-progress", image+"-new"))(t)
	if size := must.Value(n.ExpandNode(ctx, v, 2*gib))(t); size != 2*gib {
		t.Errorf("the node reports %s, want 2 GiB", sizeText(size))
	}
	n.wantGrown(t, v, 2*gib)
	must.Succeed(t, n.Unpublish(ctx, v))
	must.Succeed(t, n.Unstage(ctx, v))
	r.wantSize(t, v.ID, gib)
	for _, name := range []string{image, image + "-new"} {
		if watchers := must.Value(r.Watchers(ctx, name))(t); len(watchers) > 0 {
			t.Errorf("after the volume was unstaged, image %s is watched by %v", name, watchers)
		}
		must.Value(r.Tool(ctx, "rbd", "rm", "--no-progress", name))(t)
	}
}

// testExclusiveMapping expands an image that a client has mapped with the option exclusive, which
// forbids an expansion that needs the lock: the answer must say so.
func (r *rig) testExclusiveMapping(t *testing.T) {
	t.Parallel()
	n, ctx := r.nextNode(), testContext(t)
	parameters := class(map[string]string{"imageFeatures": allFeatures})
	v := must.Value(n.CreateWithParameters(ctx, parameters, testName(t), gib, csiclient.MountCapability("ext4"), nil))(t)
	unmap := r.mapByHand(t, n, imageOf(v.ID), ",exclusive")
	must.FailWith(t, n.ExpandController(ctx, v, 2*gib), codes.FailedPrecondition, "exclusive", "next step")
	r.wantSize(t, v.ID, gib)
	unmap()
	must.Succeed(t, n.ExpandController(ctx, v, 2*gib))
	must.Succeed(t, n.Delete(ctx, v))
}

// mapByHand maps an image of the pool volumes with options, each after a comma, as an administrator
// does on a node.
func (r *rig) mapByHand(t *testing.T, n *node, image, options string) (unmap func()) {
	t.Helper()
	key := must.Value(n.guest.ReadFile(t.Context(), configDir+"/keys/userKey"))(t)
	pool, image, _ := strings.Cut(image, "/")
	n.runScript(t, fmt.Sprintf("echo '10.77.0.1:6789 name=csi,secret=%s%s %s %s -' >/sys/bus/rbd/add_single_major",
		key, options, pool, image))
	return func() {
		n.runScript(t, `cd /sys/bus/rbd/devices; for d in *; do if [ "$(cat $d/name)" = `+image+` ]; then
			echo $d >/sys/bus/rbd/remove_single_major; fi; done`)
	}
}
