package volume

import (
	"math"
	"testing"
)

func TestSizeString(t *testing.T) {
	for size, want := range map[Size]string{
		0:                    "0 B",
		1023:                 "1023 B",
		KiB:                  "1 KiB",
		GiB:                  "1 GiB",
		6 * GiB:              "6 GiB",
		GiB + 512*MiB:        "1536 MiB",
		GiB + KiB:            "1 GiB (1073742848 B)",
		GiB + 512*MiB + 1:    "1.5 GiB (1610612737 B)",
		10*TiB + GiB:         "10 TiB (10996190019584 B)",
		-5:                   "-5 B",
		Size(math.MaxInt64):  "8388608 TiB (9223372036854775807 B)",
		20*TiB + 512*TiB/512: "21 TiB",
	} {
		if got := size.String(); got != want {
			t.Errorf("Size(%d) = %q, want %q", int64(size), got, want)
		}
	}
}

// FuzzSizeString checks that two sizes never have the same text.
func FuzzSizeString(f *testing.F) {
	f.Add(int64(GiB), int64(GiB+1))
	f.Add(int64(GiB), int64(GiB+KiB))
	f.Fuzz(func(t *testing.T, a, b int64) {
		if a != b && Size(a).String() == Size(b).String() {
			t.Errorf("%d and %d both render as %q", a, b, Size(a))
		}
	})
}

func TestRound(t *testing.T) {
	for _, c := range []struct{ size, granularity, up, down Size }{
		{0, GiB, 0, 0},
		{1, GiB, GiB, 0},
		{GiB, GiB, GiB, GiB},
		{GiB + 1, GiB, 2 * GiB, GiB},
		{GiB + 1, 0, GiB + 1, GiB + 1},
		{GiB + 1, 1, GiB + 1, GiB + 1},
	} {
		if up, ok := c.size.RoundUp(c.granularity); !ok || up != c.up {
			t.Errorf("%d rounded up to %d = %d, %t; want %d", c.size, c.granularity, up, ok, c.up)
		}
		if down := c.size.RoundDown(c.granularity); down != c.down {
			t.Errorf("%d rounded down to %d = %d, want %d", c.size, c.granularity, down, c.down)
		}
	}
	if got, ok := Size(math.MaxInt64).RoundUp(GiB); ok {
		t.Errorf("the largest size rounded up to 1 GiB = %d: overflowed in silence", got)
	}
}

func TestResolve(t *testing.T) {
	whole := Limits{Granularity: GiB, Min: GiB, Max: 100 * GiB, Default: 10 * GiB}
	for _, c := range []struct {
		name   string
		r      Range
		limits Limits
		want   Size
		kind   Kind // when want is zero
	}{
		{"nothing asked: the default", Range{}, whole, 10 * GiB, 0},
		{"exact", Range{Required: 3 * GiB}, whole, 3 * GiB, 0},
		{"rounded up", Range{Required: 3*GiB + 1}, whole, 4 * GiB, 0},
		{"at least the minimum", Range{Required: 1}, whole, GiB, 0},
		{"limit reached exactly", Range{Required: 3*GiB + 1, Limit: 4 * GiB}, whole, 4 * GiB, 0},
		{"only a limit, below the default", Range{Limit: 5 * GiB}, whole, 5 * GiB, 0},
		{"only a limit, above the default", Range{Limit: 50 * GiB}, whole, 10 * GiB, 0},
		{"only a limit that is not a whole granularity", Range{Limit: 5*GiB + 7}, whole, 5 * GiB, 0},
		{
			"the rounded size is above the limit",
			Range{Required: 12 * GiB / 10, Limit: 15 * GiB / 10},
			whole, 0, KindOutOfRange,
		},
		{"limit below the minimum", Range{Limit: MiB}, whole, 0, KindOutOfRange},
		{"above the maximum", Range{Required: 101 * GiB}, whole, 0, KindOutOfRange},
		{"required above limit", Range{Required: 2 * GiB, Limit: GiB}, whole, 0, KindOutOfRange},
		{"negative", Range{Required: -1}, whole, 0, KindInvalid},
		{"too large to round", Range{Required: math.MaxInt64}, Limits{Granularity: GiB}, 0, KindOutOfRange},
		{"no limits of the backend", Range{Required: 12345}, Limits{}, 12345, 0},
	} {
		got, err := c.r.Resolve(c.limits)
		if c.want != 0 {
			if err != nil || got != c.want {
				t.Errorf("%s: %s, %v; want %s", c.name, got, err, c.want)
			}
			continue
		}
		if !IsKind(err, c.kind) {
			t.Errorf("%s: %s, %v; want kind %s", c.name, got, err, c.kind)
		}
	}
}

// FuzzResolve checks that every resolved size lies in the range, is a multiple of the
// granularity and within the backend's bounds.
func FuzzResolve(f *testing.F) {
	f.Add(int64(GiB), int64(0), int64(GiB), int64(0), int64(0), int64(GiB))
	f.Fuzz(func(t *testing.T, required, limit, granularity, lo, hi, def int64) {
		if granularity < 0 || lo < 0 || hi < 0 || def < 0 {
			t.Skip("a backend's limits are not negative")
		}
		r := Range{Size(required), Size(limit)}
		l := Limits{Granularity: Size(granularity), Min: Size(lo), Max: Size(hi), Default: Size(def)}
		got, err := r.Resolve(l)
		if err != nil {
			return
		}
		if got < r.Required || r.Limit > 0 && got > r.Limit || l.Granularity > 0 && got%l.Granularity != 0 || got < l.Min ||
			l.Max > 0 && got > l.Max || got <= 0 {
			t.Errorf("%+v under %+v = %d", r, l, got)
		}
	})
}
