package loop

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
)

func TestConnectorHealth(t *testing.T) {
	dir, dev := t.TempDir(), t.TempDir()
	c, err := NewConnector(ConnectorOptions{Dir: filepath.Join(dir, "volumes"), Node: node})
	if err != nil {
		t.Fatal(err)
	}
	c.loops.dev = dev
	wantKind(t, c.CheckHealth(t.Context()), volume.KindUnavailable, "directory of the volumes", "next step")
	if err := os.Mkdir(c.opts.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	wantKind(t, c.CheckHealth(t.Context()), volume.KindUnavailable, "no loop devices", "next step")
	if err := os.WriteFile(filepath.Join(dev, "loop-control"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.CheckHealth(t.Context()); err != nil {
		t.Errorf("with both: %v", err)
	}
}
