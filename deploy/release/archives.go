package main

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/growvol/growvol/deploy/release/internal/sbom"
	"github.com/growvol/growvol/deploy/release/internal/tree"
)

// makeBinaries copies the static programs of the images into the release, and this program, with
// which a machine without a compiler pushes the images.
func (b build) makeBinaries(ctx context.Context) error {
	for _, arch := range b.archs {
		to := platform{"linux", arch}
		dir, err := b.compile(ctx, to, pluginNames()...)
		if err != nil {
			return err
		}
		if err := b.makeOwnBinary(ctx, to); err != nil {
			return err
		}
		for _, name := range pluginNames() {
			content, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			file := b.path(fmt.Sprintf("%s_%s_%s", name, b.version, to))
			if err := os.WriteFile(file, content, 0o755); err != nil {
				return err
			}
		}
	}
	return nil
}

// makeOwnBinary compiles this program into the release.
func (b build) makeOwnBinary(ctx context.Context, to platform) error {
	name := b.path(fmt.Sprintf("growvol-release_%s_%s", b.version, to))
	if err := b.goBuild(ctx, to, map[string]string{"CGO_ENABLED": "0"}, "-o", name, "./deploy/release"); err != nil {
		return err
	}
	return b.recordModules(name)
}

// writeTarGz writes a tree as a compressed tar file of the release.
func (b build) writeTarGz(name string, files *tree.Tree) error {
	f, err := os.Create(b.path(name))
	if err != nil {
		return err
	}
	packed := gzip.NewWriter(f) // its header has neither name nor time
	return errors.Join(files.WriteTar(packed, b.source.time), packed.Close(), f.Close())
}

// writeZip writes files as a zip archive of the release.
func (b build) writeZip(name string, files *tree.Tree) error {
	var packed bytes.Buffer
	archive := zip.NewWriter(&packed)
	for _, member := range files.Names() {
		header := &zip.FileHeader{Name: member, Method: zip.Deflate, Modified: b.source.time}
		header.SetMode(0o755)
		w, err := archive.CreateHeader(header)
		if err != nil {
			return err
		}
		if _, err := w.Write(files.Content(member)); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return os.WriteFile(b.path(name), packed.Bytes(), 0o644) //nolint:gosec // everybody may read it
}

// makeDocs writes an archive with the documentation and the examples, whose commands need no other
// file of the sources but those of the release.
func (b build) makeDocs() error {
	files, err := b.docs()
	if err != nil {
		return err
	}
	return b.writeTarGz(fmt.Sprintf("growvol_%s_docs.tar.gz", b.version), files)
}

// docs returns the documentation and the examples, below growvol-VERSION.
func (b build) docs() (*tree.Tree, error) {
	files := tree.New()
	for _, start := range []string{"CHANGELOG.md", "LICENSE", "README.md", "docs", "examples"} {
		err := files.AddFiles(os.DirFS("."), start, "growvol-"+b.version, nil)
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

// makeLicenses writes the licenses of all Go modules in the release, and growvol's own.
func (b build) makeLicenses() error {
	files := tree.New()
	if err := b.addLicenses(files, "", slices.Collect(maps.Keys(b.modules))); err != nil {
		return err
	}
	return b.writeTarGz(fmt.Sprintf("growvol_%s_licenses.tar.gz", b.version), files)
}

// addLicenses adds growvol's license and those of Go modules below dir.
func (b build) addLicenses(files *tree.Tree, dir string, modules []sbom.Module) error {
	own, err := os.ReadFile("LICENSE")
	if err != nil {
		return err
	}
	if err := files.AddFile(path.Join(dir, "LICENSE"), 0o644, own); err != nil {
		return err
	}
	for _, module := range modules {
		texts, err := b.licenses.Texts(module)
		if err != nil {
			return err
		}
		for _, text := range texts {
			name := path.Join(dir, module.Path+"@"+module.Version, text.Name)
			if err := files.AddFile(name, 0o644, text.Content); err != nil {
				return err
			}
		}
	}
	return nil
}

// recordModules adds the modules of a program to those whose licenses the release has.
func (b build) recordModules(program string) error {
	modules, err := sbom.Modules(program)
	for _, module := range modules {
		b.modules[module] = true
	}
	return err
}

// makeChecksums writes the SHA-256 of all files, in the form that `sha256sum --check` reads.
func (b build) makeChecksums() error {
	entries, err := os.ReadDir(b.out)
	if err != nil {
		return err
	}
	var lines []string
	for _, entry := range entries {
		if entry.Name() == markerFile {
			continue
		}
		sum, err := fileSum(b.path(entry.Name()))
		if err != nil {
			return err
		}
		lines = append(lines, sum+"  "+entry.Name()+"\n")
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[2*sha256.Size:], b[2*sha256.Size:]) })
	return os.WriteFile(b.path(markerFile), []byte(strings.Join(lines, "")), 0o644) //nolint:gosec // everybody may read it
}

// fileSum returns the SHA-256 of a file, hexadecimal.
func fileSum(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
