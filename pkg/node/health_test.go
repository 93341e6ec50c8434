package node

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// A condition does not name the cause of a failure that is over.
func TestHealthForgetsTheCauseOfAnEarlierFailure(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, b *testNode){
		"after a growth": func(t *testing.T, b *testNode) {
			t.Helper()
			if _, err := b.expand(t.Context(), 2*volume.GiB); err != nil {
				t.Fatal(err)
			}
		},
		"after the volume has left": func(t *testing.T, b *testNode) {
			t.Helper()
			err := errors.Join(b.unpublish(t.Context()), b.unstage(t.Context()))
			b.capability = mountCapability("ext4", "ro") // nothing grows
			if err = errors.Join(err, b.stage(t.Context())); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestNode(t, mountCapability("ext4"))
			d := b.stageAndPublish(t, volume.GiB)
			d.backendSize = 2 * volume.GiB
			b.fail["grow"] = volume.Errorf(volume.KindPrecondition, "run e2fsck")
			_, err := b.expand(t.Context(), 2*volume.GiB)
			volumetest.WantKind(t, err, volume.KindPrecondition)
			delete(b.fail, "grow")
			end(t, b)
			d.measured = filesystem.Measurement{Size: volume.GiB}
			d.deviceSize = 2 * volume.GiB
			c := wantCondition(t, b, reasonFilesystemShort, csi.VolumeHealthErrorType_DEGRADED)
			if strings.Contains(c.GetMessage(), "e2fsck") {
				t.Errorf("the condition %q names the cause of an earlier failure", c.GetMessage())
			}
		})
	}
}

// The health of a raw volume does not depend on what is mounted at its staging path.
func TestHealthOfARawVolumeReadsNoFilesystem(t *testing.T) {
	b := newTestNode(t, blockCapability())
	b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := b.add("vol-2", volume.GiB)
	other.connected = true
	b.addMount(b.staging, mountOf(other))
	wantHealthy(t, b)
}

func (b *testNode) readHealth(t *testing.T) []*csi.VolumeHealth_VolumeHealthEntry {
	t.Helper()
	resp, err := b.NodeGetVolumeHealth(
		t.Context(), &csi.NodeGetVolumeHealthRequest{VolumeId: b.id, StagingTargetPath: b.staging},
	)
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.GetVolumeHealth().GetVolumeId(); got != b.id {
		t.Errorf("the health of %q, want that of %q", got, b.id)
	}
	return resp.GetVolumeHealth().GetHealthStatuses()
}

func wantHealthy(t *testing.T, b *testNode) {
	t.Helper()
	if got := b.readHealth(t); len(got) != 0 {
		t.Errorf("conditions %v, want none", got)
	}
}

// wantCondition fails the test unless this is the one condition.
func wantCondition(
	t *testing.T, b *testNode, reason string, status csi.VolumeHealthErrorType,
) *csi.VolumeHealth_VolumeHealthEntry {
	t.Helper()
	got := b.readHealth(t)
	if len(got) != 1 || got[0].GetReason() != reason || got[0].GetStatus() != status {
		t.Fatalf("conditions %v, want %s (%s)", got, reason, status)
	}
	return got[0]
}

func TestHealthReportsEachFilesystemCondition(t *testing.T) {
	failure := volume.Errorf(volume.KindPrecondition, "run e2fsck")
	for name, c := range map[string]struct {
		measured filesystem.Measurement
		reason   string
		status   csi.VolumeHealthErrorType
		words    []string
	}{
		"shut down": {
			filesystem.Measurement{IsShutDown: true, Failure: failure},
			reasonFailed, csi.VolumeHealthErrorType_INACCESSIBLE,
			[]string{"run e2fsck"},
		},
		"read-only after an error": {
			filesystem.Measurement{BecameReadOnly: true, Failure: failure},
			reasonReadOnly,
			csi.VolumeHealthErrorType_DEGRADED,
			[]string{"run e2fsck"},
		},
		"errors recorded": {
			filesystem.Measurement{ErrorCount: 3, Failure: failure},
			reasonErrors, csi.VolumeHealthErrorType_DEGRADED,
			[]string{"3 errors", "run e2fsck"},
		},
		"smaller than its device": {
			filesystem.Measurement{Size: volume.GiB},
			reasonFilesystemShort, csi.VolumeHealthErrorType_DEGRADED,
			[]string{"1 GiB", "2 GiB"},
		},
		"at the limit of its format": {
			filesystem.Measurement{Size: volume.GiB, FormatLimit: volume.GiB},
			reasonFilesystemShort, csi.VolumeHealthErrorType_DEGRADED,
			[]string{"1 GiB", "2 GiB", "its format ends at 1 GiB"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestNode(t, mountCapability("ext4"))
			d := b.stageAndPublish(t, 2*volume.GiB)
			wantHealthy(t, b)
			d.measured = c.measured
			got := wantCondition(t, b, c.reason, c.status)
			for _, word := range c.words {
				if !strings.Contains(got.GetMessage(), word) {
					t.Errorf("message %q does not mention %q", got.GetMessage(), word)
				}
			}
			d.measured = filesystem.Measurement{}
			wantHealthy(t, b)
		})
	}
}

