package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/growvol/growvol/deploy/release/internal/debian"
	"github.com/growvol/growvol/deploy/release/internal/oci"
	"github.com/growvol/growvol/deploy/release/internal/sbom"
	"github.com/growvol/growvol/deploy/release/internal/tree"
)

// Images of a release, which are the targets of the Dockerfile.
const (
	imageController     = "growvol-controller"
	imageControllerCeph = "growvol-controller-ceph"
	imageNode           = "growvol-node"
	imageOperator       = "growvol-operator"
)

func imageNames() []string {
	return []string{imageController, imageControllerCeph, imageNode, imageOperator}
}

// unprivileged is the user of the images that need no privilege.
const unprivileged = "65532:65532"

// recipe says what an image has.
type recipe struct {
	title   string
	program string // in the root of the image
	set     string // packages of Debian; empty: none
	user    string
}

func recipes() map[string]recipe {
	return map[string]recipe{
		imageController:     {"growvol's CSI controller plugin", "growvol-controller", setCACertificates, unprivileged},
		imageControllerCeph: {"growvol's CSI controller plugin, with Ceph", "growvol-controller", setCeph, unprivileged},
		imageNode:           {"growvol's CSI node plugin", "growvol-node", setNode, ""},
		imageOperator:       {"growvol's operator", "growvol-operator", "", unprivileged},
	}
}

// makeImages writes the images as OCI archives, and their SBOMs. It returns the digests of their
// indexes by the images' names.
func (b build) makeImages(ctx context.Context, names []string) (map[string]string, error) {
	digests := map[string]string{}
	for _, name := range names {
		r, ok := recipes()[name]
		if !ok {
			return nil, fmt.Errorf("there is no image %s", name)
		}
		digest, err := b.makeImage(ctx, name, r)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", name, err)
		}
		digests[name] = digest
	}
	return digests, nil
}

func (b build) makeImage(ctx context.Context, name string, r recipe) (digest string, err error) {
	images := map[string]v1.Image{}
	labels := b.labels(name, r)
	for _, arch := range b.archs {
		program, err := b.programOf(ctx, name, r, arch)
		if err != nil {
			return "", err
		}
		layers, err := b.layers(ctx, r, arch, program)
		if err != nil {
			return "", err
		}
		image := oci.Image{
			Arch: arch, Layers: layers, User: r.user, Entrypoint: "/" + r.program, Labels: labels, Created: b.source.time,
		}
		if images[arch], err = image.Assemble(); err != nil {
			return "", err
		}
		if err := b.makeImageSBOM(name, r, arch, program, layers); err != nil {
			return "", err
		}
	}
	index := oci.Index(images, b.archs, labels)
	hash, err := index.Digest()
	if err != nil {
		return "", err
	}
	return hash.String(), oci.WriteArchive(b.archive(name), index, name, b.version, b.source.time)
}

// archive returns the file of an image in the release, whose directory it makes.
func (b build) archive(name string) string {
	return b.path(fmt.Sprintf("%s_%s_oci.tar", name, b.version))
}

// labels returns the annotations of the OCI image specification for an image.
func (b build) labels(name string, r recipe) map[string]string {
	const prefix, home = "org.opencontainers.image.", "https://" + modulePath
	return map[string]string{
		prefix + "title": name, prefix + "description": r.title, prefix + "version": b.version,
		prefix + "revision": b.source.revision, prefix + "created": b.source.time.Format(time.RFC3339),
		prefix + "licenses": "Apache-2.0", prefix + "source": home, prefix + "url": home,
		prefix + "documentation": home + "/tree/main/docs", prefix + "vendor": "The growvol authors",
	}
}

// programOf builds the program of an image and returns its file.
func (b build) programOf(ctx context.Context, name string, r recipe, arch string) (string, error) {
	if name == imageControllerCeph {
		return b.compileCeph(ctx, arch)
	}
	// All plugins at once, so that Go compiles what they share once.
	dir, err := b.compile(ctx, platform{"linux", arch}, pluginNames()...)
	return filepath.Join(dir, r.program), err
}

// pluginNames returns the programs that run in pods.
func pluginNames() []string {
	return []string{"growvol-controller", "growvol-node", "growvol-operator"}
}

// layers returns the layers of an image: Debian's packages, which change seldom, and the program.
func (b build) layers(ctx context.Context, r recipe, arch, program string) ([]oci.Layer, error) {
	content, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	files := tree.New()
	if err := files.AddFile(r.program, 0o755, content); err != nil {
		return nil, err
	}
	modules, err := sbom.Modules(program)
	if err != nil {
		return nil, err
	}
	if err := b.addLicenses(files, "usr/share/doc/growvol", modules); err != nil {
		return nil, err
	}
	own := oci.Layer{Comment: "/" + r.program + " and the licenses of its modules", Files: files}
	if r.set == "" {
		return []oci.Layer{own}, nil
	}
	packages, err := b.packages(ctx, r.set, arch)
	if err != nil {
		return nil, err
	}
	comment := "Debian packages of the set " + r.set
	if r.set == setCACertificates {
		comment = "certificate authorities of Debian"
		if packages, err = bundleCertificates(packages); err != nil {
			return nil, err
		}
	}
	return []oci.Layer{{Comment: comment, Files: packages}, own}, nil
}

// packages returns the files of the packages of a set.
func (b build) packages(ctx context.Context, set, arch string) (*tree.Tree, error) {
	lock, err := debian.ReadLock(lockFile)
	if err != nil {
		return nil, err
	}
	selected := lock.Select(set, arch)
	if len(selected) == 0 {
		return nil, fmt.Errorf("%s has no packages %s for %s", lockFile, set, arch)
	}
	return b.mirror.Tree(ctx, selected)
}

// bundleCertificates returns a tree with the certificates of the package ca-certificates in one
// file, as its script update-ca-certificates writes them, and with what describes the package.
func bundleCertificates(packages *tree.Tree) (*tree.Tree, error) {
	var bundle bytes.Buffer
	files := tree.New()
	for _, name := range packages.Names() {
		content := packages.Content(name)
		switch {
		case strings.HasPrefix(name, "usr/share/ca-certificates/") && path.Ext(name) == ".crt":
			bundle.Write(bytes.TrimRight(content, "\n"))
			bundle.WriteByte('\n')
		case strings.HasPrefix(name, "var/lib/dpkg/status.d/"), path.Base(name) == "copyright":
			if err := files.AddFile(name, 0o644, content); err != nil {
				return nil, err
			}
		}
	}
	return files, files.AddFile("etc/ssl/certs/ca-certificates.crt", 0o644, bundle.Bytes())
}
