package filesystem

import (
	"context"
	"slices"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// TestGrowOfAShortLastGroupMustShow: a last group that exists grows block by block, however
// short it is, so a size that does not change is an error.
func TestGrowOfAShortLastGroupMustShow(t *testing.T) {
	const from, dev = volume.GiB + 600*4096, volume.GiB + 700*4096
	_, s, m := newFakeFilesystem(t, TypeExt4, from, dev)
	m.ignoresGrowth = true
	_, err := s.Grow(t.Context(), growRequest(s, 0))
	volumetest.WantKind(t, err, volume.KindInternal, "reads back", "kernel log")
	m.ignoresGrowth = false
	if g, err := s.Grow(t.Context(), growRequest(s, 0)); err != nil || g.After != dev {
		t.Fatalf("growth %+v, %v; want a size of %s", g, err, dev)
	}
}

// TestGrowEndsAtAWholeCluster grows a filesystem with bigalloc.
func TestGrowEndsAtAWholeCluster(t *testing.T) {
	k, s, m := newFakeFilesystem(t, TypeExt4, volume.GiB, 2*volume.GiB+33*volume.MiB+20*volume.KiB)
	spec := ext4Spec(volume.GiB)
	spec.logCluster, spec.roCompat = 4, spec.roCompat|0x200
	spec.writeTo(m.device)
	for range 2 {
		if g, err := s.Grow(t.Context(), growRequest(s, 0)); err != nil || g.After != 2*volume.GiB+33*volume.MiB {
			t.Fatalf("growth %+v, %v; want 2 GiB and 33 MiB", g, err)
		}
	}
	if len(k.calls) != 1 {
		t.Errorf("calls: %q", k.calls)
	}
}

// TestGrowLeavesOutAShortTail has devices of which the filesystem cannot use the end.
func TestGrowLeavesOutAShortTail(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fs    Type
		dev   volume.Size
		after volume.Size
		calls int // for two requests
	}{
		{"ext4, less than a block", TypeExt4, volume.GiB + 4095, volume.GiB, 0},
		{"ext4, metadata only", TypeExt4, volume.GiB + 400*volume.KiB, volume.GiB, 0},
		{"ext4, most metadata there can be", TypeExt4, volume.GiB + 6*volume.MiB, volume.GiB + 6*volume.MiB, 1},
		{"ext4, enough", TypeExt4, volume.GiB + 64*volume.MiB + 512, volume.GiB + 64*volume.MiB, 1},
		{"ext4, groups and a short tail", TypeExt4, 2*volume.GiB + 256*volume.KiB, 2 * volume.GiB, 1},
		{"XFS, 63 blocks", TypeXFS, volume.GiB + 63*4096, volume.GiB, 0},
		{"XFS, 64 blocks", TypeXFS, volume.GiB + 64*4096, volume.GiB + 64*4096, 1},
		{"XFS, groups and 63 blocks", TypeXFS, 2*volume.GiB + 63*4096, 2 * volume.GiB, 1},
		{"btrfs, less than a sector", TypeBtrfs, volume.GiB + 4095, volume.GiB, 0},
		{"btrfs, a sector", TypeBtrfs, volume.GiB + 4097, volume.GiB + 4096, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k, s, _ := newFakeFilesystem(t, tc.fs, volume.GiB, tc.dev)
			for range 2 {
				if g, err := s.Grow(t.Context(), growRequest(s, tc.dev)); err != nil || g.After != tc.after {
					t.Fatalf("growth %+v, %v; want a size of %s", g, err, tc.after)
				}
			}
			if len(k.calls) != tc.calls {
				t.Errorf("calls: %q", k.calls)
			}
		})
	}
}

