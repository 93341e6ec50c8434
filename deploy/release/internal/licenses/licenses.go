// Package licenses finds the license texts of Go modules and recognizes the licenses.
package licenses

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licensecheck"

	"github.com/growvol/growvol/deploy/release/internal/sbom"
)

// Finder finds the texts in the module cache.
type Finder struct {
	dirs map[sbom.Module]string
}

// Text is a file with a license or a notice.
type Text struct {
	Name    string // relative to the module
	Content []byte
}

// NewFinder returns a finder for the modules that the main module in the current directory
// requires.
func NewFinder(ctx context.Context) (Finder, error) {
	list, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Path}} {{.Version}} {{.Dir}}", "all").Output()
	if err != nil {
		return Finder{}, fmt.Errorf("list the modules: %w", err)
	}
	f := Finder{dirs: map[sbom.Module]string{}}
	for line := range strings.Lines(string(list)) {
		if fields := strings.Fields(line); len(fields) == 3 {
			f.dirs[sbom.Module{Path: fields[0], Version: fields[1]}] = fields[2]
		}
	}
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT", "GOVERSION").Output()
	if err != nil {
		return Finder{}, fmt.Errorf("find Go: %w", err)
	}
	fields := strings.Fields(string(root))
	f.dirs[sbom.Module{Path: sbom.StandardLibrary, Version: strings.TrimPrefix(fields[1], "go")}] = fields[0]
	return f, nil
}

// namePattern matches the names of files with licenses and notices.
const namePattern = `(?i)^(licen[cs]e|copying|notice|patents|authors)([.-].*)?$`

// Texts returns the license texts of a module. It fails if the root of the module has none.
func (f Finder) Texts(m sbom.Module) ([]Text, error) {
	dir, ok := f.dirs[m]
	if !ok {
		return nil, fmt.Errorf("module %s %s: the module cache does not have it", m.Path, m.Version)
	}
	pattern := regexp.MustCompile(namePattern)
	var texts []Text
	root := os.DirFS(dir)
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != "." && (m.Path == sbom.StandardLibrary || path.Base(name) == "testdata"):
			return fs.SkipDir
		case !entry.Type().IsRegular() || !pattern.MatchString(path.Base(name)) || path.Ext(name) == ".go":
			return nil
		}
		content, err := fs.ReadFile(root, name)
		texts = append(texts, Text{Name: filepath.ToSlash(name), Content: content})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("license of %s %s: %w", m.Path, m.Version, err)
	}
	if len(recognize(texts)) == 0 {
		return nil, fmt.Errorf("license of %s %s: its files have no license that is known: "+
			"(next step: read them in %s, and replace the dependency if it has no license)", m.Path, m.Version, dir)
	}
	return texts, nil
}

// Names returns the SPDX identifiers of a module's licenses, sorted.
func (f Finder) Names(m sbom.Module) ([]string, error) {
	texts, err := f.Texts(m)
	return recognize(texts), err
}

// recognize returns the identifiers of the licenses in the root of a module.
func recognize(texts []Text) []string {
	var names []string
	for _, text := range texts {
		if strings.Contains(text.Name, "/") {
			continue
		}
		for _, match := range licensecheck.Scan(text.Content).Match {
			if !match.IsURL {
				names = append(names, match.ID)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
