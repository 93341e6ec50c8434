package ceph_test

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/vm"
)

// This file tests group snapshots and the listings of blocks.

const mib16 = 16 << 20

// newPair creates two raw volumes and uses them on the node.
func (n *node) newPair(t *testing.T) [2]*csiclient.Volume {
	t.Helper()
	var pair [2]*csiclient.Volume
	for i := range pair {
		name := fmt.Sprint(testName(t), "-", i)
		pair[i] = must.Value(n.CreateWithParameters(testContext(t), class(nil), name, mib16,
			csiclient.BlockCapability(), nil))(t)
		must.Succeed(t, n.Use(testContext(t), pair[i]))
	}
	return pair
}

// startPairWriter starts a program that writes a growing number to the first volume, then to the
// second one, and so on. It ends with exit code 1 when a write fails.
func (n *node) startPairWriter(t *testing.T, pair [2]*csiclient.Volume) *vm.Process {
	t.Helper()
	script := fmt.Sprintf(`i=0; while [ ! -e /tmp/pair-stop ]; do i=$((i+1)); for d in %s %s; do
printf %%08d $i | dd of=$d bs=4096 conv=sync,notrunc oflag=direct 2>/dev/null || exit 1; done
touch /tmp/pair-begun; done`,
		pair[0].Target, pair[1].Target)
	n.runScript(t, "rm -f /tmp/pair-stop /tmp/pair-begun")
	writer := must.Value(n.guest.Start(testContext(t), vm.Command{Argv: []string{"sh", "-c", script}}))(t)
	n.runScript(t, "until [ -e /tmp/pair-begun ]; do sleep 0.1; done")
	return writer
}

// number returns the number that a volume has got from the pair writer, as Ceph has it.
func (r *rig) number(t *testing.T, id string) int {
	t.Helper()
	content := must.Value(r.Tool(testContext(t), "rbd", "export", "--no-progress", imageOf(id), "-"))(t)
	return must.Value(strconv.Atoi(strings.TrimRight(content[:8], "\x00")))(t)
}

// testGroupSnapshot takes group snapshots of two volumes under a writer, and restores the
// members. A write to the second volume begins after one to the first has ended: the numbers in
// the snapshots differ by 0 or 1.
func (r *rig) testGroupSnapshot(t *testing.T) {
	t.Parallel()
	n, ctx := r.nextNode(), testContext(t)
	groups := csi.NewGroupControllerClient(r.controller.Conn)
	pair := n.newPair(t)
	writer := n.startPairWriter(t, pair)
	last := 0
	for round := range 5 {
		req := &csi.CreateVolumeGroupSnapshotRequest{
			Name: fmt.Sprint(testName(t), "-", round), SourceVolumeIds: []string{pair[0].ID, pair[1].ID},
		}
		begin := time.Now()
		group := must.Value(groups.CreateVolumeGroupSnapshot(ctx, req))(t).GetGroupSnapshot()
		took := time.Since(begin)
		again := must.Value(groups.CreateVolumeGroupSnapshot(ctx, req))(t).GetGroupSnapshot()
		if again.GetGroupSnapshotId() != group.GetGroupSnapshotId() || !group.GetReadyToUse() {
			t.Errorf("got %v, then %v; want the same group snapshot, ready", group, again)
		}
		numbers := make(map[string]int)
		for _, member := range group.GetSnapshots() {
			name := req.GetName() + "-" + member.GetSnapshotId()[len("rig/"):]
			restored := must.Value(n.CreateWithParameters(ctx, class(nil), name, mib16,
				csiclient.BlockCapability(), snapshotSource(member.GetSnapshotId())))(t)
			numbers[member.GetSourceVolumeId()] = r.number(t, restored.ID)
			must.Succeed(t, n.Delete(ctx, restored))
		}
		first, second := numbers[pair[0].ID], numbers[pair[1].ID]
		if d := first - second; d != 0 && d != 1 || first < last || len(numbers) != 2 {
			t.Errorf("round %d: the numbers are %d and %d after %d, want them equal or the first one larger by 1",
				round, first, second, last)
		}
		t.Logf("numbers %d and %d; the call took %s", first, second, took.Round(time.Millisecond))
		last = first
		must.Value(groups.DeleteVolumeGroupSnapshot(ctx, &csi.DeleteVolumeGroupSnapshotRequest{
			GroupSnapshotId: group.GetGroupSnapshotId(),
		}))(t)
	}
	n.runScript(t, "touch /tmp/pair-stop")
	if err := writer.Wait(ctx); err != nil || last == 0 {
		t.Errorf("the writer ended with %v after %d, want no error: no write may fail", err, last)
	}
	r.wantNobodyFenced(t)
	for _, v := range pair {
		must.Succeed(t, n.Release(ctx, v))
		must.Succeed(t, n.Delete(ctx, v))
	}
	r.wantNothingOf(t, testName(t))
}

