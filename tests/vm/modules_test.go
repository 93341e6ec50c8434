package vm

import (
	"slices"
	"testing"
)

// The order in which the agent loads modules: each after those that it depends on.
func TestLoadOrderPutsDependenciesFirst(t *testing.T) {
	table := moduleTable{
		depends: map[string][]string{
			"k/virtio_blk.ko":  {"k/virtio.ko", "k/virtio_ring.ko"},
			"k/virtio.ko":      {"k/virtio_ring.ko"},
			"k/virtio_ring.ko": nil,
		},
		byName: map[string]string{
			"virtio_blk": "k/virtio_blk.ko", "virtio": "k/virtio.ko", "virtio_ring": "k/virtio_ring.ko",
		},
		builtin: map[string]bool{"ext4": true},
	}
	got, err := table.loadOrder([]string{"virtio-blk", "ext4", "virtio"})
	if want := []string{"k/virtio_ring.ko", "k/virtio.ko", "k/virtio_blk.ko"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	if got, err := table.loadOrder([]string{"nfs"}); err == nil {
		t.Errorf("an unknown module: got %v, want an error", got)
	}
	if got := moduleName("kernel/drivers/md/dm-mod.ko.xz"); got != "dm_mod" {
		t.Errorf("got the name %s, want dm_mod", got)
	}
}
