package filesystem

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

func TestGeometryOfAnUnmountedFilesystem(t *testing.T) {
	for _, fs := range []Type{TypeExt2, TypeExt3, TypeExt4, TypeXFS, TypeBtrfs} {
		r := newFormatTest(t)
		r.putFilesystem(fs)
		if g, err := r.system.Geometry(t.Context(), r.device, ""); err != nil ||
			g != (Geometry{Type: fs, BlockSize: 4096, Blocks: 1 << 18}) {
			t.Errorf("geometry of %s: %+v, %v; want 2^18 blocks of 4096 bytes", fs, g, err)
		}
	}
	r := newFormatTest(t)
	_, err := r.system.Geometry(t.Context(), r.device, "")
	wantError(t, err, volume.KindPrecondition, "holds no filesystem", "")
	r.kernel.errors["read"] = []error{unix.EIO}
	_, err = r.system.Geometry(t.Context(), r.device, "")
	wantError(t, err, volume.KindInternal, "cannot be read", "")
}
