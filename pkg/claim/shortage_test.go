package claim

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/growvol/growvol/pkg/volume"
)

// reading returns a claim of the size whose volume has a filesystem of the type, for which kubelet
// reports the bytes and inodes. Tests of the overhead of filesystems use it.
func reading(size string, fsType string, shown volume.Size, inodes uint64) Objects {
	o := withFilesystem(withPod(bound(size)), shown)
	o.Claim.Status.Capacity = storage(size)
	o.Volume.Value.Spec.CSI.FSType = fsType
	o.Stats.Value.Inodes = inodes
	return o
}

// The bytes that df shows of filesystems that fill their devices: measured with mkfs.ext4 of
// e2fsprogs 1.47.0 (dumpe2fs: blocks without overhead clusters) and mkfs.xfs of xfsprogs 6.1.0
// (xfs_db: dblocks without logblocks).
func TestOwnTablesAreNotMissing(t *testing.T) {
	for _, test := range []struct {
		size, fsType string
		shown        volume.Size
		inodes       uint64
	}{
		{"64Mi", "ext4", 57381888, 16384},
		{"300Mi", "ext4", 284285952, 76912},
		{"1Gi", "ext4", 1020702720, 65536},
		{"2Gi", "ext4", 2040373248, 131072},
		{"5Gi", "ext4", 5196382208, 327680},
		{"16Gi", "ext4", 16729894912, 1048576},
		{"40Gi", "ext4", 41956900864, 2621440},
		{"100Gi", "ext4", 100056096768, 26214400}, // mkfs.ext4 -i 4096
		{"100Gi", "ext4", 106347552768, 1638400},  // mkfs.ext4 -i 65536
		{"128Gi", "ext4", 134145380352, 8388608},
		{"1Ti", "ext4", 1081101176832, 67108864},
		{"4Ti", "ext4", 4362206093312, 134217728},
		{"300Mi", "xfs", (76800 - 16384) * 4096, 0},
		{"1Gi", "xfs", (262144 - 16384) * 4096, 0},
		{"40Gi", "xfs", (10485760 - 16384) * 4096, 0},
		{"1Ti", "xfs", (268435456 - 131072) * 4096, 0},
		{"4Ti", "xfs", (1073741820 - 521728) * 4096, 0},
		{"10Gi", "btrfs", 10 * volume.GiB, 0},
		{"10Gi", "btrfs", 10*volume.GiB - 16*volume.MiB, 0}, // in a LUKS container
		{"100Gi", "", 100056096768, 26214400},
	} {
		o := reading(test.size, test.fsType, test.shown, test.inodes)
		if got := NewStatus(o).Missing; got != 0 {
			t.Errorf("%s of %s that shows %s: got %s missing, want none", test.fsType, test.size, test.shown, got)
		}
	}
}

// A filesystem that has not grown lacks at most the difference of the devices, and the reported
// bytes are close to it.
func TestMissingBytes(t *testing.T) {
	for _, test := range []struct {
		size, fsType string
		shown        volume.Size
		inodes       uint64
		device       volume.Size // the filesystem's true size
		tolerance    volume.Size
	}{
		{"2Gi", "ext4", 1020702720, 65536, volume.GiB, 64 * volume.MiB},
		{"17Gi", "ext4", 16729894912, 1048576, 16 * volume.GiB, 128 * volume.MiB},
		{"100Gi", "ext4", 16729894912, 1048576, 16 * volume.GiB, 128 * volume.MiB},
		{"130Gi", "ext4", 134145380352, 8388608, 128 * volume.GiB, 256 * volume.MiB},
		{"4Ti", "ext4", 1081101176832, 67108864, volume.TiB, volume.GiB},
		{"2Gi", "xfs", (262144 - 16384) * 4096, 0, volume.GiB, 64 * volume.MiB},
		{"50Gi", "xfs", (10485760 - 16384) * 4096, 0, 40 * volume.GiB, 2 * volume.GiB},
		{"11Gi", "btrfs", 10 * volume.GiB, 0, 10 * volume.GiB, 32 * volume.MiB},
		{"200Gi", "", 100056096768, 26214400, 100 * volume.GiB, 2 * volume.GiB},
	} {
		s := NewStatus(reading(test.size, test.fsType, test.shown, test.inodes))
		trueMissing := Capacity(reading(test.size, test.fsType, 0, 0).Claim) - test.device
		if s.Missing > trueMissing || s.Missing < trueMissing-test.tolerance {
			t.Errorf("%s of %s on a claim of %s: got %s missing, want %s or up to %s less",
				test.fsType, test.device, test.size, s.Missing, trueMissing, test.tolerance)
		}
	}
}

func TestMissingBytesOfRawBlockVolume(t *testing.T) {
	o := reading("2Gi", "", volume.GiB, 0)
	mode := corev1.PersistentVolumeBlock
	o.Claim.Spec.VolumeMode = &mode
	if got, want := NewStatus(o).Missing, volume.GiB-MaxUnused; got != want {
		t.Errorf("got %s missing, want %s", got, want)
	}
}

// A reading from before the growth, and a claim that is not bound, say nothing about the bytes.
func TestNothingIsMissingByAnOldReading(t *testing.T) {
	old := short(now.Add(-10 * time.Second)) // the reading is 20 seconds old
	if got := NewStatus(old).Missing; got != 0 {
		t.Errorf("got %s missing by a reading older than the growth, want none", got)
	}
	recent := short(now.Add(-time.Hour))
	if got := NewStatus(recent).Missing; got == 0 {
		t.Error("got nothing missing by a reading newer than the growth, want 416 MiB")
	}
	recent.Claim.Status.Phase = corev1.ClaimLost
	if got := NewStatus(recent).Missing; got != 0 {
		t.Errorf("got %s missing of a lost claim, want none", got)
	}
}
