package node

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

func (b *testNode) readHealth(t *testing.T) []*csi.VolumeHealth_VolumeHealthEntry {
	t.Helper()
	resp, err := b.NodeGetVolumeHealth(t.Context(), &csi.NodeGetVolumeHealthRequest{VolumeId: b.id, StagingTargetPath: b.staging})
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
func wantCondition(t *testing.T, b *testNode, reason string, status csi.VolumeHealthErrorType) *csi.VolumeHealth_VolumeHealthEntry {
	t.Helper()
	got := b.readHealth(t)
	if len(got) != 1 || got[0].GetReason() != reason || got[0].GetStatus() != status {
		t.Fatalf("conditions %v, want %s (%s)", got, reason, status)
	}
	return got[0]
}

func TestHealthOfAFilesystem(t *testing.T) {
	failure := volume.Errorf(volume.KindPrecondition, "run e2fsck")
	for name, c := range map[string]struct {
		measured filesystem.Measurement
		reason   string
		status   csi.VolumeHealthErrorType
		words    []string
	}{
		"shut down": {filesystem.Measurement{IsShutDown: true, Failure: failure}, reasonFailed, csi.VolumeHealthErrorType_INACCESSIBLE, []string{"run e2fsck"}},
		"read-only after an error": {
			filesystem.Measurement{BecameReadOnly: true, Failure: failure}, reasonReadOnly, csi.VolumeHealthErrorType_DEGRADED, []string{"run e2fsck"},
		},
		"errors recorded": {filesystem.Measurement{ErrorCount: 3, Failure: failure}, reasonErrors, csi.VolumeHealthErrorType_DEGRADED, []string{"3 errors", "run e2fsck"}},
		"smaller than its device": {
			filesystem.Measurement{Size: volume.GiB}, reasonFilesystemShort, csi.VolumeHealthErrorType_DEGRADED, []string{"1 GiB", "2 GiB"},
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

func TestHealthNamesSeveralConditions(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.stageAndPublish(t, 2*volume.GiB)
	d.measured = filesystem.Measurement{Size: volume.GiB, ErrorCount: 1, BecameReadOnly: true, Failure: volume.Errorf(volume.KindPrecondition, "run e2fsck")}
	d.backendSize = 4 * volume.GiB
	var reasons []string
	for _, c := range b.readHealth(t) {
		reasons = append(reasons, c.GetReason())
	}
	if got, want := strings.Join(reasons, " "), "DeviceSmallerThanVolume FilesystemReadOnly FilesystemErrors FilesystemSmallerThanVolume"; got != want {
		t.Errorf("reasons %q, want %q", got, want)
	}
}

// The connector may learn the volume's size at Connect only; the record has it.
func TestHealthOfADeviceThatIsSmallerThanItsVolume(t *testing.T) {
	for name, capability := range map[string]*csi.VolumeCapability{"mounted": mountCapability("ext4"), "raw": blockCapability()} {
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
			for _, word := range []string{"1 GiB", "2 GiB", "next step: plug it in anew"} {
				if !strings.Contains(c.GetMessage(), word) {
					t.Errorf("message %q does not mention %q", c.GetMessage(), word)
				}
			}
		})
	}
}

func TestHealthOfAVolumeThatIsNotHere(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	_, err := b.NodeGetVolumeHealth(t.Context(), &csi.NodeGetVolumeHealthRequest{VolumeId: b.id})
	wantKind(t, err, volume.KindNotFound)
	d := b.add(b.id, volume.GiB)
	_, err = b.NodeGetVolumeHealth(t.Context(), &csi.NodeGetVolumeHealthRequest{VolumeId: b.id})
	wantKind(t, err, volume.KindNotFound)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.connected = false // pulled out
	wantCondition(t, b, reasonDeviceGone, csi.VolumeHealthErrorType_INACCESSIBLE)
}

func TestHealthOfAReadOnlyStaging(t *testing.T) {
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

func TestHealthRequestsAreValidated(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	for _, req := range []*csi.NodeGetVolumeHealthRequest{
		{}, {VolumeId: b.id, StagingTargetPath: "relative"}, {VolumeId: b.id, VolumePublishPath: "relative"},
	} {
		_, err := b.NodeGetVolumeHealth(t.Context(), req)
		wantKind(t, err, volume.KindInvalid)
	}
}

// A PersistentVolume that says more than the volume has must not keep the pod
// from its data: kubelet asks once, while it mounts.
func TestExpandOfAClaimThatExceedsTheVolume(t *testing.T) {
	for name, c := range map[string]struct {
		published bool
		attached  volume.Size
		device    volume.Size
		kind      volume.Kind
		within    time.Duration
	}{
		"while the pod starts":                      {true, volume.GiB, volume.GiB, volume.KindPrecondition, podStartDeviceTimeout},
		"long after the pod has started":            {false, volume.GiB, volume.GiB, volume.KindDeadline, time.Minute},
		"the size at the attach is unknown":         {true, 0, volume.GiB, volume.KindDeadline, time.Minute},
		"the device has not even the attached size": {true, 2 * volume.GiB, volume.GiB, volume.KindDeadline, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newTestNode(t, mountCapability("ext4"))
				d := b.add(b.id, volume.GiB)
				d.conn.PublishedSize, d.sizeOnlyAtConnect = c.attached, true
				if err := b.stage(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := b.publish(t.Context(), false); err != nil {
					t.Fatal(err)
				}
				if !c.published {
					_ = operation.Sleep(t.Context(), podStartWindow+time.Second)
				}
				d.ignoresRescan = true
				start := time.Now()
				_, err := b.expandWithin(t, 4*volume.GiB, time.Minute)
				wantKind(t, err, c.kind, "4 GiB", "1 GiB")
				if c.kind == volume.KindPrecondition && !strings.Contains(err.Error(), "next step: if the PersistentVolume says more") {
					t.Errorf("error %q has no remedy", err)
				}
				if took := time.Since(start); took > c.within {
					t.Errorf("answered after %s, want %s at most", took, c.within)
				}
				// The news of a growth was late after all.
				d.backendSize, d.ignoresRescan = 4*volume.GiB, false
				if size, err := b.expand(t.Context(), 4*volume.GiB); err != nil || size != 4*volume.GiB {
					t.Errorf("expanded to %s, %v", size, err)
				}
			})
		})
	}
}
