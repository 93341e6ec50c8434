// Package sbom writes the list of what an image consists of, in the format CycloneDX 1.6.
package sbom

import (
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Component is a part of an image.
type Component struct {
	Kind     string // "library", or "operating-system"
	Name     string
	Version  string
	PURL     string   // package URL
	SHA256   string   // of the package's file; empty: unknown
	Licenses []string // SPDX identifiers, or names that Debian uses; empty: unknown
}

// Document is what a list says.
type Document struct {
	Name       string // of the image
	Version    string
	Arch       string
	Created    time.Time
	Components []Component
}

// The used parts of the format, https://cyclonedx.org/docs/1.6/json.
type (
	bom struct {
		Format       string      `json:"bomFormat"`
		SpecVersion  string      `json:"specVersion"`
		SerialNumber string      `json:"serialNumber"`
		Version      int         `json:"version"`
		Metadata     metadata    `json:"metadata"`
		Components   []component `json:"components"`
	}
	metadata struct {
		Timestamp string    `json:"timestamp"`
		Component component `json:"component"`
	}
	component struct {
		Type     string    `json:"type"`
		Ref      string    `json:"bom-ref"`
		Name     string    `json:"name"`
		Version  string    `json:"version"`
		PURL     string    `json:"purl,omitempty"`
		Hashes   []hash    `json:"hashes,omitempty"`
		Licenses []license `json:"licenses,omitempty"`
	}
	hash struct {
		Algorithm string `json:"alg"`
		Content   string `json:"content"`
	}
	license struct {
		License licenseName `json:"license"`
	}
	licenseName struct {
		Name string `json:"name"`
	}
)

// Write writes the document, with the components sorted. Its serial number depends only on what
// it says.
func (d Document) Write(w io.Writer) error {
	image := "pkg:oci/" + d.Name + "?arch=" + d.Arch + "&tag=" + d.Version
	list := bom{
		Format: "CycloneDX", SpecVersion: "1.6", Version: 1,
		Metadata: metadata{
			Timestamp: d.Created.UTC().Format(time.RFC3339),
			Component: component{Type: "container", Ref: image, Name: d.Name, Version: d.Version, PURL: image},
		},
	}
	for _, c := range d.Components {
		entry := component{Type: c.Kind, Ref: c.PURL, Name: c.Name, Version: c.Version, PURL: c.PURL}
		if c.SHA256 != "" {
			entry.Hashes = []hash{{"SHA-256", c.SHA256}}
		}
		for _, name := range c.Licenses {
			entry.Licenses = append(entry.Licenses, license{licenseName{name}})
		}
		list.Components = append(list.Components, entry)
	}
	slices.SortFunc(list.Components, func(a, b component) int { return cmp.Compare(a.Ref, b.Ref) })
	text, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("encode the list of components: %w", err)
	}
	sum := sha256.Sum256(text)
	// A UUID of version 8: the content is the application's choice (RFC 9562).
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80
	list.SerialNumber = fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(list)
}

// Module is a Go module that a program contains.
type Module struct{ Path, Version string }

// StandardLibrary is the path by which Modules returns Go's standard library.
const StandardLibrary = "stdlib"

// Modules returns the modules in a Go program, without the program's own, and the standard library.
func Modules(program string) ([]Module, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("read the modules of a program: %w", err)
	}
	modules := []Module{{StandardLibrary, strings.TrimPrefix(info.GoVersion, "go")}}
	for _, dependency := range info.Deps {
		if dependency.Replace != nil {
			dependency = dependency.Replace
		}
		modules = append(modules, Module{dependency.Path, dependency.Version})
	}
	return modules, nil
}

// Component returns the module as a component.
func (m Module) Component(licenses []string) Component {
	return Component{
		Kind: "library", Name: m.Path, Version: m.Version, PURL: "pkg:golang/" + m.Path + "@" + m.Version, Licenses: licenses,
	}
}

// DebianPackage returns a package of Debian 12 as a component.
func DebianPackage(name, version, arch, sum string, licenses []string) Component {
	escaped := strings.ReplaceAll(url.PathEscape(version), "+", "%2B")
	purl := "pkg:deb/debian/" + name + "@" + escaped + "?arch=" + arch + "&distro=debian-12"
	return Component{Kind: "library", Name: name, Version: version, PURL: purl, SHA256: sum, Licenses: licenses}
}
