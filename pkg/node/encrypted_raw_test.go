package node

import (
	"errors"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// A mapping that another program has opened prevents the use of its disk while it is mounted. A
// mapping that a pod has opened on its raw device, and mounted where only the pod sees it, must not
// keep the pod from its volume after a restart.
func TestRawVolumeBelowAForeignMapping(t *testing.T) {
	requireDeviceNodes(t)
	b := newTestNode(t, blockCapability())
	d := b.stageAndPublish(t, volume.GiB)
	d.mappingSize, d.luks.plugCount = volume.GiB-headerSize, d.plugCount
	if err := b.unpublish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.stage(t.Context()), b.publish(t.Context(), false), b.unpublish(t.Context())); err != nil {
		t.Fatal(err)
	}
	b.addMount("/elsewhere", mountOfMapping(d))
	volumetest.WantKind(t, b.stage(t.Context()), volume.KindPrecondition, "mounted at /elsewhere")
	volumetest.WantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "mounted at /elsewhere")
}

func TestEncryptedRawVolumeFromStageToUnstage(t *testing.T) {
	requireDeviceNodes(t)
	b := newEncryptedTestNode(t, blockCapability())
	d := b.stageAndPublish(t, volume.GiB)
	var st unix.Stat_t
	if err := unix.Stat(b.target, &st); err != nil || unix.Major(st.Rdev) != cryptMajor {
		t.Fatalf("published is %d:%d, %v; want the mapping", unix.Major(st.Rdev), unix.Minor(st.Rdev), err)
	}
	if err := b.stage(t.Context()); err != nil { // kubelet has restarted
		t.Fatal(err)
	}
	usage, err := b.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: b.id, VolumePath: b.target})
	if err != nil || usage.GetUsage()[0].GetTotal() != (volume.GiB-headerSize).Bytes() {
		t.Errorf("stats %v, %v", usage, err)
	}
	d.backendSize = 3 * volume.GiB
	if n, err := b.expand(t.Context(), 3*volume.GiB); err != nil || n != 3*volume.GiB ||
		d.mappingSize != 3*volume.GiB-headerSize {
		t.Errorf("%s, %v; the mapping has %s", n, err, d.mappingSize)
	}
	volumetest.WantKind(t, b.unstage(t.Context()), volume.KindPrecondition, b.target)
	if b.countCalls("format") != 0 || d.content != noiseSignature() {
		t.Errorf("a raw volume now holds %s", d.content)
	}
	if err := errors.Join(b.unpublish(t.Context()), b.unstage(t.Context())); err != nil {
		t.Fatal(err)
	}
	wantClosed(t, b, d)
}

// The disk of an encrypted volume holds ciphertext: no pod gets it as its raw device, whatever was
// lost.
func TestRawPublishNeverShowsCiphertext(t *testing.T) {
	b := newEncryptedTestNode(t, blockCapability())
	d := b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.mappingSize = 0
	delete(b.mappedDisks, b.id)
	volumetest.WantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "not staged")
	b.context = nil // the record knows it too
	volumetest.WantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "not staged")
	b.context = map[string]string{volume.EncryptedKey: "true"}
	if err := b.records.Remove(b.id); err != nil {
		t.Fatal(err)
	}
	volumetest.WantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "not staged")
	// A mapping of this name on another volume's disk is not this volume.
	other := b.add("vol-2", volume.GiB)
	other.connected, other.deviceSize = true, volume.GiB
	b.encrypt(other)
	volumetest.WantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "not staged")
}

// Raw and mounted at the same time would be two writers that do not know of each other.
func TestEncryptedVolumeIsNotRawAndMountedAtOnce(t *testing.T) {
	b := newEncryptedTestNode(t, mountCapability("ext4"))
	b.stageAndPublish(t, volume.GiB)
	b.capability = blockCapability()
	volumetest.WantKind(t, b.stage(t.Context()), volume.KindPrecondition, "mounted")
	b.target += "-raw"
	volumetest.WantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "mounted")
}

// A pod that still has the mapping keeps the volume on the node.
func TestUnstageOfAPublishedMappingNamesItsUser(t *testing.T) {
	b := newEncryptedTestNode(t, blockCapability())
	d := b.stageAndPublish(t, volume.GiB)
	volumetest.WantKind(t, b.unstage(t.Context()), volume.KindPrecondition, "still in use at "+b.target)
	if !d.connected || d.mappingSize == 0 || b.countCalls("luks-close") != 0 {
		t.Errorf("got connected %t, a mapping of %s, %d calls that close it; want an untouched mapping",
			d.connected, d.mappingSize, b.countCalls("luks-close"))
	}
}
