package filesystem

import (
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestMkfsOptions(t *testing.T) {
	for _, tc := range []struct {
		fs   Type
		user []string
		want string
	}{
		{TypeExt4, nil, "-b 4096 -E nodiscard"},
		{TypeExt3, []string{"-I", "128"}, "-b 4096 -E nodiscard -I 128"},
		{TypeExt2, []string{"-I 128  -j"}, "-b 4096 -E nodiscard -I 128 -j"},
		{TypeExt4, []string{"-b", "4096", "-m", "1"}, "-b 4096 -E nodiscard -m 1"},
		{TypeExt4, []string{"-E", "lazy_itable_init=0", "-Ediscard"}, "-b 4096 -E nodiscard,lazy_itable_init=0,discard"},
		{TypeExt4, []string{"-O", "^64bit", "-Obigalloc"}, "-b 4096 -E nodiscard -O ^64bit -Obigalloc"},
		{TypeXFS, []string{"-m", "reflink=0"}, "-K -q -m reflink=0"},
		{
			TypeXFS,
			[]string{"-c", "options=/usr/share/xfsprogs/mkfs/lts_6.1.conf"},
			"-K -q -c options=/usr/share/xfsprogs/mkfs/lts_6.1.conf",
		},
		{TypeExt4, []string{"-J", "size=64", "-L", "devices"}, "-b 4096 -E nodiscard -J size=64 -L devices"},
		{TypeXFS, []string{"-l", "size=64m,internal=1"}, "-K -q -l size=64m,internal=1"},
		{TypeBtrfs, nil, "-K"},
	} {
		got, err := mkfsOptions(tc.fs, tc.user)
		if err != nil || strings.Join(got, " ") != tc.want {
			t.Errorf("%s %q: %q, %v; want %q", tc.fs, tc.user, got, err, tc.want)
		}
	}
	for _, tc := range []struct {
		fs   Type
		user []string
		text string
	}{
		{TypeExt4, []string{"-b", "1024"}, "blocks of 4096 bytes"},
		{TypeExt3, []string{"-b1024"}, "blocks of 4096 bytes"},
		{TypeExt4, []string{"-O", "extents,sparse_super2"}, "sparse_super2"},
		{TypeBtrfs, []string{"/dev/sda"}, "names a path"},
		{TypeXFS, []string{"-l", "logdev=/dev/sda"}, "names a path"},
		{TypeExt4, []string{"-d /etc"}, "names a path"},
		{TypeExt4, []string{"-J device=LABEL=journal"}, "names another device"},
		{TypeExt3, []string{"-J", "size=64,device=UUID=0f3a"}, "names another device"},
		{TypeExt4, []string{"-Jdevice=sdb"}, "names another device"},
		{TypeXFS, []string{"-l", "size=64m,logdev=sdb"}, "names another device"},
		{TypeXFS, []string{"-llogdev=sdb"}, "names another device"},
		{TypeXFS, []string{"-r rtdev=sdb"}, "names another device"},
		{TypeXFS, []string{"-d", "name=sdb"}, "names another device"},
		{"zfs", nil, "not supported"},
	} {
		_, err := mkfsOptions(tc.fs, tc.user)
		volumetest.WantKind(t, err, volume.KindInvalid, tc.text)
	}
}
