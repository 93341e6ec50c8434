package loop

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

const node = "node-1"

func newBackend(t *testing.T, change func(*Options)) *Backend {
	t.Helper()
	o := Options{Dir: t.TempDir(), Node: node}
	if change != nil {
		change(&o)
	}
	b, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// request asks for a blank volume of this size or more.
func request(name string, size volume.Size) volume.CreateRequest {
	return volume.CreateRequest{Name: name, Size: size, Range: volume.Range{Required: size}}
}

func create(t *testing.T, b *Backend, name string, size volume.Size) volume.Volume {
	t.Helper()
	v, err := b.Create(t.Context(), request(name, size))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func attach(t *testing.T, b *Backend, id string) map[string]string {
	t.Helper()
	published, err := b.Attach(t.Context(), volume.AttachRequest{ID: id, Node: node, Access: volume.Access{Mode: volume.AccessSingleNodeWriter}})
	if err != nil {
		t.Fatal(err)
	}
	return published
}

// fill writes text into a volume's file at an offset.
func fill(t *testing.T, b *Backend, id, text string, at int64) {
	t.Helper()
	f, err := os.OpenFile(b.store.data(volumes, id), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt([]byte(text), at)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// content reads from a volume's or snapshot's file.
func content(t *testing.T, b *Backend, c class, id string, at int64, n int) string {
	t.Helper()
	f, err := os.Open(b.store.data(c, id))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read from
	buf := make([]byte, n)
	if _, err := f.ReadAt(buf, at); err != nil {
		t.Fatal(err)
	}
	return string(buf)
}

// wantKind checks an error's kind, and that it says these words.
func wantKind(t *testing.T, err error, kind volume.Kind, words ...string) {
	t.Helper()
	if err == nil || volume.KindOf(err) != kind {
		t.Errorf("got %v (kind %s), want kind %s", err, volume.KindOf(err), kind)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q is not in: %v", w, err)
		}
	}
}

// tree lists the files below the directory.
func tree(t *testing.T, b *Backend) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(b.opts.Dir, func(path string, _ fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(b.opts.Dir, path); strings.Contains(rel, "/") {
			files = append(files, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// objectFiles are the files of complete objects, and the single files among
// them.
func objectFiles(objects ...string) []string {
	var files []string
	for _, o := range objects {
		if strings.HasSuffix(o, ".json") {
			files = append(files, o)
			continue
		}
		files = append(files, o, o+"/data", o+"/meta.json")
	}
	slices.Sort(files)
	return files
}

// plainCopy is a kernel whose filesystem has no reflinks.
type plainCopy struct{ kernel }

func (plainCopy) Clone(_, _ *os.File) error { return unix.EOPNOTSUPP }

// needLoops skips the test where loop devices cannot be made.
func needLoops(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs root and loop devices: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
