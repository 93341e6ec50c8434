package oci

import (
	"errors"
	"fmt"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/growvol/growvol/deploy/release/internal/tree"
)

// Annotations of an archive with which programs name the images that they read from it.
const (
	annotationTag       = "org.opencontainers.image.ref.name" // skopeo and others
	annotationImageName = "io.containerd.image.name"
)

// WriteArchive writes an OCI archive with the index, whose name in it is name:tag.
func WriteArchive(file string, index v1.ImageIndex, name, tag string, modified time.Time) error {
	dir, err := os.MkdirTemp("", "growvol-image-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a temporary directory
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return fmt.Errorf("write the layout of %s: %w", name, err)
	}
	names := map[string]string{annotationTag: tag, annotationImageName: name + ":" + tag}
	if err := path.AppendIndex(index, layout.WithAnnotations(names)); err != nil {
		return fmt.Errorf("write the layout of %s: %w", name, err)
	}
	files, err := readDir(dir)
	if err != nil {
		return err
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(files.WriteTar(out, modified), out.Close())
}

// readDir returns the regular files below dir.
func readDir(dir string) (*tree.Tree, error) {
	files := tree.New()
	err := files.AddFiles(os.DirFS(dir), ".", "", nil)
	return files, err
}

// ReadArchive unpacks an OCI archive into dir and returns the index in it.
func ReadArchive(file, dir string) (v1.ImageIndex, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("open an image: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	files := tree.New()
	if err := files.AddTar(f, func(string) bool { return true }); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if err := files.Unpack(dir); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	outer, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	manifest, err := outer.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if len(manifest.Manifests) != 1 {
		return nil, fmt.Errorf("%s has %d images, want 1", file, len(manifest.Manifests))
	}
	return outer.ImageIndex(manifest.Manifests[0].Digest)
}