// TestGrowEndsAtTheFormatLimit grows to the end of the format when no more is required.
func TestGrowEndsAtTheFormatLimit(t *testing.T) {
	k, s, _ := newFakeFilesystem(t, TypeExt3, volume.GiB, 20*volume.TiB)
	const end = 16*volume.TiB - 4096
	for _, required := range []volume.Size{0, 16 * volume.TiB} {
		if g, err := s.Grow(t.Context(), growRequest(s, required)); err != nil || g.After != end {
			t.Fatalf("growth to %s: %+v, %v; want a size of %s", required, g, err, end)
		}
	}
	_, err := s.Grow(t.Context(), growRequest(s, 16*volume.TiB+1))
	volumetest.WantKind(t, err, volume.KindOutOfRange, "64bit", "request at most 16 TiB in resources.requests.storage")
	if !slices.Equal(k.calls, []string{"ext4Resize 4294967295"}) {
		t.Errorf("calls: %q", k.calls)
	}
	// A device of exactly 2^32 blocks: a request for all of them stops the kernel with a BUG.
	k, s, _ = newFakeFilesystem(t, TypeExt3, volume.GiB, 16*volume.TiB)
	if g, err := s.Grow(t.Context(), growRequest(s, 16*volume.TiB)); err != nil || g.After != end {
		t.Fatalf("growth on a device of 16 TiB: %+v, %v; want a size of %s", g, err, end)
	}
	if !slices.Equal(k.calls, []string{"ext4Resize 4294967295"}) {
		t.Errorf("calls on a device of 16 TiB: %q", k.calls)
	}
}

func TestGrowReadsASuperblockThatChanges(t *testing.T) {
	_, s, m := newFakeFilesystem(t, TypeExt4, volume.GiB, volume.GiB)
	e := ext4Spec(9 * volume.TiB)
	e.badChecksum = true
	e.writeTo(m.device)
	changing := &changingDevice{fakeDevice: m.device, change: func(reads int) {
		if reads == 3 {
			ext4Spec(volume.GiB).writeTo(m.device)
		}
	}}
	got, err := readExtSuperblock(t.Context(), changing)
	if err != nil || got.size() != volume.GiB || changing.reads != 3 {
		t.Fatalf("%s after %d reads, %v", got.size(), changing.reads, err)
	}
	if g, err := s.Grow(t.Context(), growRequest(s, 0)); err != nil || g.Before != volume.GiB {
		t.Fatalf("growth %+v, %v; want one from 1 GiB", g, err)
	}
	// A checksum that stays wrong is accepted: the kernel renews it late.
	e.blocks = uint64(volume.GiB / 4096)
	e.writeTo(m.device)
	if got, err := readExtSuperblock(t.Context(), m.device); err != nil || got.size() != volume.GiB {
		t.Fatalf("superblock of %s, %v; want 1 GiB", got.size(), err)
	}
	// Without a checksum two reads must agree. If every read differs, the read fails.
	for _, wantReads := range []int{4, 0} {
		changing = &changingDevice{fakeDevice: m.device, change: func(reads int) {
			if reads <= 3 || wantReads == 0 {
				ext3Spec(volume.GiB * volume.Size(reads)).writeTo(m.device)
			}
		}}
		got, err = readExtSuperblock(t.Context(), changing)
		if wantReads == 0 {
			volumetest.WantKind(t, err, volume.KindInternal, "changes with every read", "e2fsck")
		} else if err != nil || got.size() != 3*volume.GiB || changing.reads != wantReads {
			t.Fatalf("%s after %d reads, %v", got.size(), changing.reads, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = readExtSuperblock(ctx, m.device)
	volumetest.WantKind(t, err, volume.KindCanceled, "read the superblock")
}

// changingDevice changes its superblock between the reads.
type changingDevice struct {
	*fakeDevice
	reads  int
	change func(reads int)
}

func (cd *changingDevice) ReadAt(p []byte, at int64) (int, error) {
	cd.reads++
	cd.change(cd.reads)
	return cd.fakeDevice.ReadAt(p, at)
}

// TestXFSGoalIsNeverBelowThePresentSize has a device that is smaller than the filesystem: the
// kernel would shrink it.
func TestXFSGoalIsNeverBelowThePresentSize(t *testing.T) {
	x := &xfsGrower{geometry: xfsGeometry{blockSize: 4096, agBlocks: 65536, agCount: 4, dataBlocks: 262144}}
	for _, device := range []volume.Size{volume.MiB, volume.GiB - volume.MiB, volume.GiB, volume.GiB + 63*4096} {
		if g := x.goal(device); g.blocks != 262144 || g.full != 262144 || g.minResult != 262144 {
			t.Errorf("goal on a device of %s: %+v, want 262144 blocks", device, g)
		}
	}
}
