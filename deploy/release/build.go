package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/growvol/growvol/deploy/release/internal/debian"
	"github.com/growvol/growvol/deploy/release/internal/licenses"
	"github.com/growvol/growvol/deploy/release/internal/sbom"
)

// build makes a release of the sources in the current directory.
type build struct {
	version  string // such as 0.1.0
	registry string // HOST/PATH that chart and manifests name; empty: the user sets it
	out      string // directory of the release
	archs    []string
	source   source
	mirror   debian.Mirror
	work     string // a temporary directory
	licenses licenses.Finder
	modules  map[sbom.Module]bool // all Go modules in the programs of the release
}

// source says which sources a release has.
type source struct {
	revision string    // commit; with "-dirty" if files differ from it
	time     time.Time // of the commit: the time of all files of the release
}

// versionPattern matches the versions of semver.org without build metadata, which image tags
// cannot have.
const versionPattern = `^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?$`

// buildRelease is the command `release build`.
func buildRelease(ctx context.Context, args []string) (err error) {
	var b build
	fs := flag.NewFlagSet("build", flag.ContinueOnError)
	fs.StringVar(&b.version, "version", "", "version of the release, such as 0.1.0")
	fs.StringVar(&b.registry, "registry", "", "HOST/PATH of the images in chart and manifests; empty: none")
	fs.StringVar(&b.out, "out", "dist", "directory of the release")
	archs := fs.String("arch", "amd64,arm64", "architectures of the images, with commas in between")
	only := fs.String("only", "", "make only these images, with commas in between, and the chart")
	mirror := fs.String("mirror", defaultMirror, "mirror of Debian")
	if err := parseFlags(fs, args); err != nil {
		return err
	}
	if !regexp.MustCompile(versionPattern).MatchString(b.version) {
		return fmt.Errorf("--version %q is not of the form MAJOR.MINOR.PATCH (next step: run: make release VERSION=0.1.0)",
			b.version)
	}
	b.archs = strings.Split(*archs, ",")
	if b.source, err = readSource(ctx); err != nil {
		return err
	}
	if b.mirror, err = openMirror(*mirror); err != nil {
		return err
	}
	if b.work, err = os.MkdirTemp("", "growvol-release-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.work)) }()
	b.modules = map[sbom.Module]bool{}
	if b.licenses, err = licenses.NewFinder(ctx); err != nil {
		return err
	}
	if err := emptyDir(b.out); err != nil {
		return err
	}
	if *only != "" {
		return b.makeImagesAndChart(ctx, strings.Split(*only, ","))
	}
	return b.makeAll(ctx)
}

// markerFile is in every directory of a release, which a later build may therefore empty.
const markerFile = "SHA256SUMS"

// emptyDir makes an empty directory, or empties that of an earlier release.
func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if len(entries) > 0 && !slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == markerFile }) {
		return fmt.Errorf("%s is not empty and has no %s of an earlier release "+
			"(next step: remove it, or use another directory)", dir, markerFile)
	}
	// The marker is the last, so that a build that was stopped can be repeated.
	for _, entry := range entries {
		if entry.Name() != markerFile {
			if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, markerFile), nil, 0o644)
}

// readSource reads the commit of the current directory. SOURCE_DATE_EPOCH overrides its time.
func readSource(ctx context.Context) (source, error) {
	head, err := output(ctx, "git", "log", "-1", "--format=%H %ct")
	if err != nil {
		return source{}, fmt.Errorf("read the commit: %w", err)
	}
	revision, epoch, _ := strings.Cut(strings.TrimSpace(head), " ")
	changes, err := output(ctx, "git", "--no-optional-locks", "status", "--porcelain")
	if err != nil {
		return source{}, fmt.Errorf("compare the files with the commit: %w", err)
	}
	if changes != "" {
		revision += "-dirty"
	}
	if given := os.Getenv("SOURCE_DATE_EPOCH"); given != "" {
		epoch = given
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return source{}, fmt.Errorf("time of the commit in seconds: %w", err)
	}
	return source{revision: revision, time: time.Unix(seconds, 0).UTC()}, nil
}

// makeAll makes the whole release.
func (b build) makeAll(ctx context.Context) error {
	digests, err := b.makeImages(ctx, imageNames())
	if err != nil {
		return err
	}
	steps := []func() error{
		func() error { return b.makeBinaries(ctx) },
		func() error { return b.makeChart(digests) },
		func() error { return b.makeManifests(ctx, digests) },
		func() error { return b.makeKubectlPlugins(ctx) },
		b.makeDocs,
		b.makeLicenses,
		func() error { return b.makeNotes(digests) },
		b.makeChecksums,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// makeImagesAndChart makes some of the images, and the chart with their digests.
func (b build) makeImagesAndChart(ctx context.Context, names []string) error {
	digests, err := b.makeImages(ctx, names)
	if err != nil {
		return err
	}
	if err := b.makeChart(digests); err != nil {
		return err
	}
	return b.makeChecksums()
}

// path returns the name of a file of the release.
func (b build) path(name string) string { return filepath.Join(b.out, name) }