// testCutOffGroupSnapshot takes a group snapshot while the node of its volumes is cut off: it is
// refused in a few seconds, and the node loses nothing.
func (r *rig) testCutOffGroupSnapshot(t *testing.T) { //nolint:thelper // a test, no helper
	n, ctx := r.nodes[0], testContext(t)
	groups := csi.NewGroupControllerClient(r.controller.Conn)
	pair := n.newPair(t)
	writer := n.startPairWriter(t, pair)
	n.guest.Cut()
	begin := time.Now()
	_, err := groups.CreateVolumeGroupSnapshot(ctx, &csi.CreateVolumeGroupSnapshotRequest{
		Name: testName(t), SourceVolumeIds: []string{pair[0].ID, pair[1].ID},
	})
	took := time.Since(begin)
	n.guest.Restore()
	must.FailWith(t, err, codes.Unavailable, n.guest.Address.String())
	if took > time.Minute {
		t.Errorf("the refusal took %s, want at most a minute", took)
	}
	n.runScript(t, "touch /tmp/pair-stop")
	if err := writer.Wait(ctx); err != nil {
		t.Errorf("the writer ended with %v, want no error", err)
	}
	r.wantNobodyFenced(t)
	for _, v := range pair {
		must.Succeed(t, n.Release(ctx, v))
		must.Succeed(t, n.Delete(ctx, v)) // fails if it has a snapshot
	}
}

// testChangedBlocks writes to a raw volume between two snapshots, and compares them.
func (r *rig) testChangedBlocks(t *testing.T) {
	t.Parallel()
	n, ctx := r.nextNode(), testContext(t)
	v := must.Value(n.CreateWithParameters(ctx, class(nil), testName(t), gib, csiclient.BlockCapability(), nil))(t)
	must.Succeed(t, n.Use(ctx, v))
	write := func(offsets ...int64) {
		for _, mibs := range offsets {
			n.runScript(t, fmt.Sprintf("dd if=/dev/urandom of=%s bs=65536 count=1 seek=%d conv=notrunc oflag=direct 2>&1",
				v.Target, mibs*16))
		}
	}
	snapshot := func(name string) string {
		req := &csi.CreateSnapshotRequest{SourceVolumeId: v.ID, Name: testName(t) + name}
		return must.Value(n.Controller.CreateSnapshot(ctx, req))(t).GetSnapshot().GetSnapshotId()
	}
	write(0, 10, 500)
	first := snapshot("-1")
	write(10, 1023)
	second := snapshot("-2")
	metadata := csi.NewSnapshotMetadataClient(r.controller.Conn)
	allocated := must.Value(metadata.GetMetadataAllocated(ctx, &csi.GetMetadataAllocatedRequest{
		SnapshotId: second, MaxResults: 2,
	}))(t)
	wantRanges(t, "allocated", rangesOf(t, allocated.Recv), 0, 10, 500, 1023)
	delta := must.Value(metadata.GetMetadataDelta(ctx, &csi.GetMetadataDeltaRequest{
		BaseSnapshotId: first, TargetSnapshotId: second,
	}))(t)
	wantRanges(t, "changed", rangesOf(t, delta.Recv), 10, 1023)
	later := must.Value(metadata.GetMetadataDelta(ctx, &csi.GetMetadataDeltaRequest{
		BaseSnapshotId: first, TargetSnapshotId: second, StartingOffset: 11 * mib,
	}))(t)
	wantRanges(t, "changed from 11 MiB", rangesOf(t, later.Recv), 1023)
	must.Succeed(t, n.Release(ctx, v))
	for _, id := range []string{first, second} {
		must.Value(n.Controller.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: id}))(t)
	}
	must.Succeed(t, n.Delete(ctx, v))
}

