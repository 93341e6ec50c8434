package ceph_test

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/tests/ceph"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// This file tests a volume that ceph-csi has made, and that its node plugin has mapped and mounted,
// when the plugins of this driver replace those of ceph-csi on a node that was not drained.

// testStagedByCephCSI grows the volume in use, gives it to a second pod, and takes it from the
// node.
func (r *rig) testStagedByCephCSI(t *testing.T) {
	t.Parallel()
	n, ctx := r.nextNode(), testContext(t)
	v := r.stageByCephCSI(t, n)
	// external-attacher calls only for VolumeAttachments that are not attached.
	must.FailWith(t, n.Attach(ctx, v), codes.FailedPrecondition, "in use by")
	w := n.startWriter(t, v)
	if e := must.Value(n.Expand(ctx, v, 2*gib))(t); e.ControllerSize != 2*gib || e.NodeSize != 2*gib {
		t.Errorf("the controller reports %s, the node %s, want 2 GiB", sizeText(e.ControllerSize), sizeText(e.NodeSize))
	}
	n.wantGrown(t, v, 2*gib)
	second := *v
	second.Target += "-2"
	must.Succeed(t, n.Publish(ctx, &second))
	n.runScript(t, "[ -s "+second.Target+"/data-000000 ]")
	must.FailWith(t, n.Unstage(ctx, v), codes.FailedPrecondition, "in use")
	w.stop(t)
	w.verify(t, v)
	must.Succeed(t, n.Unpublish(ctx, &second))
	must.Succeed(t, n.Release(ctx, v))
	n.runScript(t, "rmdir "+v.Staging) // as kubelet does
	if mapped := n.runScript(t, "cat /sys/bus/rbd/devices/*/name || true"); strings.Contains(mapped, v.Name) {
		t.Errorf("the image is mapped after NodeUnstageVolume: %s", mapped)
	}
	n.wantCleanFilesystem(t, v)
	must.Succeed(t, n.Delete(ctx, v))
	if left := must.Value(r.Tool(ctx, "rados", "-p", ceph.Pool, "ls"))(t); strings.Contains(left, "csi.volume.") {
		t.Errorf("after DeleteVolume, the pool has: %s", left)
	}
}

// stageByCephCSI makes a volume as ceph-csi's controller does, and maps, mounts and publishes it as
// its node plugin does.
func (r *rig) stageByCephCSI(t *testing.T, n *node) *csiclient.Volume {
	t.Helper()
	ctx := testContext(t)
	const uuid = "0f8d1f8e-6b9c-4f0a-9d3e-2f0a7c1b5e11"
	image := "csi-vol-" + uuid
	must.Value(r.Tool(ctx, "rbd", "create", "--size=1G", "--image-feature=layering", ceph.Pool+"/"+image))(t)
	for key, value := range map[string]string{"csi.imagename": image, "csi.volname": "pvc-1"} {
		must.Value(r.Tool(ctx, "rados", "-p", ceph.Pool, "setomapval", "csi.volume."+uuid, key, value))(t)
	}
	v := &csiclient.Volume{
		ID:   fmt.Sprintf("0001-%04x-%s-%016x-%s", len(ceph.Cluster), ceph.Cluster, r.poolID(t, ceph.Pool), uuid),
		Name: image, Size: gib, Capability: csiclient.MountCapability("ext4"),
		Staging: filepath.Join(n.Dir, "ceph-csi", "globalmount"), Target: filepath.Join(n.Dir, "ceph-csi", "pod"),
		VolumeContext: map[string]string{
			"clusterID": ceph.Cluster, "pool": ceph.Pool, "journalPool": ceph.Pool, "imageName": image,
			"imageFeatures": "layering", "csi.storage.k8s.io/pv/name": "pvc-1",
		},
	}
	r.mapByHand(t, n, ceph.Pool+"/"+image, "")
	n.runScript(t, fmt.Sprintf(`for d in /sys/bus/rbd/devices/*; do
			if [ "$(cat $d/name)" = %[1]s ]; then id=${d##*/}; fi
		done
		mkdir -p %[2]s/%[3]s %[4]s
		echo '{"Version":3,"pool":"%[5]s","radosNamespace":"","image":"%[1]s","accessType":false}' >%[2]s/image-meta.json
		mkfs.ext4 -q -m0 /dev/rbd$id
		mount -o _netdev /dev/rbd$id %[2]s/%[3]s
		mount --bind %[2]s/%[3]s %[4]s`, image, v.Staging, v.ID, v.Target, ceph.Pool))
	return v
}

// poolID returns the id of a pool.
func (r *rig) poolID(t *testing.T, name string) int64 {
	t.Helper()
	for line := range strings.Lines(must.Value(r.Tool(testContext(t), "ceph", "osd", "lspools"))(t)) {
		if id, pool, _ := strings.Cut(strings.TrimSpace(line), " "); pool == name {
			return must.Value(strconv.ParseInt(id, 10, 64))(t)
		}
	}
	t.Fatalf("Ceph has no pool %s", name)
	return 0
}
