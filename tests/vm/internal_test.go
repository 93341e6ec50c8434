package vm

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestConsoleNoticesDefectsOnly(t *testing.T) {
	for line, want := range map[string]bool{
		"[    1.650000] Kernel panic - not syncing: sysrq triggered crash": true,
		"[   12.100000] kernel BUG at fs/ext4/resize.c:1520!":              true,
		"GROWVOL-GUEST-FAILED no module":                                   true,
		"[    2.000000] EXT4-fs error (device loop0): bad block":           false,
		UpLine + " kernel=6.1":                                             false,
	} {
		c := newConsole(nil)
		for _, part := range []string{line[:10], line[10:] + "\r", "\nnext"} {
			_, _ = c.Write([]byte(part))
		}
		if got := c.defectLine() != ""; got != want {
			t.Errorf("%q: defect %t, want %t", line, got, want)
		}
		if !strings.HasSuffix(c.tail(), line+"\nnext") {
			t.Errorf("tail %q", c.tail())
		}
	}
}

func TestForwards(t *testing.T) {
	table := "Hub -1 (net):\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n" +
		"  TCP[HOST_FORWARD]  14       127.0.0.1 40311       10.0.2.15  9001     0     0\n" +
		"  TCP[HOST_FORWARD]  13       127.0.0.1 38121       10.0.2.15  9000     0     0\n"
	want := map[int]string{AgentPort: "127.0.0.1:38121", NodePort: "127.0.0.1:40311"}
	if got := Forwards(table); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestModulesLoadAfterWhatTheyNeed(t *testing.T) {
	table := moduleTable{
		depends: map[string][]string{"k/virtio_blk.ko": {"k/virtio.ko", "k/virtio_ring.ko"}, "k/virtio.ko": {"k/virtio_ring.ko"}, "k/virtio_ring.ko": nil},
		byName:  map[string]string{"virtio_blk": "k/virtio_blk.ko", "virtio": "k/virtio.ko", "virtio_ring": "k/virtio_ring.ko"},
		builtin: map[string]bool{"ext4": true},
	}
	got, err := table.load([]string{"virtio-blk", "ext4", "virtio"})
	if want := []string{"k/virtio_ring.ko", "k/virtio.ko", "k/virtio_blk.ko"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if got, err := table.load([]string{"nfs"}); err == nil {
		t.Errorf("an unknown module: %v", got)
	}
	if got := moduleName("kernel/drivers/md/dm-mod.ko.xz"); got != "dm_mod" {
		t.Error(got)
	}
}