func TestHealthReportsSeveralConditions(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.stageAndPublish(t, 2*volume.GiB)
	d.measured = filesystem.Measurement{
		Size: volume.GiB, ErrorCount: 1, BecameReadOnly: true, Failure: volume.Errorf(volume.KindPrecondition, "run e2fsck"),
	}
	d.backendSize = 4 * volume.GiB
	var reasons []string
	for _, c := range b.readHealth(t) {
		reasons = append(reasons, c.GetReason())
	}
	const want = "DeviceSmallerThanVolume FilesystemReadOnly FilesystemErrors FilesystemSmallerThanVolume"
	if got := strings.Join(reasons, " "); got != want {
		t.Errorf("reasons %q, want %q", got, want)
	}
}

// A connector may learn the size of the volume at Connect only: then the record has it.
func TestHealthReportsADeviceThatIsSmallerThanItsVolume(t *testing.T) {
	for name, capability := range map[string]*csi.VolumeCapability{
		"mounted": mountCapability("ext4"), "raw": blockCapability(),
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestNode(t, capability)
			d := b.add(b.id, 2*volume.GiB)
			d.conn, d.sizeOnlyAtConnect = granularConnection(), true
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantHealthy(t, b)
			d.deviceSize, d.content.Size = volume.GiB, volume.GiB
			c := wantCondition(t, b, reasonDeviceShort, csi.VolumeHealthErrorType_DEGRADED)
			for _, word := range []string{"1 GiB", "2 GiB", "next step: plug it in again"} {
				if !strings.Contains(c.GetMessage(), word) {
					t.Errorf("message %q does not mention %q", c.GetMessage(), word)
				}
			}
		})
	}
}

func TestHealthOfAVolumeThatIsNotOnThisNode(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	_, err := b.NodeGetVolumeHealth(t.Context(), &csi.NodeGetVolumeHealthRequest{VolumeId: b.id})
	volumetest.WantKind(t, err, volume.KindNotFound)
	d := b.add(b.id, volume.GiB)
	_, err = b.NodeGetVolumeHealth(t.Context(), &csi.NodeGetVolumeHealthRequest{VolumeId: b.id})
	volumetest.WantKind(t, err, volume.KindNotFound)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.connected = false // pulled out
	wantCondition(t, b, reasonDeviceGone, csi.VolumeHealthErrorType_INACCESSIBLE)
}

func TestHealthNamesTheReadOnlyMountAsTheCause(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4", "ro"))
	d := b.add(b.id, 4*volume.GiB)
	d.content = ext4Signature()
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := wantCondition(t, b, reasonFilesystemShort, csi.VolumeHealthErrorType_DEGRADED)
	if !strings.Contains(c.GetMessage(), "read-only") {
		t.Errorf("message %q does not say why", c.GetMessage())
	}
}

func TestMalformedHealthRequestsAreInvalid(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	for _, req := range []*csi.NodeGetVolumeHealthRequest{
		{}, {VolumeId: b.id, StagingTargetPath: "relative"}, {VolumeId: b.id, VolumePublishPath: "relative"},
	} {
		_, err := b.NodeGetVolumeHealth(t.Context(), req)
		volumetest.WantKind(t, err, volume.KindInvalid)
	}
}

