// Package bench measures. Nothing in it asserts a time: machines differ. What
// counts are the ratios and the counts, taken in one run on one machine.
package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	mount "k8s.io/mount-utils"
	utilexec "k8s.io/utils/exec"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// countingExec counts the programs that are started through it.
type countingExec struct {
	utilexec.Interface
	n *atomic.Int64
}

func (c countingExec) Command(name string, args ...string) utilexec.Cmd {
	c.n.Add(1)
	return c.Interface.Command(name, args...)
}

func (c countingExec) CommandContext(ctx context.Context, name string, args ...string) utilexec.Cmd {
	c.n.Add(1)
	return c.Interface.CommandContext(ctx, name, args...)
}

// BenchmarkGrowth grows mounted filesystems from 1 to 2 GiB, in turns by our
// path (rescan, await, compare, ioctl, read back) and by what other drivers do
// (rescan, then mount-utils' NeedResize and Resize). Every growth is verified
// outside of the time that is measured.
func BenchmarkGrowth(b *testing.B) {
	for _, fstype := range []string{"ext3", "ext4", "xfs"} {
		b.Run(fstype, func(b *testing.B) {
			if fstype != "xfs" && !capable(unix.CAP_SYS_RESOURCE) {
				b.Skip("this machine lacks CAP_SYS_RESOURCE, without which no ext filesystem grows; the guest has it")
			}
			var ours, theirs samples
			for b.Loop() {
				ours.add(b, fstype, grow)
				theirs.add(b, fstype, mountUtils)
			}
			b.ReportMetric(0, "ns/op") // set-up included, it would mislead
			b.ReportMetric(ours.median(), "ours-ms")
			b.ReportMetric(theirs.median(), "mount-utils-ms")
			b.ReportMetric(theirs.median()/ours.median(), "times-faster")
			b.ReportMetric(ours.execs(), "ours-execs")
			b.ReportMetric(theirs.execs(), "mount-utils-execs")
		})
	}
}

type samples struct {
	took []time.Duration
	n    atomic.Int64
}

func (s *samples) median() float64 {
	slices.Sort(s.took)
	return float64(s.took[len(s.took)/2].Microseconds()) / 1000
}

func (s *samples) execs() float64 { return float64(s.n.Load()) / float64(len(s.took)) }

// way grows the filesystem on a device that the kernel has not rescanned.
type way func(ctx context.Context, device, mountPoint string, e utilexec.Interface) error

func grow(ctx context.Context, device, mountPoint string, e utilexec.Interface) error {
	devices := blockdev.New()
	dev, err := devices.ByPath(device)
	if err != nil {
		return err
	}
	if _, err := devices.AwaitSize(ctx, dev, 2*volume.GiB); err != nil {
		return err
	}
	h, err := devices.OpenContext(ctx, dev)
	if err != nil {
		return err
	}
	defer h.Close() //nolint:errcheck // only read from
	_, err = filesystem.New(filesystem.Options{Exec: e}).Grow(ctx, filesystem.GrowRequest{MountPoint: mountPoint, Device: h, Required: 2 * volume.GiB})
	return err
}

func mountUtils(ctx context.Context, device, mountPoint string, e utilexec.Interface) error {
	devices := blockdev.New()
	dev, err := devices.ByPath(device)
	if err != nil {
		return err
	}
	if _, err := devices.Rescan(ctx, dev); err != nil {
		return err
	}
	resizer := mount.NewResizeFs(e)
	need, err := resizer.NeedResize(device, mountPoint)
	if err != nil || !need {
		return fmt.Errorf("need %t: %w", need, err)
	}
	_, err = resizer.Resize(device, mountPoint)
	return err
}

// filesystemSize reads the size of the mounted filesystem.
func filesystemSize(ctx context.Context, device, mountPoint string) (volume.Size, error) {
	devices := blockdev.New()
	dev, err := devices.ByPath(device)
	if err != nil {
		return 0, err
	}
	h, err := devices.Open(dev)
	if err != nil {
		return 0, err
	}
	defer h.Close() //nolint:errcheck // only read from
	g, err := filesystem.New(filesystem.Options{}).Geometry(ctx, h, mountPoint)
	return g.Size(), err
}

// add measures one growth of a fresh filesystem.
func (s *samples) add(b *testing.B, fstype string, by way) {
	b.Helper()
	device, mountPoint := fresh(b, fstype)
	e := countingExec{utilexec.New(), &s.n}
	start := time.Now()
	err := by(b.Context(), device, mountPoint, e)
	s.took = append(s.took, time.Since(start))
	if err != nil {
		b.Fatal(err)
	}
	if size, err := filesystemSize(b.Context(), device, mountPoint); err != nil || size != 2*volume.GiB {
		b.Fatalf("the filesystem has %s, %v", size, err)
	}
	sh(b, "umount", mountPoint)
	sh(b, "losetup", "-d", device)
	// Not at the end of the benchmark: the files lie in memory.
	if err := os.Remove(filepath.Join(filepath.Dir(mountPoint), "volume")); err != nil {
		b.Fatal(err)
	}
}

// fresh makes and mounts a filesystem of 1 GiB on a loop device whose file has
// 2 GiB already.
func fresh(b *testing.B, fstype string) (device, mountPoint string) {
	b.Helper()
	dir := b.TempDir()
	file := filepath.Join(dir, "volume")
	sh(b, "truncate", "-s", "1G", file)
	device = sh(b, "losetup", "-f", "--show", file)
	mkfs := []string{"mkfs." + fstype, "-q", device}
	if fstype != "xfs" {
		mkfs = []string{"mkfs." + fstype, "-q", "-b", "4096", device}
	}
	sh(b, mkfs...)
	mountPoint = filepath.Join(dir, "mnt")
	if err := os.Mkdir(mountPoint, 0o700); err != nil {
		b.Fatal(err)
	}
	sh(b, "mount", device, mountPoint)
	sh(b, "truncate", "-s", "2G", file)
	return device, mountPoint
}

func sh(b *testing.B, words ...string) string {
	b.Helper()
	out, err := exec.CommandContext(b.Context(), words[0], words[1:]...).CombinedOutput() //nolint:gosec // fixed programs
	if err != nil {
		b.Fatalf("%s: %v\n%s", strings.Join(words, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// capable tells whether this process has the capability.
func capable(capability int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[capability/32].Effective&(1<<(capability%32)) != 0
}
