package tree_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/deploy/release/internal/tree"
)

// all accepts every file.
func all(string) bool { return true }

// packed returns a tar file with the headers, in which the content of a regular file is its name.
func packed(t *testing.T, headers ...tar.Header) io.Reader {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, header := range headers {
		if header.Typeflag == tar.TypeReg {
			header.Size = int64(len(header.Name))
		}
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if header.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, header.Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &out
}

// written returns the members of the tree's tar file in their order, as TYPE NAME>LINK.
func written(t *testing.T, files *tree.Tree) []string {
	t.Helper()
	var out bytes.Buffer
	if err := files.WriteTar(&out, time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
	var members []string
	for in := tar.NewReader(&out); ; {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			return members
		}
		if err != nil {
			t.Fatal(err)
		}
		if !header.ModTime.Equal(time.Unix(1e9, 0)) {
			t.Errorf("%s has the time %v, want that of the tree", header.Name, header.ModTime)
		}
		members = append(members, string(header.Typeflag)+" "+header.Name+">"+header.Linkname)
	}
}

// TestFilesOfRootDirectoriesAreInUsr checks that packages which still have /sbin and /lib get the
// layout of a Debian system, and that hard links follow their targets.
func TestFilesOfRootDirectoriesAreInUsr(t *testing.T) {
	files := tree.NewDebian()
	err := files.AddTar(packed(t,
		tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755},
		tar.Header{Typeflag: tar.TypeDir, Name: "./sbin/", Mode: 0o755},
		tar.Header{Typeflag: tar.TypeReg, Name: "./sbin/mke2fs", Mode: 0o755},
		tar.Header{Typeflag: tar.TypeLink, Name: "./sbin/a", Linkname: "./sbin/mke2fs"},
	), all)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"2 bin>usr/bin", "2 lib>usr/lib", "2 lib64>usr/lib64", "2 sbin>usr/sbin", "5 usr/>", "5 usr/bin/>", "5 usr/lib/>",
		"5 usr/lib64/>", "5 usr/sbin/>", "0 usr/sbin/mke2fs>", "1 usr/sbin/a>usr/sbin/mke2fs",
	}
	if got := written(t, files); !slices.Equal(got, want) {
		t.Errorf("got the members\n%q, want\n%q", got, want)
	}
}

func TestContentOfAFileBelowALink(t *testing.T) {
	files := tree.New()
	if err := files.AddFile("doc/gcc/copyright", 0o644, []byte("GPL")); err != nil {
		t.Fatal(err)
	}
	link := tar.Header{Typeflag: tar.TypeSymlink, Name: "./doc/libgcc", Linkname: "gcc"}
	if err := files.AddTar(packed(t, link), all); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"doc/libgcc/copyright": "GPL", "doc/libgcc/absent": "", "doc/other/copyright": "",
	} {
		if got := string(files.Content(name)); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestTarDependsOnlyOnContent(t *testing.T) {
	var first, second bytes.Buffer
	for _, order := range []struct {
		names []string
		out   *bytes.Buffer
	}{{[]string{"a/b", "c"}, &first}, {[]string{"c", "a/b"}, &second}} {
		files := tree.New()
		for _, name := range order.names {
			if err := files.AddFile(name, 0o644, []byte(name)); err != nil {
				t.Fatal(err)
			}
		}
		if err := files.WriteTar(order.out, time.Unix(1e9, 123)); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two trees with the same files became different tar files")
	}
}

func TestAddRefusesOtherFileOfSameName(t *testing.T) {
	files := tree.New()
	for _, content := range []string{"1", "1"} {
		if err := files.AddFile("a", 0o644, []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := files.AddFile("a", 0o644, []byte("2")); err == nil || !strings.Contains(err.Error(), "another file") {
		t.Errorf("AddFile: got %v, want an error for the other content", err)
	}
	if err := files.AddTar(packed(t, tar.Header{Typeflag: tar.TypeChar, Name: "dev/null"}), all); err == nil {
		t.Error("AddTar took a device, want an error")
	}
}