func TestHealthReportsAMappingThatIsTooSmall(t *testing.T) {
	for name, capability := range map[string]*csi.VolumeCapability{
		"mounted": mountCapability("ext4"), "raw": blockCapability(),
	} {
		t.Run(name, func(t *testing.T) {
			b := newEncryptedTestNode(t, capability)
			d := b.add(b.id, volume.GiB)
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantHealthy(t, b)
			d.backendSize, d.deviceSize = 4*volume.GiB, 4*volume.GiB
			c := wantCondition(t, b, reasonDeviceShort, csi.VolumeHealthErrorType_DEGRADED)
			for _, word := range []string{"mapping", d.mappingSize.String(), (4*volume.GiB - headerSize).String()} {
				if !strings.Contains(c.GetMessage(), word) {
					t.Errorf("the condition %q does not mention %q", c.GetMessage(), word)
				}
			}
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantHealthy(t, b)
			d.deviceSize = 2 * volume.GiB
			c = wantCondition(t, b, reasonDeviceShort, csi.VolumeHealthErrorType_DEGRADED)
			if !strings.Contains(c.GetMessage(), d.path+" has 2 GiB") {
				t.Errorf("the condition %q is not of the disk", c.GetMessage())
			}
		})
	}
}

// The most common fault of a cloud: the volume has grown, but the node was not told. The node knows
// the new size because kubelet has asked for it.
func TestHealthReportsAGrowthThatHasNotReachedTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, volume.GiB)
		d.conn, d.sizeOnlyAtConnect = granularConnection(), true
		if err := errors.Join(b.stage(t.Context()), b.publish(t.Context(), false)); err != nil {
			t.Fatal(err)
		}
		d.backendSize, d.ignoresRescan = 2*volume.GiB, true
		_, err := b.expandWithin(t, 2*volume.GiB, time.Minute)
		volumetest.WantKind(t, err, volume.KindDeadline)
		c := wantCondition(t, b, reasonDeviceShort, csi.VolumeHealthErrorType_DEGRADED)
		if !strings.Contains(c.GetMessage(), "2 GiB") || !strings.Contains(c.GetMessage(), "1 GiB") {
			t.Errorf("message %q does not name both sizes", c.GetMessage())
		}
		d.ignoresRescan = false
		if _, err := b.expand(t.Context(), 2*volume.GiB); err != nil {
			t.Fatal(err)
		}
		wantHealthy(t, b)
	})
}

// A mapping that another program has opened cannot be compared with its disk: the failed growth is
// the condition.
func TestHealthReportsAForeignMappingThatCannotGrow(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.stageAndPublish(t, volume.GiB)
	d.mappingSize, d.content.Size = volume.GiB-headerSize, volume.GiB-headerSize
	for i := range b.mounts {
		b.mounts[i].Device = blockdev.DeviceNumber{Major: cryptMajor, Minor: d.number}
	}
	d.backendSize, d.luks.keyInKeyring = 2*volume.GiB, true
	_, err := b.expand(t.Context(), 2*volume.GiB)
	volumetest.WantKind(t, err, volume.KindPrecondition, "passphrase")
	c := wantCondition(t, b, reasonFilesystemShort, csi.VolumeHealthErrorType_DEGRADED)
	if !strings.Contains(c.GetMessage(), "passphrase") {
		t.Errorf("message %q does not say why", c.GetMessage())
	}
}

// An expansion to a size that the device has forgets a larger one that the user has given up.
func TestHealthForgetsASizeThatWasGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, volume.GiB)
		d.sizeOnlyAtConnect = true
		if err := errors.Join(b.stage(t.Context()), b.publish(t.Context(), false)); err != nil {
			t.Fatal(err)
		}
		d.ignoresRescan = true
		_, err := b.expandWithin(t, 5*volume.GiB, time.Minute)
		volumetest.WantKind(t, err, volume.KindDeadline)
		wantCondition(t, b, reasonDeviceShort, csi.VolumeHealthErrorType_DEGRADED)
		d.backendSize, d.ignoresRescan = 2*volume.GiB, false
		if _, err := b.expand(t.Context(), 2*volume.GiB); err != nil {
			t.Fatal(err)
		}
		wantHealthy(t, b)
	})
}
