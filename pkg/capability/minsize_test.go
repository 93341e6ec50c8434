package capability_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/growvol/growvol/pkg/capability"
	"github.com/growvol/growvol/pkg/volume"
)

// made reports whether mkfs makes a filesystem of the type, as it was asked
// for, on a device of this size.
func made(t *testing.T, fstype string, size volume.Size) bool {
	t.Helper()
	args := map[string][]string{"xfs": {"-K", "-q"}, "btrfs": {"-K", "-q"}}[fstype]
	if args == nil {
		args = []string{"-F", "-q", "-b", "4096", "-m", "0"}
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size.Bytes()); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "mkfs."+fstype, append(args, image)...).CombinedOutput(); err != nil { //nolint:gosec // types of this test
		t.Logf("%s of %s: %v: %.200s", fstype, size, err, out)
		return false
	}
	const featureCompat, hasJournal = 1024 + 0x5c, 4 // of ext's superblock
	f, err := os.Open(image)                         //nolint:gosec // made above
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read from
	var features [1]byte
	if _, err := f.ReadAt(features[:], featureCompat); err != nil {
		t.Fatal(err)
	}
	return fstype != "ext3" || features[0]&hasJournal != 0
}

// The minima are those of mkfs: what is refused could not be made, and what is
// let through can.
func TestMinSizeIsThatOfMkfs(t *testing.T) {
	t.Parallel()
	for _, fstype := range []string{"xfs", "btrfs", "ext2", "ext3", "ext4"} {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath("mkfs." + fstype); err != nil {
				t.Skip(err)
			}
			least := capability.MinSize(fstype)
			if !made(t, fstype, least) {
				t.Errorf("a volume of %s is let through, and cannot be made %s", least, fstype)
			}
			if made(t, fstype, least-4*volume.KiB) {
				t.Errorf("a volume of less than %s is refused, and can be made %s", least, fstype)
			}
		})
	}
	for _, fstype := range []string{"", "ntfs"} {
		if got := capability.MinSize(fstype); got != 0 {
			t.Errorf("%q: %s", fstype, got)
		}
	}
}
