// Package debian reads the Debian packages of growvol's images: it resolves them from the signed
// index of the distribution (index.go), records them in a lock (lock.go), and downloads and
// unpacks exactly those (fetch.go, unpack.go). No script of a package runs.
package debian

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// Package is a package at one version, as a line of the lock has it.
type Package struct {
	Set     string // what the package is for, such as "node"
	Arch    string // amd64 or arm64: that of the image, also for packages of all architectures
	Name    string
	Version string
	SHA256  string // of the .deb file, hexadecimal
	Path    string // of the .deb file on a mirror, such as debian/pool/main/…
}

// Lock is the list of packages.
type Lock []Package

// fieldsOfLine is the number of fields in a line of the lock.
const fieldsOfLine = 6

// ReadLock reads the lock from a file.
func ReadLock(name string) (Lock, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open the lock of packages: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	var lock Lock
	for lines := bufio.NewScanner(f); ; {
		if !lines.Scan() {
			if err := lines.Err(); err != nil {
				return nil, fmt.Errorf("read %s: %w", name, err)
			}
			return lock, nil
		}
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) != fieldsOfLine {
			return nil, fmt.Errorf("%s: a line has %d fields, want %d: %s", name, len(fields), fieldsOfLine, lines.Text())
		}
		lock = append(lock, Package{
			Set: fields[0], Arch: fields[1], Name: fields[2], Version: fields[3], SHA256: fields[4], Path: fields[5],
		})
	}
}

// Write writes the lock with the lines of comment above it.
func (l Lock) Write(w io.Writer, comment []string) error {
	var text strings.Builder
	for _, line := range comment {
		text.WriteString("# " + line + "\n")
	}
	for _, p := range l {
		text.WriteString(strings.Join([]string{p.Set, p.Arch, p.Name, p.Version, p.SHA256, p.Path}, " ") + "\n")
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// Select returns the packages of a set and architecture, sorted by name.
func (l Lock) Select(set, arch string) []Package {
	var selected []Package
	for _, p := range l {
		if p.Set == set && p.Arch == arch {
			selected = append(selected, p)
		}
	}
	slices.SortFunc(selected, func(a, b Package) int { return cmp.Compare(a.Name, b.Name) })
	return selected
}
