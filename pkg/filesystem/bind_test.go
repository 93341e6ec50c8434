package filesystem

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestBindSetsFlagsInOneStep(t *testing.T) {
	for _, tc := range []struct {
		flags []string
		want  string
	}{
		{[]string{"ro", "ext4-data-is-ignored"}, "bind /staging /staging +0x1 -0x0"},
		{[]string{"ro", "nosuid", "nodev", "noexec", "nosymfollow", "noatime"}, "bind /staging /staging +0x20001f -0x70"},
		{[]string{"relatime", "nodiratime"}, "bind /staging /staging +0x80 -0x70"},
		{[]string{"strictatime"}, "bind /staging /staging +0x20 -0x70"},
		{nil, "mount /staging /staging  0x1000 "},
		{[]string{"rw"}, "mount /staging /staging  0x1000 "},
	} {
		k, s, _ := newFakeFilesystem(t, TypeXFS, volume.GiB, volume.GiB)
		err := s.Bind(t.Context(), BindRequest{Source: testMount, Target: testMount, Options: tc.flags})
		if err != nil || !slices.Equal(k.calls, []string{tc.want}) {
			t.Errorf("%q: %v, %q, want %q", tc.flags, err, k.calls, tc.want)
		}
	}
	k, s, _ := newFakeFilesystem(t, TypeXFS, volume.GiB, volume.GiB)
	k.errors["bind"] = []error{unix.ENOENT}
	err := s.Bind(t.Context(), BindRequest{Source: testMount, Target: testMount, Options: []string{"ro"}})
	volumetest.WantKind(t, err, volume.KindInternal, "no such file")
	if len(k.calls) != 1 {
		t.Errorf("calls %q, want the bind alone", k.calls)
	}
}

// TestBindInStepsOnAnOldKernel removes the mount when the second step fails.
func TestBindInStepsOnAnOldKernel(t *testing.T) {
	k, s, m := newFakeFilesystem(t, TypeXFS, volume.GiB, volume.GiB)
	m.flags = unix.ST_NOSUID | unix.ST_NODEV
	req := BindRequest{Source: testMount, Target: testMount, Options: []string{"ro", "ext4-data-is-ignored"}}
	k.errors["bind"] = slices.Repeat([]error{unix.ENOSYS, unix.EPERM, unix.EOPNOTSUPP}, 2)
	if err := s.Bind(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	// MS_BIND; then MS_REMOUNT|MS_BIND|MS_RDONLY|MS_NOSUID|MS_NODEV.
	if want := []string{"mount /staging /staging  0x1000 ", "mount  /staging  0x1027 "}; !slices.Equal(k.calls[1:], want) {
		t.Errorf("%q, want %q", k.calls, want)
	}
	k.calls, k.errors["mount"] = nil, []error{nil, unix.EPERM}
	volumetest.WantKind(t, s.Bind(t.Context(), req), volume.KindInternal, "cannot set the mount flags")
	if len(k.calls) != 4 || k.calls[3] != "unmount /staging" {
		t.Errorf("calls %q, want the bind mount removed", k.calls)
	}
	k.errors["mount"], k.errors["unmount"] = []error{nil, unix.EPERM}, []error{unix.EBUSY}
	volumetest.WantKind(t, s.Bind(t.Context(), req), volume.KindDeadline, "cannot remove the bind mount",
		"uses the target")
	k.calls, k.errors["mount"] = nil, []error{unix.ENOENT}
	volumetest.WantKind(t, s.Bind(t.Context(), req), volume.KindInternal, "no such file")
}
