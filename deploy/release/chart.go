package main

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/growvol/growvol/deploy/release/internal/tree"
)

// The sources of the chart, and of the plain manifests, which are rendered from it.
const (
	chartDir     = "deploy/charts/growvol"
	manifestsDir = "deploy/kubernetes"
)

// makeChart writes the package of the Helm chart, whose values name the images by their digests.
// Helm's own packages have the time of their making.
func (b build) makeChart(digests map[string]string) error {
	files, err := b.chart("growvol", b.registry, digests)
	if err != nil {
		return err
	}
	return b.writeTarGz("growvol-"+b.version+".tgz", files)
}

// chart returns the chart with the release's version and images, below dir.
func (b build) chart(dir, registry string, digests map[string]string) (*tree.Tree, error) {
	files := tree.New()
	change := func(name string, content []byte) (changed []byte, err error) {
		changed = content
		switch name {
		case "Chart.yaml":
			changed, err = replaceAll(content, `(?m)^(version|appVersion): .*$`, "${1}: "+b.version, 2)
		case "values.yaml":
			changed, err = b.values(content, registry, digests)
		}
		if err != nil {
			err = fmt.Errorf("%s/%s: %w", chartDir, name, err)
		}
		return changed, err
	}
	err := files.AddFiles(os.DirFS(chartDir), ".", dir, change)
	return files, err
}

// values sets the registry and the digests in the chart's values, and keeps the comments.
func (b build) values(content []byte, registry string, digests map[string]string) ([]byte, error) {
	var err error
	for name, digest := range digests {
		pattern := `repository: ` + name + `, tag: "", digest: ""`
		if content, err = replaceAll(content, pattern, `repository: `+name+`, tag: "", digest: "`+digest+`"`, 1); err != nil {
			return nil, err
		}
	}
	return replaceAll(content, `(?m)^imageRegistry: ""$`, `imageRegistry: "`+registry+`"`, 1)
}

// replaceAll replaces what a pattern matches. It fails unless there are exactly count matches.
func replaceAll(content []byte, pattern, replacement string, count int) ([]byte, error) {
	expression := regexp.MustCompile(pattern)
	if found := len(expression.FindAll(content, -1)); found != count {
		return nil, fmt.Errorf("found %d times %s, want %d", found, pattern, count)
	}
	return expression.ReplaceAll(content, []byte(replacement)), nil
}

// makeManifests writes an archive with the plain manifests, rendered from the chart of the release,
// and their kustomizations, which name the registry.
func (b build) makeManifests(ctx context.Context, digests map[string]string) error {
	chart, err := b.chart("", "", digests)
	if err != nil {
		return err
	}
	chartDir, rendered := filepath.Join(b.work, "chart"), filepath.Join(b.work, "manifests")
	for _, dir := range []string{chartDir, rendered} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if err := chart.Unpack(chartDir); err != nil {
		return err
	}
	if _, err := output(ctx, manifestsDir+"/generate", rendered, chartDir); err != nil {
		return err
	}
	files := tree.New()
	for _, dir := range []string{manifestsDir, rendered} {
		if err := b.addManifests(files, dir, digests); err != nil {
			return err
		}
	}
	return b.writeTarGz(fmt.Sprintf("growvol_%s_manifests.tar.gz", b.version), files)
}

// addManifests adds the manifests of all backends in dir: from the sources what is written by
// hand, otherwise what was rendered.
func (b build) addManifests(files *tree.Tree, dir string, digests map[string]string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*", "*.yaml"))
	if err != nil {
		return err
	}
	for _, name := range names {
		backend, base := path.Base(path.Dir(name)), path.Base(name)
		if dir == manifestsDir && base == "growvol.yaml" {
			continue
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if base == "kustomization.yaml" {
			if content, err = b.kustomization(content, digests); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		if err := files.AddFile(path.Join("growvol-"+b.version, backend, base), 0o644, content); err != nil {
			return err
		}
	}
	return nil
}

// kustomization sets the registry and the digests of the images in a kustomization.
func (b build) kustomization(content []byte, digests map[string]string) ([]byte, error) {
	text := strings.ReplaceAll(string(content), manifestsDir+"/", "")
	text = strings.Replace(text, "# The images that you built from the Dockerfile: set newName and newTag.",
		"# Where `make release-push` or another program has copied the images to: set newName.", 1)
	registry := b.registry
	if registry == "" {
		registry = "registry.example.com/growvol"
	}
	renamed := regexp.MustCompile(`newName: (growvol-[a-z-]+), newTag: [^}]+`)
	var unknown error
	text = renamed.ReplaceAllStringFunc(text, func(match string) string {
		name := renamed.FindStringSubmatch(match)[1]
		if digests[name] == "" {
			unknown = fmt.Errorf("the release has no image %s", name)
		}
		return "newName: " + registry + "/" + name + ", digest: " + digests[name]
	})
	return []byte(text), unknown
}
