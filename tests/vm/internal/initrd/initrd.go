// Package initrd makes initial RAM filesystems: a root filesystem with programs,
// their shared libraries and other files, as one cpio archive.
package initrd

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Tree is a root filesystem to be encoded. /bin, /sbin, /lib and /lib64 are links
// into /usr, as on Debian.
type Tree struct {
	entries map[string]entry
}

// New returns a tree with the usual directories, /dev/console and /dev/null.
func New() *Tree {
	t := &Tree{entries: map[string]entry{}}
	for _, d := range []string{
		"proc", "sys", "dev", "run", "tmp", "root", "mnt", "etc", "var/lib", "var/tmp",
		"usr/bin", "usr/sbin", "usr/lib", "usr/lib64",
	} {
		t.addDirectory(d)
	}
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		t.AddLink("/"+d, "usr/"+d)
	}
	// The kernel opens it as standard input and output of process 1.
	t.add(entry{name: "dev/console", mode: typeChar | 0o600, major: 5, minor: 1})
	t.add(entry{name: "dev/null", mode: typeChar | 0o666, major: 1, minor: 3})
	return t
}

// AddLink adds a symbolic link at path.
func (t *Tree) AddLink(path, target string) {
	t.add(entry{name: archiveName(path), mode: typeLink | 0o777, content: []byte(target)})
}

// AddFile adds a file with the content.
func (t *Tree) AddFile(path string, mode os.FileMode, content []byte) {
	t.add(entry{name: archiveName(path), mode: typeFile | permissions(mode), content: content})
}

// AddCopy adds a file at path with the content of the file from of this machine. It
// follows links.
func (t *Tree) AddCopy(path, from string, mode os.FileMode) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	t.AddFile(path, mode, content)
	return nil
}

// AddProgram adds an executable file of this machine at path, and the shared
// libraries it needs at their own paths.
func (t *Tree) AddProgram(path, from string) error {
	if err := t.AddCopy(path, from, 0o755); err != nil {
		return err
	}
	content := t.entries[archiveName(path)].content
	if !bytes.HasPrefix(content, []byte("\x7fELF")) {
		return nil // a script
	}
	return t.addLibraries(from)
}

// AddLibrary adds a shared library that programs load by name at run time, and the
// libraries that it needs.
func (t *Tree) AddLibrary(name string) error {
	path, err := findLibrary(name)
	if err != nil {
		return err
	}
	if err := t.AddCopy(path, path, 0o755); err != nil {
		return err
	}
	return t.addLibraries(path)
}

// addLibraries adds the libraries that the file needs, of all levels.
func (t *Tree) addLibraries(of string) error {
	paths, err := requiredLibraries(of)
	if err != nil {
		return err
	}
	for _, p := range paths {
		if t.has(p) {
			continue
		}
		if err := t.AddCopy(p, p, 0o755); err != nil {
			return err
		}
		if err := t.addLibraries(p); err != nil {
			return err
		}
	}
	return nil
}

// Encode writes the archive. Equal trees give equal bytes.
func (t *Tree) Encode(w io.Writer) error {
	entries := make([]entry, 0, len(t.entries))
	for _, name := range slices.Sorted(maps.Keys(t.entries)) { // a directory before its files
		entries = append(entries, t.entries[name])
	}
	if err := writeArchive(w, entries); err != nil {
		return fmt.Errorf("write the initial RAM filesystem: %w", err)
	}
	return nil
}

func (t *Tree) has(path string) bool {
	_, ok := t.entries[archiveName(path)]
	return ok
}

// add adds an entry and its directories.
func (t *Tree) add(e entry) {
	t.addDirectory(filepath.Dir(e.name))
	t.entries[e.name] = e
}

func (t *Tree) addDirectory(name string) {
	if name == "." || t.has("/"+name) {
		return
	}
	t.addDirectory(filepath.Dir(name))
	t.entries[name] = entry{name: name, mode: typeDir | 0o755}
}

// archiveName returns the name of a guest's path in the archive: without the
// leading slash, and below /usr for the directories that are links, because an
// archive cannot have files below a link.
func archiveName(path string) string {
	name := strings.TrimPrefix(filepath.Clean(path), "/")
	first, rest, below := strings.Cut(name, "/")
	if below && slices.Contains([]string{"bin", "sbin", "lib", "lib64"}, first) {
		return "usr/" + first + "/" + rest
	}
	return name
}
