package hotplug

import (
	"fmt"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/vm"
)

// The number of volumes that the node says it can take is true: it stays the
// same while volumes come and go, and as many can really be plugged in, but
// not one more.
func TestAttachLimitIsExact(t *testing.T) {
	limit := func() int {
		info, err := machine.driver.Node.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
		must.Succeed(t, err)
		if info.GetNodeId() != nodeID {
			t.Errorf("node id %q", info.GetNodeId())
		}
		return int(info.GetMaxVolumesPerNode())
	}
	first := plugVolume(t, vm.VirtioBlk, csiclient.BlockCapability())
	first.findDevice(t)
	want := limit()
	t.Logf("limit %d", want)
	if want < 5 || want > 40 {
		t.Fatalf("a PC has 32 PCI slots, some of them taken; the limit is %d", want)
	}
	// A volume of the cluster stays one while it is mounted; a disk that somebody else
	// mounts takes a place from them, also if the mount is not visible to the plugin.
	staged := plugVolume(t, vm.VirtioBlk, csiclient.MountCapability("ext4"))
	staged.stageAndPublish(t)
	if got := limit(); got != want {
		t.Errorf("with a volume mounted the limit is %d, was %d", got, want)
	}
	foreign := plugVolume(t, vm.VirtioBlk, csiclient.MountCapability("ext4"))
	node := foreign.findDevice(t)
	sh(t, "mkfs.ext4 -q "+node)
	if got := limit(); got != want {
		t.Errorf("with a disk that nobody uses yet the limit is %d, was %d", got, want)
	}
	sh(t, "mkdir -p /run/foreign && mount "+node+" /run/foreign")
	if got := limit(); got != want-1 {
		t.Errorf("with a disk that somebody else has mounted the limit is %d, want %d", got, want-1)
	}
	sh(t, "umount /run/foreign")
	if got := limit(); got != want {
		t.Errorf("after its unmount the limit is %d, was %d", got, want)
	}
	plugged := []*disk{first, staged, foreign}
	for len(plugged) < want {
		d := newVolume(t, newID(), csiclient.BlockCapability())
		if err := machine.AddDisk(t.Context(), vm.Disk{Name: d.name, Bus: vm.VirtioBlk, Serial: d.ID, Size: gib}); err != nil {
			t.Fatalf("the limit is %d, but only %d could be plugged in: %v", want, len(plugged), err)
		}
		d.size = gib
		if d.findDevice(t); len(plugged)%8 == 0 || len(plugged) == want-1 {
			if got := limit(); got != want {
				t.Errorf("with %d volumes the limit is %d, was %d", len(plugged)+1, got, want)
			}
		}
		plugged = append(plugged, d)
	}
	more := newVolume(t, newID(), csiclient.BlockCapability())
	err := machine.AddDisk(t.Context(), vm.Disk{Name: more.name, Bus: vm.VirtioBlk, Serial: more.ID, Size: gib})
	if err == nil {
		more.size = gib
		t.Errorf("one more than the limit of %d could be plugged in", want)
	} else if !strings.Contains(err.Error(), "slot") && !strings.Contains(err.Error(), "PCI") {
		t.Errorf("refused for another reason: %v", err)
	}
	// The last one is a volume like any other.
	last := plugged[len(plugged)-1]
	last.stageAndPublish(t)
	if got := sh(t, fmt.Sprintf("stat -c %%t:%%T %s %s | uniq | wc -l", last.Target, last.findDevice(t))); got != "1" {
		t.Error("the target is not the last disk")
	}
	last.growThenExpand(t, vm.VirtioBlk, 2*gib)
}
