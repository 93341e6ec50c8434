package initrd

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// libraryDirs returns the directories that Debian's dynamic loader searches without its
// cache, which is not part of the image.
func libraryDirs() []string {
	return []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"}
}

// requiredLibraries returns the paths of the dynamic loader and the shared
// libraries that a program needs to start. A static program needs none.
func requiredLibraries(program string) ([]string, error) {
	f, err := elf.Open(program)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", program, err)
	}
	defer f.Close() //nolint:errcheck // only read from
	var paths []string
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		name := make([]byte, p.Filesz)
		if _, err := p.ReadAt(name, 0); err != nil {
			return nil, fmt.Errorf("%s: %w", program, err)
		}
		paths = append(paths, string(name[:len(name)-1]))
	}
	names, err := f.ImportedLibraries()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", program, err)
	}
	for _, n := range names {
		path, err := findLibrary(n)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", program, err)
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// findLibrary returns the path of a shared library on this machine.
func findLibrary(name string) (string, error) {
	for _, dir := range libraryDirs() {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		} else if !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	return "", fmt.Errorf("shared library %s is not on this machine", name)
}
