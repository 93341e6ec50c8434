package volume

import (
	"math"
	"testing"
)

func TestDeviceSize(t *testing.T) {
	plain := Connection{}
	luks := Connection{Granularity: GiB, MaxOverhead: 32 * MiB}
	for _, c := range []struct {
		conn           Connection
		required, want Size
	}{
		{plain, 0, 0},
		{plain, GiB + 1, GiB + 1},
		{plain, math.MaxInt64, math.MaxInt64},
		{luks, 0, 0},
		{luks, -1, 0},
		{luks, 1, GiB - 32*MiB},
		{luks, GiB, GiB - 32*MiB},
		{luks, GiB + 10*MiB, 2*GiB - 32*MiB},
		{luks, 2 * GiB, 2*GiB - 32*MiB},
		{luks, math.MaxInt64, math.MaxInt64},
		{Connection{Granularity: MiB, MaxOverhead: GiB}, MiB, 1}, // invalid, but no negative size
	} {
		if got := c.conn.MinDeviceSize(c.required); got != c.want {
			t.Errorf("%+v: a device for %s has %s, want %s", c.conn, c.required, got, c.want)
		}
	}
}

// FuzzDeviceSize checks that the device of a volume that is too small never passes, with or
// without a header, and that of a large enough volume always does.
func FuzzDeviceSize(f *testing.F) {
	f.Add(int64(GiB+10*MiB), uint16(1), int64(16*MiB))
	f.Add(int64(GiB), uint16(1), int64(0))
	f.Add(int64(2*GiB-MiB), uint16(2), int64(32*MiB))
	f.Fuzz(func(t *testing.T, required int64, gib uint16, header int64) {
		conn := Connection{Granularity: GiB, MaxOverhead: 32 * MiB}
		size := Size(gib) * GiB
		if required <= 0 || header < 0 || Size(header) > conn.MaxOverhead || gib == 0 {
			t.Skip("no requirement, no volume, or no header that exists")
		}
		passes := size-Size(header) >= conn.MinDeviceSize(Size(required))
		if passes != (size >= Size(required)) {
			t.Errorf("a volume of %s with a header of %d B for %d B: passes %t", size, header, required, passes)
		}
	})
}
