// Package tree has the files of an image or archive in memory. A tree always becomes a tar file
// with the same bytes, and has the layout of a Debian system: /bin, /sbin and /lib* are links
// to the directories of the same name in /usr.
package tree

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Tree is a set of files by their path, which is relative to the root.
type Tree struct{ files map[string]file }

// file is a file, a directory or a link: the header without name, size and time, and the content.
type file struct {
	header  tar.Header
	content []byte
}

// New returns an empty tree.
func New() *Tree { return &Tree{files: map[string]file{}} }

// NewDebian returns a tree with the links of a Debian system to /usr.
func NewDebian() *Tree {
	t := New()
	for _, dir := range mergedDirs() {
		t.files[dir] = file{header: tar.Header{Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: "usr/" + dir}}
		t.files["usr/"+dir] = directory()
	}
	t.files["usr"] = directory()
	return t
}

// mergedDirs returns the directories that are links to the same names in /usr.
func mergedDirs() []string { return []string{"bin", "lib", "lib64", "sbin"} }

func directory() file { return file{header: tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}} }

// cleanName returns the path of a file relative to the root, below /usr if a link leads there.
func (t *Tree) cleanName(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	first, _, nested := strings.Cut(name, "/")
	if link, ok := t.files[first]; nested && ok && link.header.Typeflag == tar.TypeSymlink {
		return link.header.Linkname + strings.TrimPrefix(name, first)
	}
	return name
}

// AddFile adds a file of root with these permissions, and the directories above it.
func (t *Tree) AddFile(name string, mode int64, content []byte) error {
	return t.add(name, file{header: tar.Header{Typeflag: tar.TypeReg, Mode: mode}, content: content})
}

// AddFiles adds the regular files of from at and below start, below dir, with the permissions 644.
// change returns the content that the tree gets for a file; nil: its own.
func (t *Tree) AddFiles(
	from fs.FS, start, dir string, change func(name string, content []byte) ([]byte, error),
) error {
	return fs.WalkDir(from, start, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(from, name)
		if err == nil && change != nil {
			content, err = change(name, content)
		}
		if err != nil {
			return err
		}
		return t.AddFile(path.Join(dir, name), 0o644, content)
	})
}

// add adds a file. It fails if the tree has another file of that name.
func (t *Tree) add(name string, f file) error {
	name = t.cleanName(name)
	if name == "" {
		return nil // the root itself
	}
	old, exists := t.files[name]
	switch {
	case !exists:
	case old.header.Typeflag == tar.TypeSymlink && slices.Contains(mergedDirs(), name):
		return nil
	case old.header.Typeflag == tar.TypeDir && f.header.Typeflag == tar.TypeDir:
	case !bytes.Equal(old.content, f.content), old.header.Typeflag != f.header.Typeflag,
		old.header.Linkname != f.header.Linkname:
		return fmt.Errorf("add %s: the tree has another file of that name", name)
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if _, ok := t.files[dir]; !ok {
			t.files[dir] = directory()
		}
	}
	t.files[name] = f
	return nil
}

// AddTar adds the files of a tar file whose names wanted accepts.
func (t *Tree) AddTar(r io.Reader, wanted func(name string) bool) error {
	for in := tar.NewReader(r); ; {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read a tar file: %w", err)
		}
		name := strings.TrimPrefix(path.Clean("/"+header.Name), "/")
		if !wanted(name) {
			continue
		}
		content, err := io.ReadAll(in)
		if err != nil {
			return fmt.Errorf("read %s in a tar file: %w", name, err)
		}
		f := file{content: content, header: tar.Header{
			Typeflag: header.Typeflag, Mode: header.Mode, Uid: header.Uid, Gid: header.Gid, Linkname: header.Linkname,
		}}
		switch header.Typeflag {
		case tar.TypeReg, tar.TypeDir, tar.TypeSymlink:
		case tar.TypeLink:
			f.header.Linkname = t.cleanName(header.Linkname)
		default:
			return fmt.Errorf("%s in a tar file is of the type %c, which images do not have", name, header.Typeflag)
		}
		if err := t.add(name, f); err != nil {
			return err
		}
	}
}

// Names returns the paths, sorted.
func (t *Tree) Names() []string { return slices.Sorted(maps.Keys(t.files)) }

// Content returns the content of a file, or nil if the tree has no such file. The directory of the
// file may be a relative link.
func (t *Tree) Content(name string) []byte {
	name = t.cleanName(name)
	if dir := path.Dir(name); t.files[dir].header.Typeflag == tar.TypeSymlink {
		name = t.cleanName(path.Join(path.Dir(dir), t.files[dir].header.Linkname, path.Base(name)))
	}
	return t.files[name].content
}

// WriteTar writes the tree as a tar file in which every file has the given time. Hard links
// follow the files, so that their targets exist when they are unpacked.
func (t *Tree) WriteTar(w io.Writer, modified time.Time) error {
	out := tar.NewWriter(w)
	for _, links := range []bool{false, true} {
		for _, name := range t.Names() {
			f := t.files[name]
			if (f.header.Typeflag == tar.TypeLink) != links {
				continue
			}
			header := f.header
			header.Name, header.Size, header.ModTime = name, int64(len(f.content)), modified.UTC().Truncate(time.Second)
			header.Format = tar.FormatPAX
			if header.Typeflag == tar.TypeDir {
				header.Name += "/"
			}
			if err := out.WriteHeader(&header); err != nil {
				return fmt.Errorf("write %s to a tar file: %w", name, err)
			}
			if _, err := out.Write(f.content); err != nil {
				return fmt.Errorf("write %s to a tar file: %w", name, err)
			}
		}
	}
	return out.Close()
}

// Unpack writes the tree below dir, without owners.
func (t *Tree) Unpack(dir string) error {
	for _, links := range []bool{false, true} {
		for _, name := range t.Names() {
			f := t.files[name]
			if (f.header.Typeflag == tar.TypeLink) != links {
				continue
			}
			if err := f.unpack(dir, name); err != nil {
				return fmt.Errorf("unpack %s: %w", name, err)
			}
		}
	}
	return nil
}

func (f file) unpack(dir, name string) error {
	to := filepath.Join(dir, name)
	switch f.header.Typeflag {
	case tar.TypeDir:
		return os.MkdirAll(to, os.FileMode(f.header.Mode&0o777)|0o700) //nolint:gosec // a mode
	case tar.TypeSymlink:
		return os.Symlink(f.header.Linkname, to)
	case tar.TypeLink:
		return os.Link(filepath.Join(dir, f.header.Linkname), to)
	}
	return os.WriteFile(to, f.content, os.FileMode(f.header.Mode&0o777)) //nolint:gosec // a mode
}
