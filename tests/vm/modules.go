package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/growvol/growvol/tests/vm/internal/initrd"
	"github.com/growvol/growvol/tests/vm/internal/protocol"
)

// bootModules returns the modules that the agent loads at boot, in this order. The
// guest has no udev, which would load the driver of a device that appears.
func bootModules() []string {
	return []string{
		"virtio_pci", "virtio-rng", "virtio_net", "virtio_blk", "virtio_scsi", "sd_mod", "sr_mod",
	}
}

// onDemandModules returns the modules that the kernel loads by itself (modprobe)
// when they are first used. The module for AES instructions is not among them:
// emulated CPUs report the instructions, but some do not execute them.
func onDemandModules() []string {
	return []string{
		"isofs", "xfs", "libcrc32c", "crc32c_generic", "dm-mod", "dm-crypt", "xts", "ecb", "essiv",
		"algif_skcipher", "af_alg", "loop", "rbd", "overlay",
	}
}

// moduleTable is the content of modules.dep and modules.builtin, as depmod writes
// them. Names are normalized by moduleName.
type moduleTable struct {
	depends map[string][]string // path → paths of all levels it depends on; the last is loaded first
	byName  map[string]string   // name → path
	builtin map[string]bool     // names
}

// readModules reads the table from a kernel's directory of modules.
func readModules(dir string) (moduleTable, error) {
	t := moduleTable{depends: map[string][]string{}, byName: map[string]string{}, builtin: map[string]bool{}}
	text, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return t, err
	}
	for line := range strings.Lines(string(text)) {
		path, rest, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		t.depends[path] = strings.Fields(rest)
		t.byName[moduleName(path)] = path
	}
	text, err = os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return t, err
	}
	for line := range strings.Lines(string(text)) {
		t.builtin[moduleName(line)] = true
	}
	return t, nil
}

// loadOrder returns the files of the named modules and of those that they depend
// on, in an order in which they can be loaded. Modules that are built in are left
// out.
func (t moduleTable) loadOrder(names []string) ([]string, error) {
	var order []string
	seen := map[string]bool{}
	add := func(path string) {
		if !seen[path] {
			seen[path] = true
			order = append(order, path)
		}
	}
	for _, n := range names {
		path, found := t.byName[moduleName(n)]
		switch {
		case found:
			for _, dependency := range slices.Backward(t.depends[path]) {
				add(dependency)
			}
			add(path)
		case t.builtin[moduleName(n)]:
		default:
			return nil, fmt.Errorf("the kernel has no module %s", n)
		}
	}
	return order, nil
}

// moduleName returns the name that the kernel uses: "dm_mod" for
// "kernel/drivers/md/dm-mod.ko.xz".
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(strings.TrimSpace(path)), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// addModules adds the modules to the tree, and the list of those to load at boot.
func addModules(tree *initrd.Tree, k kernel, further []string) error {
	table, err := readModules(k.modules)
	if err != nil {
		return err
	}
	boot, err := table.loadOrder(bootModules())
	if err != nil {
		return err
	}
	all, err := table.loadOrder(append(append(bootModules(), onDemandModules()...), further...))
	if err != nil {
		return err
	}
	dir := "/lib/modules/" + k.version
	for _, m := range all {
		if err := tree.AddCopy(filepath.Join(dir, m), filepath.Join(k.modules, m), 0o644); err != nil {
			return err
		}
	}
	indexes, err := filepath.Glob(filepath.Join(k.modules, "modules.*"))
	if err != nil {
		return err
	}
	for _, index := range indexes {
		if err := tree.AddCopy(filepath.Join(dir, filepath.Base(index)), index, 0o644); err != nil {
			return err
		}
	}
	for i, m := range boot {
		boot[i] = filepath.Join(dir, m)
	}
	tree.AddFile(protocol.ModulesFile, 0o644, []byte(strings.Join(boot, "\n")+"\n"))
	return nil
}
