package capability

import (
	"slices"
	"testing"
)

func TestMkfsOptions(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"":                                    nil,
		" ":                                   nil,
		"-K":                                  {"-K"},
		"-E nodiscard,stride=4 -m 0":          {"-E", "nodiscard,stride=4", "-m", "0"},
		"-E nodiscard,-O ^metadata_csum":      {"-E", "nodiscard", "-O", "^metadata_csum"}, // as cinder-csi-plugin has it
		"-E nodiscard, -O ^a,b ,\t--x=1,2, ":  {"-E", "nodiscard", "-O", "^a,b", "--x=1,2"},
		"--unsupported,-m crc=1,finobt=0,-i,": {"--unsupported", "-m", "crc=1,finobt=0", "-i"},
	} {
		if got := MkfsOptions(text); !slices.Equal(got, want) {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}