// rangesOf reads a stream to its end.
func rangesOf[M interface{ GetBlockMetadata() []*csi.BlockMetadata }](
	t *testing.T, receive func() (M, error),
) []*csi.BlockMetadata {
	t.Helper()
	var ranges []*csi.BlockMetadata
	for {
		m, err := receive()
		if errors.Is(err, io.EOF) {
			return ranges
		}
		ranges = append(ranges, must.Value(m, err)(t).GetBlockMetadata()...)
	}
}

// wantRanges fails the test unless there is one range for each offset, given in MiB, that ends
// after the 64 KiB that were written there. A range may begin with the object (4 MiB): librbd shows
// new objects from their beginning.
func wantRanges(t *testing.T, what string, ranges []*csi.BlockMetadata, offsets ...int64) {
	t.Helper()
	isRight := len(ranges) == len(offsets)
	for i := range min(len(ranges), len(offsets)) {
		begin, end := ranges[i].GetByteOffset(), ranges[i].GetByteOffset()+ranges[i].GetSizeBytes()
		isRight = isRight && end == offsets[i]*mib+65536 && (begin == offsets[i]*mib || begin == offsets[i]/4*4*mib)
	}
	if !isRight {
		t.Errorf("%s: got %v, want ranges that end 64 KiB after %v MiB", what, ranges, offsets)
	}
}

// testLimits gives a volume a limit, publishes it to a pod, and measures how fast a process of the
// pod writes.
func (r *rig) testLimits(t *testing.T) {
	t.Parallel()
	n, ctx := r.nextNode(), testContext(t)
	const uid = "0b0e005c-39ec-4719-bbfe-78aadbc3e4ad"
	v := must.Value(n.CreateWithParameters(ctx, class(nil), testName(t), gib, csiclient.MountCapability("ext4"), nil))(t)
	v.Target = "/var/lib/kubelet/pods/" + uid + "/volumes/kubernetes.io~csi/pv/mount"
	must.Value(n.Controller.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{
		VolumeId: v.ID, MutableParameters: map[string]string{"maxWriteBps": "1048576"},
	}))(t)
	must.FailWith(t, n.Use(ctx, v), codes.Unavailable, uid, "control group")
	const group = "/sys/fs/cgroup/kubepods/pod" + uid
	n.runScript(t, "mkdir -p "+group+" && echo +io >/sys/fs/cgroup/cgroup.subtree_control && "+
		"echo +io >/sys/fs/cgroup/kubepods/cgroup.subtree_control")
	must.Succeed(t, n.Publish(ctx, v))
	if got := n.runScript(t, "cat "+group+"/io.max"); !strings.Contains(got, "wbps=1048576") {
		t.Errorf("got io.max %q, want wbps=1048576", got)
	}
	write := fmt.Sprintf("dd if=/dev/zero of=%s/data bs=262144 count=16 oflag=direct 2>&1", v.Target)
	measure := func(script string) time.Duration {
		begin := time.Now()
		n.runScript(t, script)
		return time.Since(begin).Round(time.Millisecond)
	}
	free := measure(write)
	limited := measure("echo $$ >" + group + "/cgroup.procs && " + write)
	t.Logf("4 MiB: %s outside of the pod, %s in it", free, limited)
	if limited < 3*time.Second {
		t.Errorf("4 MiB were written in %s, want at least 3 s with 1 MiB a second", limited)
	}
	must.Succeed(t, n.Release(ctx, v))
	must.Succeed(t, n.Delete(ctx, v))
	n.runScript(t, "rmdir "+group+" /sys/fs/cgroup/kubepods")
}
