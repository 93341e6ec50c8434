package loopdev

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestCheckHealthNeedsDirectoryAndLoopDevices(t *testing.T) {
	dir, dev := filepath.Join(t.TempDir(), "volumes"), t.TempDir()
	c, err := New(Options{Dir: dir, Node: testNode})
	if err != nil {
		t.Fatal(err)
	}
	c.loops.Dev = dev
	volumetest.WantKind(t, c.CheckHealth(t.Context()), volume.KindUnavailable, "directory of the volumes", "next step")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	volumetest.WantKind(t, c.CheckHealth(t.Context()), volume.KindUnavailable, "cannot use loop devices", "next step")
	if err := os.WriteFile(filepath.Join(dev, "loop-control"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.CheckHealth(t.Context()); err != nil {
		t.Errorf("with both: got %v, want success", err)
	}
}
