package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/growvol/growvol/deploy/release/internal/tree"
)

// kubectlPlatforms returns the platforms for which there is a kubectl-growvol.
func kubectlPlatforms() []platform {
	var all []platform
	for _, system := range []string{"darwin", "linux", "windows"} {
		all = append(all, platform{system, "amd64"}, platform{system, "arm64"})
	}
	return all
}

// makeKubectlPlugins writes an archive with kubectl-growvol for each platform, and the manifest
// with which krew, the package manager of kubectl's plugins, installs them.
func (b build) makeKubectlPlugins(ctx context.Context) error {
	license, err := os.ReadFile("LICENSE")
	if err != nil {
		return err
	}
	manifest := krewHeader(b.version)
	for _, to := range kubectlPlatforms() {
		name, member, err := b.makeKubectlPlugin(ctx, to, license)
		if err != nil {
			return err
		}
		sum, err := fileSum(b.path(name))
		if err != nil {
			return err
		}
		manifest += fmt.Sprintf(`    - selector:
        matchLabels: {os: %s, arch: %s}
      uri: https://%s/releases/download/v%s/%s
      sha256: %s
      bin: %s
`, to.os, to.arch, modulePath, b.version, name, sum, member)
	}
	return os.WriteFile(b.path("growvol.yaml"), []byte(manifest), 0o644) //nolint:gosec // everybody may read it
}

// makeKubectlPlugin writes the archive for a platform. It returns its name, and that of the
// program in it.
func (b build) makeKubectlPlugin(ctx context.Context, to platform, license []byte) (name, member string, err error) {
	const program = "kubectl-growvol"
	member = program
	if to.os == "windows" {
		member += ".exe"
	}
	dir, err := b.compile(ctx, to, program)
	if err != nil {
		return "", "", err
	}
	content, err := os.ReadFile(filepath.Join(dir, member))
	if err != nil {
		return "", "", err
	}
	if err := b.recordModules(filepath.Join(dir, member)); err != nil {
		return "", "", err
	}
	files := tree.New()
	if err := files.AddFile(member, 0o755, content); err != nil {
		return "", "", err
	}
	if err := files.AddFile("LICENSE", 0o644, license); err != nil {
		return "", "", err
	}
	name = fmt.Sprintf("%s_%s_%s", program, b.version, to)
	if to.os == "windows" {
		return name + ".zip", member, b.writeZip(name+".zip", files)
	}
	return name + ".tar.gz", member, b.writeTarGz(name+".tar.gz", files)
}

func krewHeader(version string) string {
	return strings.TrimLeft(fmt.Sprintf(`
apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: growvol
spec:
  version: v%s
  homepage: https://%s
  shortDescription: Show and grow the volumes of claims
  description: |
    Shows every layer that the size of a claim passes through and what is stuck,
    grows claims and StatefulSets in use, and checks an installation of growvol.
    Except the check, it works with the volumes of any CSI driver.
  platforms:
`, version, modulePath), "\n")
}
