package volume

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is an amount of storage in bytes. Zero means "not given" wherever a size is
// optional.
type Size int64

// Binary units. CSI, Kubernetes and Cinder all count in powers of 1024.
const (
	Byte Size = 1
	KiB       = 1024 * Byte
	MiB       = 1024 * KiB
	GiB       = 1024 * MiB
	TiB       = 1024 * GiB
)

// Bytes returns the size as a plain number of bytes.
func (s Size) Bytes() int64 { return int64(s) }

// String formats the size in the largest unit that divides it exactly ("6 GiB"). A size
// that no unit divides is rounded, with the exact bytes after it ("1.5 GiB (1610613248 B)").
// Two different sizes never have the same text, because error messages compare them.
func (s Size) String() string {
	if s < 0 {
		return strconv.FormatInt(int64(s), 10) + " B"
	}
	units := []struct {
		size Size
		name string
	}{{TiB, "TiB"}, {GiB, "GiB"}, {MiB, "MiB"}, {KiB, "KiB"}}
	for _, u := range units {
		if s < u.size {
			continue
		}
		if s%u.size == 0 {
			return fmt.Sprintf("%d %s", s/u.size, u.name)
		}
		// A short whole number of the next smaller unit reads better than a fraction:
		// 1536 MiB, not 1.5 GiB (… B).
		if next := u.size / 1024; s%next == 0 && s/next < 10000 && next > Byte {
			continue
		}
		f := strconv.FormatFloat(float64(s)/float64(u.size), 'f', 2, 64)
		f = strings.TrimRight(strings.TrimRight(f, "0"), ".")
		return fmt.Sprintf("%s %s (%d B)", f, u.name, int64(s))
	}
	return fmt.Sprintf("%d B", int64(s))
}

// RoundUp returns the smallest multiple of granularity that is not below s; with a
// granularity of one byte or less that is s. ok is false if the result overflows an int64.
func (s Size) RoundUp(granularity Size) (rounded Size, ok bool) {
	if granularity <= 1 || s%granularity == 0 {
		return s, true
	}
	up := granularity - s%granularity
	if s > math.MaxInt64-up {
		return 0, false
	}
	return s + up, true
}

// RoundDown returns the largest multiple of granularity that is not above s.
func (s Size) RoundDown(granularity Size) Size {
	if granularity <= 1 {
		return s
	}
	return s - s%granularity
}

// Range is a requested capacity (CSI v1.13, CapacityRange): at least Required, at most
// Limit. Zero means no lower or upper bound.
type Range struct {
	Required Size
	Limit    Size
}

// Limits bound the sizes of the volumes that a backend can create.
type Limits struct {
	Granularity Size // volumes are a multiple of it; 0 or 1 byte: any size
	Min         Size // smallest volume; 0: none
	Max         Size // largest volume; 0: none known
	Default     Size // size of a volume whose request names none
}

// Resolve returns the size that satisfies both r and l: the required size, or l.Default,
// rounded up to the granularity. Kinds: Invalid (a negative bound), OutOfRange (no size that
// the backend can create lies in r).
func (r Range) Resolve(l Limits) (Size, error) {
	if r.Required < 0 || r.Limit < 0 {
		return 0, Errorf(KindInvalid, "required size (%d B) and limit (%d B) must not be negative",
			int64(r.Required), int64(r.Limit))
	}
	if r.Limit > 0 && r.Required > r.Limit {
		return 0, Errorf(KindOutOfRange, "the required size %s is above the limit %s", r.Required, r.Limit).
			WithRemedy("set resources.limits.storage of the claim to at least " + r.Required.String() + ", or remove it")
	}
	want := r.Required
	if want == 0 {
		want = l.Default
		if r.Limit > 0 && want > r.Limit {
			want = r.Limit.RoundDown(l.Granularity)
		}
	}
	want = max(want, l.Min, 1)
	size, ok := want.RoundUp(l.Granularity)
	if !ok {
		return 0, Errorf(KindOutOfRange, "the size %s is too large: it cannot be rounded up to a multiple of %s",
			want, l.Granularity)
	}
	if r.Limit > 0 && size > r.Limit {
		return 0, Errorf(KindOutOfRange,
			"the smallest possible size is %s (multiples of %s, at least %s), above the limit %s",
			size, max(l.Granularity, 1), max(l.Min, 1), r.Limit).
			WithRemedy("raise resources.limits.storage of the claim to " + size.String())
	}
	if l.Max > 0 && size > l.Max {
		return 0, Errorf(KindOutOfRange, "the size %s is above the largest size of this backend, %s", size, l.Max).
			WithRemedy("request at most " + l.Max.String() + " in resources.requests.storage of the claim")
	}
	return size, nil
}
