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

// The number of volumes that NodeGetInfo reports is exact: it stays the same while
// volumes are attached and detached, and as many disks can be plugged in, but not
// one more.
func TestAttachLimitIsExact(t *testing.T) {
	limit := func() int {
		info, err := machine.driver.Node.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
		must.Succeed(t, err)
		if info.GetNodeId() != nodeID {
			t.Errorf("got the node id %q, want %q", info.GetNodeId(), nodeID)
		}
		return int(info.GetMaxVolumesPerNode())
	}
	first := plugVolume(t, vm.VirtioBlk, csiclient.BlockCapability())
	first.findDevice(t)
	want := limit()
	t.Logf("limit %d", want)
	if want < 5 || want > 40 {
		t.Fatalf("got the limit %d, want 5 to 40: a PC has 32 PCI slots, some of them in use", want)
	}
	// A mounted volume of the cluster still counts as one. A disk that another program
	// mounts reduces the limit by one.
	staged := plugVolume(t, vm.VirtioBlk, csiclient.MountCapability("ext4"))
	staged.stageAndPublish(t)
	if got := limit(); got != want {
		t.Errorf("with a volume mounted: got the limit %d, want %d", got, want)
	}
	foreign := plugVolume(t, vm.VirtioBlk, csiclient.MountCapability("ext4"))
	node := foreign.findDevice(t)
	sh(t, "mkfs.ext4 -q "+node)
	if got := limit(); got != want {
		t.Errorf("with a formatted disk that nobody uses: got the limit %d, want %d", got, want)
	}
	sh(t, "mkdir -p /run/foreign && mount "+node+" /run/foreign")
	if got := limit(); got != want-1 {
		t.Errorf("with a disk that another program mounted: got the limit %d, want %d", got, want-1)
	}
	sh(t, "umount /run/foreign")
	if got := limit(); got != want {
		t.Errorf("after the unmount: got the limit %d, want %d", got, want)
	}
	plugged := []*disk{first, staged, foreign}
	for len(plugged) < want {
		d := newVolume(t, newID(), csiclient.BlockCapability())
		err := machine.AddDisk(t.Context(), vm.Disk{Name: d.name, Bus: vm.VirtioBlk, Serial: d.ID, Size: gib})
		if err != nil {
			t.Fatalf("the limit is %d, but only %d disks could be plugged in: %v", want, len(plugged), err)
		}
		d.size = gib
		if d.findDevice(t); len(plugged)%8 == 0 || len(plugged) == want-1 {
			if got := limit(); got != want {
				t.Errorf("with %d volumes: got the limit %d, want %d", len(plugged)+1, got, want)
			}
		}
		plugged = append(plugged, d)
	}
	excess := newVolume(t, newID(), csiclient.BlockCapability())
	err := machine.AddDisk(t.Context(), vm.Disk{Name: excess.name, Bus: vm.VirtioBlk, Serial: excess.ID, Size: gib})
	if err == nil {
		excess.size = gib
		t.Errorf("one disk more than the limit of %d could be plugged in", want)
	} else if !strings.Contains(err.Error(), "slot") && !strings.Contains(err.Error(), "PCI") {
		t.Errorf("the disk is refused for another reason than the slots: %v", err)
	}
	// The last disk is usable.
	last := plugged[len(plugged)-1]
	last.stageAndPublish(t)
	if got := sh(t, fmt.Sprintf("stat -c %%t:%%T %s %s | uniq | wc -l", last.Target, last.findDevice(t))); got != "1" {
		t.Error("the target shows another device than the last disk")
	}
	last.growThenExpand(t, vm.VirtioBlk, 2*gib)
}
