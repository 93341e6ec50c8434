package node

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// A device may lack one header of its volume, not two, and none when the controller knows that the
// volume is not encrypted.
func TestDeviceMayLackOneHeaderOnly(t *testing.T) {
	for name, c := range map[string]struct{ hidden, lacks volume.Size }{
		"more than a header":             {32 * volume.MiB, 40 * volume.MiB},
		"a header of what is not hidden": {0, 16 * volume.MiB},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newTestNode(t, mountCapability("ext4"))
				d := b.add(b.id, volume.GiB)
				d.conn, d.sizeOnlyAtConnect = granularConnection(), true
				d.conn.MaxOverhead, d.conn.PublishedSize = c.hidden, 2*volume.GiB
				if err := errors.Join(b.stage(t.Context()), b.publish(t.Context(), false)); err != nil {
					t.Fatal(err)
				}
				r, err := b.records.Read(b.id)
				if err != nil {
					t.Fatal(err)
				}
				r.Size = 2 * volume.GiB // as it is learned at the attach
				if err := b.records.Write(r); err != nil {
					t.Fatal(err)
				}
				d.backendSize, d.overhead = 2*volume.GiB, c.lacks
				d.deviceSize = d.backendSize - d.overhead
				d.content.Size = d.deviceSize
				// The first size exceeds the volume, while the pod starts.
				for _, required := range []volume.Size{4 * volume.GiB, 2 * volume.GiB} {
					_, err := b.expandWithin(t, required, time.Minute)
					volumetest.WantKind(t, err, volume.KindDeadline)
				}
				wantCondition(t, b, reasonDeviceShort, csi.VolumeHealthErrorType_DEGRADED)
			})
		})
	}
}

// granularConnection is a connection to a backend that counts in GiB and may encrypt
// below this node, as Cinder and Nova do.
func granularConnection() volume.Connection {
	return volume.Connection{Granularity: volume.GiB, MaxOverhead: 32 * volume.MiB, ShortRemedy: "plug it in again"}
}

// The device of a volume that the hypervisor encrypts lacks the header. It grows all the same, and
// NodeExpandVolume returns the size that was read.
func TestExpandOfAVolumeThatTheHypervisorEncrypts(t *testing.T) {
	for name, hdr := range map[string]volume.Size{"LUKS1": 2 * volume.MiB, "LUKS2": 16 * volume.MiB, "none": 0} {
		t.Run(name, func(t *testing.T) {
			b := newTestNode(t, mountCapability("ext4"))
			d := b.add(b.id, volume.GiB)
			d.conn, d.overhead, d.sizeOnlyAtConnect = granularConnection(), hdr, true
			d.conn.Encrypted = hdr > 0
			d.content = filesystem.Signature{State: filesystem.StateForeign, IsRandom: true}
			if hdr == 0 {
				d.content = filesystem.Signature{State: filesystem.StateBlank}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := errors.Join(b.stage(ctx), b.publish(ctx, false)); err != nil {
				t.Fatal(err)
			}
			for _, required := range []volume.Size{2 * volume.GiB, 2*volume.GiB + 10*volume.MiB, 3 * volume.GiB} {
				d.backendSize, _ = required.RoundUp(volume.GiB)
				want := d.backendSize - hdr
				if got, err := b.expand(ctx, required); err != nil || got != want || d.content.Size != want {
					t.Errorf("expanded to %s: %s, %v; the filesystem has %s", required, got, err, d.content.Size)
				}
			}
		})
	}
}

// A device that has less than required has not grown, even if it lacks no more than a header may
// hide.
func TestExpandFailsWhenTheDeviceLacksLessThanAHeader(t *testing.T) {
	for _, capability := range []string{"mounted", "raw"} {
		t.Run(capability, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newTestNode(t, mountCapability("ext4"))
				if capability == "raw" {
					if os.Geteuid() != 0 {
						t.Skip("making a device node needs root")
					}
					b.capability = blockCapability()
				}
				d := b.add(b.id, volume.GiB)
				d.conn, d.sizeOnlyAtConnect = granularConnection(), true
				if err := errors.Join(b.stage(t.Context()), b.publish(t.Context(), false)); err != nil {
					t.Fatal(err)
				}
				d.ignoresRescan, d.backendSize = true, 2*volume.GiB
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
				_, err := b.expand(ctx, volume.GiB+10*volume.MiB)
				volumetest.WantKind(t, err, volume.KindDeadline, "1 GiB", "2 GiB", "32 MiB", "next step: plug it in again")
				if n := b.countCalls("grow"); capability == "mounted" && n != 1 { // the one at stage
					t.Errorf("grown %d times", n)
				}
				d.reportsFalseSize = true
				_, err = b.expand(t.Context(), volume.GiB+10*volume.MiB)
				volumetest.WantKind(t, err, volume.KindInternal, "1 GiB")
			})
		})
	}
}

// Without an overhead the message is the device's own.
func TestExplainShortDeviceKeepsOtherErrors(t *testing.T) {
	plain := volume.Errorf(volume.KindDeadline, "short").WithRemedy("wait")
	if got := explainShortDevice(volume.Connection{}, volume.GiB, plain); got.Error() != plain.Error() {
		t.Errorf("%v became %v", plain, got)
	}
	for _, err := range []error{nil, volume.Errorf(volume.KindInternal, "gone")} {
		if got := explainShortDevice(granularConnection(), volume.GiB, err); got != err { //nolint:errorlint // the very same
			t.Errorf("%v became %v", err, got)
		}
	}
}

// A device that is smaller than its volume is not formatted; a header is allowed for only where
// there can be one.
func TestStageFormatsOnlyADeviceOfFullSize(t *testing.T) {
	for name, c := range map[string]struct {
		lacks  volume.Size
		hidden volume.Size
		works  bool
	}{
		"whole":                          {0, 0, true},
		"a header of an encrypted one":   {16 * volume.MiB, 32 * volume.MiB, true},
		"a plain one that lacks as much": {16 * volume.MiB, 0, false},
		"one that lacks more":            {33 * volume.MiB, 32 * volume.MiB, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newTestNode(t, mountCapability("ext4"))
				d := b.add(b.id, 2*volume.GiB)
				d.conn, d.overhead = granularConnection(), c.lacks
				d.conn.MaxOverhead = c.hidden
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
				err := b.stage(ctx)
				if c.works {
					if err != nil || d.content.Size != 2*volume.GiB-c.lacks {
						t.Errorf("%v, a filesystem of %s", err, d.content.Size)
					}
					return
				}
				volumetest.WantKind(t, err, volume.KindDeadline, "2 GiB", "plug it in again")
				if b.countCalls("format") != 0 {
					t.Error("formatted")
				}
			})
		})
	}
}

// Noise is blank on an encrypted volume only.
func TestStageFormatsNoiseOnAnEncryptedVolumeOnly(t *testing.T) {
	for _, encrypted := range []bool{true, false} {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, volume.GiB)
		d.conn.Encrypted = encrypted
		d.content = filesystem.Signature{State: filesystem.StateForeign, IsRandom: true}
		if err := b.stage(t.Context()); (err == nil) != encrypted {
			t.Errorf("encrypted %t: %v", encrypted, err)
		}
	}
}
