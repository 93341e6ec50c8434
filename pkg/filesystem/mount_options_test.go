package filesystem

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseMountOptions(t *testing.T) {
	for _, tc := range []struct {
		options []string
		flags   uintptr
		data    string
	}{
		{nil, 0, ""},
		{[]string{"defaults", "rw", "_netdev", "x-systemd.automount", "nofail"}, 0, ""},
		{[]string{"ro", "noatime"}, unix.MS_RDONLY | unix.MS_NOATIME, ""},
		{[]string{"ro,rw"}, 0, ""},
		{[]string{"rw", "ro"}, unix.MS_RDONLY, ""},
		{[]string{"relatime", "noatime"}, unix.MS_NOATIME, ""},
		{
			[]string{"nosuid,nodev,noexec", "discard", "errors=remount-ro"},
			unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC,
			"discard,errors=remount-ro",
		},
		{
			[]string{`context="system_u:object_r:container_file_t:s0:c1,c2"`, "sync"},
			unix.MS_SYNCHRONOUS,
			`context="system_u:object_r:container_file_t:s0:c1,c2"`,
		},
		{[]string{"", "comment=ro", "nouuid"}, 0, "nouuid"},
	} {
		if flags, data := parseMountOptions(tc.options); flags != tc.flags || data != tc.data {
			t.Errorf("%q: %#x %q, want %#x %q", tc.options, flags, data, tc.flags, tc.data)
		}
	}
}

func TestRemountFlags(t *testing.T) {
	// 0x2000 is ST_NOSYMFOLLOW
	st := int64(unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC | unix.ST_NOATIME |
		unix.ST_NODIRATIME | unix.ST_RELATIME | 0x2000 | 0x20)
	want := uintptr(unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME |
		unix.MS_NODIRATIME | unix.MS_RELATIME | unix.MS_NOSYMFOLLOW)
	if got := remountFlags(st); got != want {
		t.Errorf("%#x, want %#x", got, want)
	}
	if got := remountFlags(0); got != 0 {
		t.Errorf("flags of a mount without flags: %#x, want 0", got)
	}
}
