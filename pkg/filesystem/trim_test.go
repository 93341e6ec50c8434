package filesystem

import (
	"context"
	"math"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// trimRequest asks for a trim of the fake filesystem.
func trimRequest(k *fakeKernel) TrimRequest {
	return TrimRequest{Device: k.device(), MountPoint: testMount}
}

func TestTrimWorksInPortions(t *testing.T) {
	whole := []trimRange{{length: math.MaxInt64}}
	var eight, four []trimRange
	for n := range uint64(8) {
		eight = append(eight, trimRange{start: n << 30, length: 1 << 30})
	}
	for n := range uint64(4) {
		four = append(four, trimRange{start: n << 31, length: 2 << 30})
	}
	for fs, want := range map[Type][]trimRange{
		TypeExt3: eight, TypeExt4: eight,
		TypeXFS:   four, // its allocation groups
		TypeBtrfs: whole,
	} {
		t.Run(string(fs), func(t *testing.T) {
			k, s, m := newFakeFilesystem(t, fs, 8*volume.GiB, 8*volume.GiB)
			trimmed, err := s.Trim(t.Context(), trimRequest(k))
			if err != nil || trimmed != 2*volume.GiB {
				t.Errorf("discarded %s, %v; want 2 GiB, the sum of what the kernel reports", trimmed, err)
			}
			if !slices.Equal(m.trims, want) {
				t.Errorf("trimmed the ranges %v, want %v", m.trims, want)
			}
		})
	}
}

func TestTrimEndsWithItsContext(t *testing.T) {
	k, s, m := newFakeFilesystem(t, TypeExt4, 8*volume.GiB, 8*volume.GiB)
	ctx, cancel := context.WithCancel(t.Context())
	m.duringTrim = func() {
		if len(m.trims) == 3 {
			cancel()
		}
	}
	trimmed, err := s.Trim(ctx, trimRequest(k))
	volumetest.WantKind(t, err, volume.KindCanceled, "has ended at 3 GiB of 8 GiB, after discarding 768 MiB")
	if trimmed != 768*volume.MiB || len(m.trims) != 3 {
		t.Errorf("discarded %s in %d portions, want 768 MiB in 3", trimmed, len(m.trims))
	}
}

func TestTrimFails(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(k *fakeKernel, m *fakeMount)
		kind   volume.Kind
		text   string
	}{
		"device without discard": {
			func(k *fakeKernel, _ *fakeMount) { k.errors["trim"] = []error{unix.EOPNOTSUPP} }, volume.KindUnsupported,
			"does not discard",
		},
		"filesystem without trim": {
			func(k *fakeKernel, _ *fakeMount) { k.errors["trim"] = []error{unix.ENOTTY} }, volume.KindUnsupported,
			"does not discard",
		},
		"became read-only": {
			func(k *fakeKernel, _ *fakeMount) { k.errors["trim"] = []error{unix.EROFS} }, volume.KindUnsupported, "is read-only",
		},
		"without CAP_SYS_ADMIN": {
			func(k *fakeKernel, _ *fakeMount) { k.errors["trim"] = []error{unix.EPERM} }, volume.KindInternal, "CAP_SYS_ADMIN",
		},
		"shut down": {
			func(k *fakeKernel, _ *fakeMount) { k.errors["trim"] = []error{unix.EIO} }, volume.KindPrecondition, "has shut down",
		},
		"other error": {
			func(k *fakeKernel, _ *fakeMount) { k.errors["trim"] = []error{unix.ENOMEM} }, volume.KindInternal, "FITRIM",
		},
		"mount is read-only": {
			func(k *fakeKernel, _ *fakeMount) { k.table[0].Options = []string{"ro"} }, volume.KindUnsupported, "is read-only",
		},
		"device is read-only": {
			func(k *fakeKernel, _ *fakeMount) { k.device().isReadOnly = true }, volume.KindUnsupported, "is read-only",
		},
		"plain directory": {
			func(_ *fakeKernel, m *fakeMount) { m.st.isRoot = false }, volume.KindPrecondition, "no filesystem is mounted",
		},
	} {
		t.Run(name, func(t *testing.T) {
			k, s, m := newFakeFilesystem(t, TypeXFS, volume.GiB, volume.GiB)
			tc.change(k, m)
			trimmed, err := s.Trim(t.Context(), trimRequest(k))
			volumetest.WantKind(t, err, tc.kind, tc.text)
			if trimmed != 0 {
				t.Errorf("%s were discarded, want nothing", trimmed)
			}
		})
	}
}
