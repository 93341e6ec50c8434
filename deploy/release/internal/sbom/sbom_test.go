package sbom_test

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/growvol/growvol/deploy/release/internal/sbom"
)

// TestDocumentDependsOnlyOnContent checks that the order of the components has no effect, and what
// scanners read of a package of Debian.
func TestDocumentDependsOnlyOnContent(t *testing.T) {
	components := []sbom.Component{
		sbom.Module{Path: "example.com/b", Version: "v1.0.0"}.Component([]string{"MIT"}),
		sbom.DebianPackage("libc6", "1:2.36+b1", "arm64", "0a", []string{"GPL-2+"}),
	}
	var texts [2]bytes.Buffer
	for i := range texts {
		slices.Reverse(components)
		d := sbom.Document{Name: "n", Version: "1", Arch: "arm64", Created: time.Unix(1e9, 0)}
		d.Components = slices.Clone(components)
		if err := d.Write(&texts[i]); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(texts[0].Bytes(), texts[1].Bytes()) {
		t.Error("two documents with the same components differ")
	}
	var got struct {
		BOMFormat    string
		SerialNumber string
		Components   []struct {
			PURL   string
			Hashes []struct{ Content string }
		}
	}
	if err := json.Unmarshal(texts[0].Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.BOMFormat != "CycloneDX" || len(got.SerialNumber) != len("urn:uuid:")+36 || len(got.Components) != 2 {
		t.Fatalf("got %+v, want a CycloneDX document with a UUID and 2 components", got)
	}
	const want = "pkg:deb/debian/libc6@1:2.36%2Bb1?arch=arm64&distro=debian-12"
	if c := got.Components[0]; c.PURL != want || c.Hashes[0].Content != "0a" {
		t.Errorf("got %+v, want the package URL %s and the hash 0a", c, want)
	}
}

// TestModulesOfProgram reads the modules of the test itself.
func TestModulesOfProgram(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	modules, err := sbom.Modules(program)
	if err != nil {
		t.Fatal(err)
	}
	if modules[0].Path != sbom.StandardLibrary || modules[0].Version == "" {
		t.Errorf("got %v, want the standard library with a version", modules)
	}
}
