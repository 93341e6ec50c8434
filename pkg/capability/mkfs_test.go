package capability

import (
	"slices"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
)

func TestSplitMkfsOptions(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"":                                    nil,
		" ":                                   nil,
		"-K":                                  {"-K"},
		"-E nodiscard,stride=4 -m 0":          {"-E", "nodiscard,stride=4", "-m", "0"},
		"-E nodiscard,-O ^metadata_csum":      {"-E", "nodiscard", "-O", "^metadata_csum"}, // as in cinder-csi-plugin
		"-E nodiscard, -O ^a,b ,\t--x=1,2, ":  {"-E", "nodiscard", "-O", "^a,b", "--x=1,2"},
		"--unsupported,-m crc=1,finobt=0,-i,": {"--unsupported", "-m", "crc=1,finobt=0", "-i"},
	} {
		if got := SplitMkfsOptions(text); !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestMinFilesystemSize(t *testing.T) {
	for fsType, want := range map[string]volume.Size{"xfs": 300 * volume.MiB, " XFS ": 300 * volume.MiB, "": 0, "zfs": 0} {
		if got := MinFilesystemSize(fsType); got != want {
			t.Errorf("MinFilesystemSize(%q): got %s, want %s", fsType, got, want)
		}
	}
}
