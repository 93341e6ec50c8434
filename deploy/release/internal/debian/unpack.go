package debian

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/growvol/growvol/deploy/release/internal/tree"
)

// Tree returns the files of packages in one tree. For scanners of vulnerabilities the tree has the
// description of each package below /var/lib/dpkg/status.d, as images without dpkg do.
// Manuals, translations and what only dpkg's scripts read are left out; licenses remain.
func (m Mirror) Tree(ctx context.Context, packages []Package) (*tree.Tree, error) {
	t := tree.NewDebian()
	for _, p := range packages {
		name, err := m.File(ctx, p)
		if err != nil {
			return nil, err
		}
		files, err := dpkgDeb(ctx, "--fsys-tarfile", name)
		if err != nil {
			return nil, err
		}
		if err := t.AddTar(bytes.NewReader(files), isWanted); err != nil {
			return nil, fmt.Errorf("package %s: %w", p.Name, err)
		}
		control, err := dpkgDeb(ctx, "--field", name)
		if err != nil {
			return nil, err
		}
		if err := t.AddFile("var/lib/dpkg/status.d/"+p.Name, 0o644, control); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// dpkgDeb runs dpkg-deb, which reads the formats of packages, and returns its output.
func dpkgDeb(ctx context.Context, option, name string) ([]byte, error) {
	output, err := exec.CommandContext(ctx, "dpkg-deb", option, name).Output()
	if err != nil {
		return nil, fmt.Errorf("dpkg-deb %s %s: %w", option, name, err)
	}
	return output, nil
}

// isWanted reports whether an image has the file.
func isWanted(name string) bool {
	if strings.HasPrefix(name, "usr/share/doc/") {
		// The directory of a package can be a link to that of another one, which has the copyright file
		// of both.
		return path.Base(name) == "copyright" || path.Dir(name) == "usr/share/doc"
	}
	for _, dir := range []string{
		"usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian", "usr/share/bug",
		"usr/share/bash-completion", "usr/share/initramfs-tools", "usr/share/apport", "usr/share/gdb",
		"usr/share/gtk-doc", "usr/share/doc-base", "usr/share/python3",
	} {
		if name == dir || strings.HasPrefix(name, dir+"/") {
			return false
		}
	}
	return true
}

const (
	// licenseLine matches the short name of a license in a copyright file of Debian's format.
	licenseLine = `(?m)^License:[ \t]*(\S.*)$`
	// commonLicense matches a file with the text of a license, to which copyright files in prose refer
	// (Debian Policy Manual, section 12.5).
	commonLicense = `/usr/share/common-licenses/(\w(?:[\w.+-]*[\w+])?)`
)

// Licenses returns the short names of licenses, such as GPL-2+, in the copyright file of a package,
// sorted. If the file is prose, they are those of the files to which it refers, such as GPL-2; it
// may refer to none.
func Licenses(files *tree.Tree, name string) []string {
	content := files.Content("usr/share/doc/" + name + "/copyright")
	matches := regexp.MustCompile(licenseLine).FindAllSubmatch(content, -1)
	if len(matches) == 0 {
		matches = regexp.MustCompile(commonLicense).FindAllSubmatch(content, -1)
	}
	var found []string
	for _, match := range matches {
		found = append(found, strings.TrimSpace(string(match[1])))
	}
	slices.Sort(found)
	return slices.Compact(found)
}
