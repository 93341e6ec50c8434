package initrd

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// libraryDirs are where Debian's dynamic loader looks, in the same order on
// every machine: the loader's cache is not part of the image.
func libraryDirs() []string {
	return []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"}
}

// requiredLibraries returns the paths of the shared libraries and the loader that a
// program needs to start; none for a static one.
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
