// Package bench measures how growvol compares with mount-utils, which other drivers use, and what
// the plugins cost. No benchmark checks a time, because machines differ: compare only the ratios
// and counts of one run.
package bench

import (
	"context"
	"errors"
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
	starts *atomic.Int64
}

func (c countingExec) Command(name string, args ...string) utilexec.Cmd {
	c.starts.Add(1)
	return c.Interface.Command(name, args...)
}

func (c countingExec) CommandContext(ctx context.Context, name string, args ...string) utilexec.Cmd {
	c.starts.Add(1)
	return c.Interface.CommandContext(ctx, name, args...)
}

// BenchmarkGrowth grows mounted filesystems from 1 to 2 GiB, alternately with growvol's packages
// (rescan, wait, compare, ioctl, read back) and as other drivers do (rescan, then NeedResize and
// Resize of mount-utils). It verifies every growth outside of the measured time.
func BenchmarkGrowth(b *testing.B) {
	for _, fstype := range []string{"ext3", "ext4", "xfs"} {
		b.Run(fstype, func(b *testing.B) {
			if fstype != "xfs" && !hasCapability(unix.CAP_SYS_RESOURCE) {
				b.Skip("ext filesystems need CAP_SYS_RESOURCE, which this machine lacks (next step: run in the guest)")
			}
			var growvol, mountUtils samples
			for b.Loop() {
				growvol.add(b, fstype, growWithPackages)
				mountUtils.add(b, fstype, growWithMountUtils)
			}
			b.ReportMetric(0, "ns/op") // would include the set-up
			b.ReportMetric(growvol.median(), "growvol-ms")
			b.ReportMetric(mountUtils.median(), "mount-utils-ms")
			b.ReportMetric(mountUtils.median()/growvol.median(), "times-faster")
			b.ReportMetric(growvol.execs(), "growvol-execs")
			b.ReportMetric(mountUtils.execs(), "mount-utils-execs")
		})
	}
}

// samples has the measurements of one way of growing.
type samples struct {
	durations []time.Duration
	starts    atomic.Int64
}

// median returns the median duration in milliseconds.
func (s *samples) median() float64 {
	slices.Sort(s.durations)
	return float64(s.durations[len(s.durations)/2].Microseconds()) / 1000
}

// execs returns the programs that one growth starts, on average.
func (s *samples) execs() float64 { return float64(s.starts.Load()) / float64(len(s.durations)) }

// growFunc grows the filesystem on a device that the kernel has not rescanned yet.
type growFunc func(ctx context.Context, device, mountPoint string, e utilexec.Interface) error

func growWithPackages(ctx context.Context, device, mountPoint string, e utilexec.Interface) error {
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
	defer h.Close() //nolint:errcheck // the device is only read
	_, err = filesystem.New(filesystem.Options{Exec: e}).Grow(ctx, filesystem.GrowRequest{
		MountPoint: mountPoint, Device: h, Required: 2 * volume.GiB,
	})
	return err
}

func growWithMountUtils(ctx context.Context, device, mountPoint string, e utilexec.Interface) error {
	devices := blockdev.New()
	dev, err := devices.ByPath(device)
	if err != nil {
		return err
	}
	if _, err := devices.Rescan(ctx, dev); err != nil {
		return err
	}
	resizer := mount.NewResizeFs(e)
	isNeeded, err := resizer.NeedResize(device, mountPoint)
	if err != nil {
		return err
	}
	if !isNeeded {
		return errors.New("NeedResize reports false for a filesystem that is smaller than its device")
	}
	_, err = resizer.Resize(device, mountPoint)
	return err
}

// filesystemSize returns the size of the mounted filesystem.
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
	defer h.Close() //nolint:errcheck // the device is only read
	m, err := filesystem.New(filesystem.Options{}).Measure(ctx, h, mountPoint)
	return m.Size, err
}

// add measures one growth of a new filesystem.
func (s *samples) add(b *testing.B, fstype string, grow growFunc) {
	b.Helper()
	device, mountPoint := newFilesystem(b, fstype)
	e := countingExec{utilexec.New(), &s.starts}
	start := time.Now()
	err := grow(b.Context(), device, mountPoint, e)
	s.durations = append(s.durations, time.Since(start))
	if err != nil {
		b.Fatal(err)
	}
	if size, err := filesystemSize(b.Context(), device, mountPoint); err != nil || size != 2*volume.GiB {
		b.Fatalf("after the growth: got a filesystem of %s (%v), want 2 GiB", size, err)
	}
	run(b, "umount", mountPoint)
	run(b, "losetup", "-d", device)
	// The files may be in memory, so they cannot wait for the end of the benchmark.
	if err := os.Remove(filepath.Join(filepath.Dir(mountPoint), "volume")); err != nil {
		b.Fatal(err)
	}
}

// newFilesystem creates and mounts a filesystem of 1 GiB on a loop device, and then extends the
// file below the device to 2 GiB.
func newFilesystem(b *testing.B, fstype string) (device, mountPoint string) {
	b.Helper()
	dir := b.TempDir()
	file := filepath.Join(dir, "volume")
	run(b, "truncate", "-s", "1G", file)
	device = run(b, "losetup", "-f", "--show", file)
	mkfs := []string{"mkfs." + fstype, "-q", device}
	if fstype != "xfs" {
		mkfs = []string{"mkfs." + fstype, "-q", "-b", "4096", device}
	}
	run(b, mkfs...)
	mountPoint = filepath.Join(dir, "mnt")
	if err := os.Mkdir(mountPoint, 0o700); err != nil {
		b.Fatal(err)
	}
	run(b, "mount", device, mountPoint)
	run(b, "truncate", "-s", "2G", file)
	return device, mountPoint
}

// run runs a program and returns its output.
func run(b *testing.B, words ...string) string {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), words[0], words[1:]...) //nolint:gosec // programs of this file
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("%s: %v\n%s", strings.Join(words, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// hasCapability reports whether this process has the capability.
func hasCapability(capability int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[capability/32].Effective&(1<<(capability%32)) != 0
}
