package loop

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// leaving is a kernel whose free devices somebody has taken, and lets go when
// they are opened, a few times.
type leaving struct {
	kernel
	dev   string
	times int
}

func (l *leaving) GetFree(control *os.File) (int, error) {
	if l.times > 0 {
		l.times--
		return goneLoop, nil
	}
	n, err := l.kernel.GetFree(control)
	if err != nil {
		return n, err
	}
	name := fmt.Sprint("loop", n)
	if err := os.Symlink(filepath.Join("/dev", name), filepath.Join(l.dev, name)); !errors.Is(err, os.ErrExist) {
		return n, err
	}
	return n, nil
}

const goneLoop = 1 << 20 // no machine has so many

func TestBindWhileADeviceIsLetGo(t *testing.T) {
	needLoops(t)
	dev := t.TempDir()
	if err := os.Symlink("/dev/loop-control", filepath.Join(dev, "loop-control")); err != nil {
		t.Fatal(err)
	}
	// Of a number that is for local use, and of no driver.
	node := filepath.Join(dev, fmt.Sprint("loop", goneLoop))
	if err := unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(240, 0))); err != nil {
		t.Skipf("needs device nodes: %v", err)
	}
	if _, err := os.Open(node); !errors.Is(err, unix.ENXIO) {
		t.Skipf("needs device nodes that can be opened: %v", err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(volume.MiB.Bytes()); err != nil {
		t.Fatal(err)
	}
	l := newLoops()
	l.dev, l.kernel = dev, &leaving{kernel: linux{}, dev: dev, times: 3}
	d, err := l.bind(f, "x", false)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	loop, err := os.Open(d.path)
	if err == nil {
		err = errors.Join(l.kernel.ClearFile(loop), loop.Close())
	}
	if err != nil {
		t.Errorf("detach %s: %v", d.path, err)
	}
}
