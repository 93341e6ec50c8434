package initrd

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// BusyBox's cpio unpacks the archive, and a program in it starts with the files of
// the archive alone.
func TestProgramsStartInTheTree(t *testing.T) {
	tree := New()
	for _, p := range []string{"/usr/bin/mount", "/bin/busybox"} {
		if err := tree.AddProgram(p, p); err != nil {
			t.Fatal(err)
		}
	}
	tree.AddFile("/etc/x/y", 0o640, []byte("odd")) // a length that needs padding
	tree.AddLink("/etc/link", "x/y")
	var a, b bytes.Buffer
	for _, to := range []*bytes.Buffer{&a, &b} {
		if err := tree.Encode(to); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("the same tree gives two different archives")
	}
	dir := t.TempDir()
	run := func(stdin []byte, program string, args ...string) string {
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Dir, cmd.Stdin = dir, bytes.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", program, args, err, out)
		}
		return string(out)
	}
	run(a.Bytes(), "busybox", "cpio", "-i", "-d")
	if text, err := os.ReadFile(filepath.Join(dir, "etc/link")); err != nil || string(text) != "odd" {
		t.Errorf("read /etc/link: got %q, %v; want %q", text, err, "odd")
	}
	info, err := os.Stat(filepath.Join(dir, "etc/x/y"))
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("got %v, %v for /etc/x/y, want mode 0640", info, err)
	}
	if out := run(nil, "busybox", "chroot", dir, "/usr/bin/mount", "--version"); !strings.Contains(out, "util-linux") {
		t.Errorf("got %q from mount --version, want util-linux", out)
	}
}

func TestAddLibraryNamesAMissingLibrary(t *testing.T) {
	if err := New().AddLibrary("libnowhere.so.1"); err == nil || !strings.Contains(err.Error(), "libnowhere") {
		t.Errorf("got %v, want an error with the name", err)
	}
}
