package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/growvol/growvol/deploy/release/internal/debian"
	"github.com/growvol/growvol/deploy/release/internal/oci"
	"github.com/growvol/growvol/deploy/release/internal/sbom"
)

// makeImageSBOM writes the list of what an image of one architecture consists of: the Go modules
// in its program, and the packages of Debian in its layers.
func (b build) makeImageSBOM(name string, r recipe, arch, program string, layers []oci.Layer) error {
	modules, err := sbom.Modules(program)
	if err != nil {
		return err
	}
	document := sbom.Document{Name: name, Version: b.version, Arch: arch, Created: b.source.time}
	for _, module := range modules {
		names, err := b.licenses.Names(module)
		if err != nil {
			return err
		}
		document.Components = append(document.Components, module.Component(names))
		b.modules[module] = true
	}
	if r.set != "" {
		lock, err := debian.ReadLock(lockFile)
		if err != nil {
			return err
		}
		for _, p := range lock.Select(r.set, arch) {
			component := sbom.DebianPackage(p.Name, p.Version, arch, p.SHA256, debian.Licenses(layers[0].Files, p.Name))
			document.Components = append(document.Components, component)
		}
	}
	f, err := os.Create(b.path(fmt.Sprintf("%s_%s_linux_%s.cdx.json", name, b.version, arch)))
	if err != nil {
		return err
	}
	return errors.Join(document.Write(f), f.Close())
}
