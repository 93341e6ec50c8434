// Package oci assembles the images of a release, of which each is an index with one image for
// each architecture, and writes them as OCI archives: tar files of an OCI image layout.
package oci

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/growvol/growvol/deploy/release/internal/tree"
)

// Layer is a layer of an image. Images with the same packages share a layer.
type Layer struct {
	Comment string // says in the image's history what the layer has
	Files   *tree.Tree
}

// Image says what an image of one architecture has.
type Image struct {
	Arch       string
	Layers     []Layer
	User       string // UID:GID; empty: root
	Entrypoint string
	// Labels are on the configuration, and as annotations on the manifest.
	Labels  map[string]string
	Created time.Time // also of all files
}

// defaultPath is the PATH in which plugins search programs.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Assemble returns the image.
func (i Image) Assemble() (v1.Image, error) {
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, layer := range i.Layers {
		packed, err := i.pack(layer.Files)
		if err != nil {
			return nil, fmt.Errorf("layer of %s: %w", layer.Comment, err)
		}
		image, err = mutate.Append(image, mutate.Addendum{
			Layer: packed, MediaType: types.OCILayer,
			History: v1.History{Created: v1.Time{Time: i.Created}, CreatedBy: "growvol release", Comment: layer.Comment},
		})
		if err != nil {
			return nil, fmt.Errorf("layer of %s: %w", layer.Comment, err)
		}
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	config = config.DeepCopy()
	config.Architecture, config.OS, config.Created = i.Arch, "linux", v1.Time{Time: i.Created}
	config.Config = v1.Config{
		User: i.User, Env: []string{defaultPath}, Entrypoint: []string{i.Entrypoint}, WorkingDir: "/", Labels: i.Labels,
	}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return mutate.Annotations(image, i.Labels).(v1.Image), nil //nolint:forcetypeassert,errcheck // of an image
}

// pack returns the files as a layer.
func (i Image) pack(files *tree.Tree) (v1.Layer, error) {
	var content bytes.Buffer
	if err := files.WriteTar(&content, i.Created); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.DefaultCompression),
		tarball.WithCompressedCaching,
	)
}

// Index returns the index of the images, with the same annotations.
func Index(images map[string]v1.Image, archs []string, annotations map[string]string) v1.ImageIndex {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range archs {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: images[arch],
			Descriptor: v1.Descriptor{
				MediaType: types.OCIManifestSchema1, Platform: &v1.Platform{OS: "linux", Architecture: arch},
			},
		})
	}
	return mutate.Annotations(index, annotations).(v1.ImageIndex) //nolint:forcetypeassert,errcheck // of an index
}
