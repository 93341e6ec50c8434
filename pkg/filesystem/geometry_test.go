package filesystem

import (
	"testing"

	"github.com/growvol/growvol/pkg/volume"
)

func TestGeometryOfASuperblock(t *testing.T) {
	for _, fs := range []Type{TypeExt2, TypeExt3, TypeExt4, TypeXFS, TypeBtrfs} {
		r := newFormatTest(t)
		r.putFilesystem(fs)
		if g, want := unmountedGeometry(t, r.device), (geometry{fsType: fs, blockSize: 4096, blocks: 1 << 18}); g != want {
			t.Errorf("geometry of %s: %+v; want 2^18 blocks of 4096 bytes", fs, g)
		}
	}
}

// unmountedGeometry reads the size of a filesystem from its superblock.
func unmountedGeometry(t *testing.T, dev Device) geometry {
	t.Helper()
	head, err := readArea(dev, 0, probeLength)
	if err != nil {
		t.Fatal(err)
	}
	if x, ok := parseXFS(head[:xfsLength]); ok {
		return geometry{fsType: TypeXFS, blockSize: volume.Size(x.blockSize), blocks: x.blocks}
	}
	if b, ok := parseBtrfs(head[btrfsOffset : btrfsOffset+btrfsLength]); ok {
		return btrfsGeometry(b.deviceBytes, b.sectorSize)
	}
	e, err := readExtSuperblock(t.Context(), dev)
	if err != nil {
		t.Fatal(err)
	}
	return e.geometry()
}

// mountedGeometry reads the size of a mounted filesystem, as Grow does.
func mountedGeometry(t *testing.T, s *System, dev Device, mountPoint string) geometry {
	t.Helper()
	f, grower, err := s.openGrower(dev, mountPoint)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	g, err := grower.readGeometry(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return g
}
