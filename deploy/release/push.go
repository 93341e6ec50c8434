package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/growvol/growvol/deploy/release/internal/oci"
)

// pushRelease is the command `release push`. It copies the images of a release to a registry, with
// the credentials of Docker's configuration, and reads each one back by its digest.
func pushRelease(ctx context.Context, args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("push", flag.ContinueOnError)
	dir := fs.String("dist", "dist", "directory of the release")
	registry := fs.String("registry", "", "HOST/PATH of the registry, such as registry.example.com/growvol")
	if err := parseFlags(fs, args); err != nil {
		return err
	}
	if *registry == "" {
		return errors.New("--registry is missing (next step: run: make release-push REGISTRY=registry.example.com/growvol)")
	}
	archives, err := findArchives(*dir)
	if err != nil {
		return err
	}
	for _, archive := range archives {
		if err := pushArchive(ctx, archive, strings.TrimSuffix(*registry, "/"), stdout); err != nil {
			return fmt.Errorf("push %s: %w", filepath.Base(archive), err)
		}
	}
	return nil
}

// findArchives returns the archives of the images in the directory of a release.
func findArchives(dir string) ([]string, error) {
	archives, err := filepath.Glob(filepath.Join(dir, "*_oci.tar"))
	if err == nil && len(archives) == 0 {
		err = fmt.Errorf("%s has no images (next step: run: make release VERSION=0.1.0)", dir)
	}
	return archives, err
}

// pushArchive pushes an image under the name and the tag in its archive's name, and prints its name
// with the digest.
func pushArchive(ctx context.Context, archive, registry string, stdout io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "growvol-push-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	index, err := oci.ReadArchive(archive, dir)
	if err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	image, rest, _ := strings.Cut(filepath.Base(archive), "_")
	tag, err := name.NewTag(registry + "/" + image + ":" + strings.TrimSuffix(rest, "_oci.tar"))
	if err != nil {
		return err
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
	if err := remote.WriteIndex(tag, index, options...); err != nil {
		return err
	}
	if err := checkPushed(tag.Digest(digest.String()), digest, options); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%s@%s\n", tag.Context(), digest)
	return err
}

// checkPushed reads the index from the registry by its digest, and checks that the registry has
// the image of each architecture.
func checkPushed(ref name.Digest, want v1.Hash, options []remote.Option) error {
	index, err := remote.Index(ref, options...)
	if err != nil {
		return fmt.Errorf("read %s back: %w", ref, err)
	}
	if got, err := index.Digest(); err != nil || got != want {
		return fmt.Errorf("read %s back: got the digest %s, %w", ref, got, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return fmt.Errorf("read %s back: %w", ref, err)
	}
	for _, m := range manifest.Manifests {
		if _, err := remote.Head(ref.Context().Digest(m.Digest.String()), options...); err != nil {
			return fmt.Errorf("read the image for %s back: %w", m.Platform.Architecture, err)
		}
	}
	return nil
}
