package loop

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/volume"
)

// testNode is the node of the backends in tests.
const testNode = "node-1"

// openBackend returns a backend in a new directory, unless change sets another one.
func openBackend(t *testing.T, change ...func(*Options)) *Backend {
	t.Helper()
	o := Options{Dir: t.TempDir(), Node: testNode}
	for _, c := range change {
		c(&o)
	}
	b, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// blankRequest requests a blank volume of at least size.
func blankRequest(name string, size volume.Size) volume.CreateRequest {
	return volume.CreateRequest{Name: name, Size: size, Range: volume.Range{Required: size}}
}

func createVolume(t *testing.T, b *Backend, name string, size volume.Size) volume.Volume {
	t.Helper()
	v, err := b.Create(t.Context(), blankRequest(name, size))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// attachRequest requests the attachment of a volume to the test's node for one writer.
func attachRequest(id string) volume.AttachRequest {
	return volume.AttachRequest{VolumeID: id, Node: testNode, Access: volume.Access{Mode: volume.AccessSingleNodeWriter}}
}

func attachVolume(t *testing.T, b *Backend, id string) {
	t.Helper()
	if _, err := b.Attach(t.Context(), attachRequest(id)); err != nil {
		t.Fatal(err)
	}
}

// writeData writes text into a volume's file.
func writeData(t *testing.T, b *Backend, id, text string, offset int64) {
	t.Helper()
	f, err := os.OpenFile(b.store.DataPath(volumedir.Volumes, id), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt([]byte(text), offset)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// wantData fails the test unless a volume's or snapshot's file has the text.
func wantData(t *testing.T, b *Backend, c volumedir.Collection, id, text string, offset int64) {
	t.Helper()
	f, err := os.Open(b.store.DataPath(c, id))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	got := make([]byte, len(text))
	if _, err := f.ReadAt(got, offset); err != nil || string(got) != text {
		t.Errorf("content of %s at byte %d: got %q, %v, want %q", id, offset, got, err, text)
	}
}

// wantFiles fails the test unless the directory has exactly the files of these objects,
// such as "volumes/<id>", and the single files among them, such as
// "volumes/<id>/attachment.json".
func wantFiles(t *testing.T, b *Backend, objects ...string) {
	t.Helper()
	var got, want []string
	err := filepath.WalkDir(b.opts.Dir, func(path string, _ fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(b.opts.Dir, path); strings.Contains(rel, "/") {
			got = append(got, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		want = append(want, o)
		if !strings.HasSuffix(o, ".json") {
			want = append(want, o+"/"+volumedir.DataFile, o+"/"+volumedir.RecordFile)
		}
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("files: got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// noReflink shares blocks as a filesystem without reflinks does.
func noReflink(_, _ *os.File) error { return unix.EOPNOTSUPP }

// The ids of the objects that most tests of several operations use: the volumes "a" and
// "b" and the snapshot "s" of "a".
var (
	volA  = volumedir.Volumes.ID("a")
	volB  = volumedir.Volumes.ID("b")
	snapS = volumedir.Snapshots.ID("s")
)

// createA creates the volume "a" with content.
func createA(t *testing.T, b *Backend) {
	t.Helper()
	createVolume(t, b, "a", volume.MiB)
	writeData(t, b, volA, "content", 0)
}

// createAAndSnapshot creates the volume "a" and its snapshot "s".
func createAAndSnapshot(t *testing.T, b *Backend) {
	t.Helper()
	createA(t, b)
	if err := snapshotA(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

func snapshotA(ctx context.Context, b *Backend) error {
	_, err := b.CreateSnapshot(ctx, volume.SnapshotRequest{Name: "s", VolumeID: volA})
	return err
}

func cloneAToB(ctx context.Context, b *Backend, size volume.Size) error {
	_, err := b.CloneVolume(ctx, volume.CreateRequest{Name: "b", Size: size, Source: volume.Source{VolumeID: volA}})
	return err
}

func restoreSToB(ctx context.Context, b *Backend) error {
	_, err := b.Restore(ctx, volume.CreateRequest{Name: "b", Size: volume.MiB, Source: volume.Source{SnapshotID: snapS}})
	return err
}

// wantCopy fails the test unless the object exists with this size and the content of "a".
func wantCopy(t *testing.T, b *Backend, c volumedir.Collection, id string, size volume.Size) {
	t.Helper()
	o, err := b.store.Load(c, id)
	if err != nil || o.Size != size || o.Name == "" {
		t.Errorf("%s: got %+v, %v, want a name and %s", id, o, err, size)
	}
	wantData(t, b, c, id, "content", 0)
}
