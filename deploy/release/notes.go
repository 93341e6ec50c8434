package main

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/growvol/growvol/deploy/charts"
	"github.com/growvol/growvol/deploy/release/internal/sbom"
)

// makeNotes writes the notes of the release: what is in it, what could not be tested, and the
// section of the changelog.
func (b build) makeNotes(digests map[string]string) error {
	changelog, err := os.ReadFile("CHANGELOG.md")
	if err != nil {
		return err
	}
	changes, err := changesOf(string(changelog), b.version)
	if err != nil {
		return err
	}
	sidecars, err := charts.Sidecars()
	if err != nil {
		return err
	}
	var notes strings.Builder
	fmt.Fprintf(&notes, "# growvol %s\n\nBuilt from the commit %s with Go %s.\n",
		b.version, b.source.revision, b.goVersion())
	notes.WriteString("docs/how-to/verify-a-release.md says how to check these files.\n\n" +
		"## Images\n\n| image | digest |\n|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(digests)) {
		fmt.Fprintf(&notes, "| `%s` | `%s` |\n", name, digests[name])
	}
	notes.WriteString(notRun(sidecars) + "\n## Changes\n\n" + changes)
	return os.WriteFile(b.path("RELEASE-NOTES.md"), []byte(notes.String()), 0o644) //nolint:gosec // everybody may read it
}

// notRun says which images of others the tests did not run.
func notRun(sidecars map[string]string) string {
	return fmt.Sprintf(`
## What was not run

The machine that tests growvol cannot reach the registries of these images. The chart names them, and they were not run:

* node-driver-registrar %s and livenessprobe %s: the tests run programs of the tests with the same options instead.
* csi-provisioner %s, csi-attacher %s, csi-resizer %s and csi-snapshotter %s: the tests run these programs, built from
  the sources of these versions, not the images.
* csi-snapshot-metadata %s and csi-addons' k8s-sidecar %s: the tests call the plugins as these sidecars do.

The images for arm64 were only started: `+"`--version`"+` of each program, and mkfs, under QEMU's user emulation.
`, sidecars["csi-node-driver-registrar"], sidecars["livenessprobe"],
		sidecars["csi-provisioner"], sidecars["csi-attacher"], sidecars["csi-resizer"], sidecars["csi-snapshotter"],
		sidecars["csi-snapshot-metadata"], sidecars["k8s-sidecar"])
}

// changesOf returns the section of a version in the changelog. While the changelog has none, it
// returns what is not released yet, and says so.
func changesOf(changelog, version string) (string, error) {
	sections := regexp.MustCompile(`(?m)^## \[`).Split(changelog, -1)
	for _, wanted := range []string{version, "Unreleased"} {
		for _, section := range sections {
			heading, text, _ := strings.Cut(section, "\n")
			if !strings.HasPrefix(heading, wanted+"]") {
				continue
			}
			text = strings.TrimSpace(text) + "\n"
			if wanted != version {
				text = "CHANGELOG.md has no section for this version yet; these are its unreleased changes.\n\n" + text
			}
			return text, nil
		}
	}
	return "", fmt.Errorf("CHANGELOG.md has no section for %s (next step: add one)", version)
}

// goVersion returns the version of Go that compiled the programs.
func (b build) goVersion() string {
	for module := range b.modules {
		if module.Path == sbom.StandardLibrary {
			return module.Version
		}
	}
	return "unknown"
}
