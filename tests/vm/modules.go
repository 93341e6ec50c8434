package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/growvol/growvol/tests/vm/internal/initrd"
)

// bootModules are loaded by the agent at boot, in this order: without udev
// nobody else loads a driver when a device appears. The kernel asks for the
// others by itself (modprobe) when they are first used.
func bootModules() []string {
	return []string{
		"virtio_pci", "virtio-rng", "virtio_net", "virtio_blk", "virtio_scsi", "sd_mod", "sr_mod",
	}
}

// onDemandModules are in the image too. AES in hardware is left out: emulated
// CPUs offer it, but it does not work in all of them.
func onDemandModules() []string {
	return []string{
		"isofs", "xfs", "libcrc32c", "crc32c_generic", "dm-mod", "dm-crypt", "xts", "ecb", "essiv", "algif_skcipher", "af_alg", "loop", "rbd", "overlay",
	}
}

// moduleTable is modules.dep and modules.builtin as depmod writes them.
type moduleTable struct {
	depends map[string][]string // path → paths it depends on, all levels, last first to load
	byName  map[string]string   // normalized name → path
	builtin map[string]bool     // normalized names
}

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

// loadOrder returns the files of the named modules in the order in which they can
// be loaded.
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
		path, ok := t.byName[moduleName(n)]
		switch {
		case ok:
			// depmod lists dependencies so that the last is loaded first.
			deps := t.depends[path]
			for i := len(deps) - 1; i >= 0; i-- {
				add(deps[i])
			}
			add(path)
		case t.builtin[moduleName(n)]:
		default:
			return nil, fmt.Errorf("the kernel has no module %s", n)
		}
	}
	return order, nil
}

// moduleName is the name the kernel uses: of "kernel/fs/xfs/dm-mod.ko.xz" it
// is "dm_mod".
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(strings.TrimSpace(path)), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// addModules puts modules into the tree, and the list of those to load at boot.
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
	home := "/lib/modules/" + k.version
	for _, m := range all {
		if err := tree.AddCopy(filepath.Join(home, m), filepath.Join(k.modules, m), 0o644); err != nil {
			return err
		}
	}
	indexes, err := filepath.Glob(filepath.Join(k.modules, "modules.*"))
	if err != nil {
		return err
	}
	for _, index := range indexes {
		if err := tree.AddCopy(filepath.Join(home, filepath.Base(index)), index, 0o644); err != nil {
			return err
		}
	}
	for i, m := range boot {
		boot[i] = filepath.Join(home, m)
	}
	tree.AddFile(bootModulesFile, 0o644, []byte(strings.Join(boot, "\n")+"\n"))
	return nil
}

// bootModulesFile lists for the agent what to load, one path a line.
const bootModulesFile = "/etc/growvol-modules"
