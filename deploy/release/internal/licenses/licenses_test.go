package licenses

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/deploy/release/internal/sbom"
)

// TestDependencyWithoutLicenseFails checks that a release cannot contain a module without a license
// in its root, or with one that nobody recognizes.
func TestDependencyWithoutLicenseFails(t *testing.T) {
	apache, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "LICENSE"))
	if err != nil {
		t.Fatal(err)
	}
	m := sbom.Module{Path: "example.com/a", Version: "v1.0.0"}
	for name, test := range map[string]struct {
		file string
		text []byte
		want []string
	}{
		"none":        {"README.md", apache, nil},
		"unknown":     {"LICENSE", []byte("all rights reserved"), nil},
		"only nested": {"third_party/LICENSE", apache, nil},
		"known":       {"LICENSE", apache, []string{"Apache-2.0"}},
		"with suffix": {"LICENSE.txt", apache, []string{"Apache-2.0"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(test.file)), 0o750); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, test.file), test.text, 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := Finder{dirs: map[sbom.Module]string{m: dir}}.Names(m)
			if (err == nil) != (test.want != nil) || !slices.Equal(got, test.want) {
				t.Errorf("got the licenses %q, %v, want %q", got, err, test.want)
			}
		})
	}
	if _, err := (Finder{}).Texts(m); err == nil || !strings.Contains(err.Error(), m.Path) {
		t.Errorf("a module that the cache does not have: got %v, want an error with its name", err)
	}
}
