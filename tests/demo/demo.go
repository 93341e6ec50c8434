package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/node"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/csiclient"
)

// The volumes of the demo and their writer.
const (
	firstSize = volume.GiB
	maxBytes  = 400 << 20 // written per filesystem; the guest keeps them in memory
	pause     = time.Millisecond
	// before and after are how long the writer runs alone around an expansion, so that a
	// stall of the writer falls into the measured time.
	before = 300 * time.Millisecond
	after  = 700 * time.Millisecond
)

// sizes returns the sizes that the volume grows to.
func sizes() []volume.Size { return []volume.Size{2 * volume.GiB, 6 * volume.GiB} }

// demo shows one volume of a running driver, with a timeline from start.
type demo struct {
	*csiclient.Deployment
	start time.Time
}

// show runs in the guest: it starts both plugins and shows one volume for each type of
// filesystem.
func show(ctx context.Context, bin string, types []filesystem.Type) (err error) {
	dir, err := os.MkdirTemp("", "growvol-demo")
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "plugins.log")) //nolint:gosec // our own directory
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			text, _ := os.ReadFile(log.Name()) //nolint:gosec // our own file, best effort
			fmt.Fprintf(os.Stderr, "\nlog of the plugins:\n%s\n", text)
		}
	}()
	d, err := csiclient.Deploy(ctx, bin, dir, log)
	if err != nil {
		return err
	}
	defer d.Kill()
	fmt.Printf("The guest runs Linux %s. growvol-controller started in %s, growvol-node in %s.\n",
		kernelRelease(), formatMS(d.ControllerPlugin.StartDuration), formatMS(d.NodePlugin.StartDuration))
	var names []string
	for _, t := range types {
		names = append(names, string(t))
		if err := (demo{d, time.Now()}).showVolume(ctx, t); err != nil {
			return fmt.Errorf("%s: %w", t, err)
		}
	}
	fmt.Printf("\nDone: %s grew from %s to %s in use, without a restart and without a lost byte.\n",
		strings.Join(names, " and "), firstSize, sizes()[len(sizes())-1])
	return d.Stop()
}

// showVolume creates a volume, grows it under a writer, verifies and deletes it.
func (d demo) showVolume(ctx context.Context, t filesystem.Type) error {
	fmt.Printf("\n── %s %s\n", t, strings.Repeat("─", 60-len(t)))
	v, err := d.Create(ctx, "demo-"+string(t), firstSize.Bytes(), csiclient.MountCapability(string(t)), nil)
	if err != nil {
		return err
	}
	d.print("volume of %s created", volume.Size(v.Size))
	if err := d.Use(ctx, v); err != nil {
		return err
	}
	d.print("attached, formatted and mounted: a pod could start now")
	w := csiclient.StartWriter(ctx, v.Target, maxBytes, pause)
	d.print("writer started: 64 KiB per write, fsync after each MiB, SHA-256 of every file")
	for _, size := range sizes() {
		if err := d.expand(ctx, v, w, size); err != nil {
			return errors.Join(err, w.Stop())
		}
	}
	if err := w.Stop(); err != nil {
		return fmt.Errorf("the writer failed: %w", err)
	}
	if err := d.verify(ctx, v, w, t); err != nil {
		return err
	}
	if err := d.Delete(ctx, v); err != nil {
		return err
	}
	d.print("volume deleted")
	return nil
}

// expand grows the volume under the writer and prints the size of every layer
// before and after. It fails when a layer has not grown.
func (d demo) expand(ctx context.Context, v *csiclient.Volume, w *csiclient.Writer, size volume.Size) error {
	if err := operation.Sleep(ctx, before); err != nil {
		return err
	}
	old, err := d.readLayers(ctx, v)
	if err != nil {
		return err
	}
	oldPhases, err := d.ExpandPhases(ctx)
	if err != nil {
		return err
	}
	w.TakeLongestStall()
	d.print("expansion to %s requested while the writer writes", size)
	e, err := d.Expand(ctx, v, size.Bytes())
	if err != nil {
		return err
	}
	if err := operation.Sleep(ctx, after); err != nil {
		return err
	}
	grown, err := d.readLayers(ctx, v)
	if err != nil {
		return err
	}
	phases, err := d.ExpandPhases(ctx)
	if err != nil {
		return err
	}
	if grown.device < size || grown.filesystem <= old.filesystem {
		return fmt.Errorf("the plugins answered OK, but the device has %s and the filesystem %s",
			grown.device, grown.filesystem)
	}
	duration := func(phase string) string { return formatMS(phases[phase] - oldPhases[phase]) }
	printRow("backend", old.backend, grown.backend, "ControllerExpandVolume took "+formatMS(e.ControllerDuration))
	printRow("device", old.device, grown.device,
		"NodeExpandVolume took "+formatMS(e.NodeDuration)+": the rescan of the device "+duration(node.PhaseDevice))
	printRow("filesystem", old.filesystem, grown.filesystem,
		"and the growth of the filesystem "+duration(node.PhaseFilesystem))
	printRow("free (df)", old.free, grown.free, "what the pod sees")
	fmt.Printf("              longest stall of the writer: %s; %s written so far\n",
		formatMS(w.TakeLongestStall()), formatSize(volume.Size(w.Bytes())))
	return nil
}

// printRow prints how one layer has grown.
func printRow(layer string, from, to volume.Size, comment string) {
	fmt.Printf("              %-11s %10s → %-10s %s\n", layer, formatSize(from), formatSize(to), comment)
}

// layers are the sizes of a volume's layers. None of them comes from the answer to an
// expansion.
type layers struct{ backend, device, filesystem, free volume.Size }

// readLayers reads the sizes of a volume that is published.
func (d demo) readLayers(ctx context.Context, v *csiclient.Volume) (layers, error) {
	var l layers
	got, err := d.Controller.ControllerGetVolume(ctx, &csi.ControllerGetVolumeRequest{VolumeId: v.ID})
	if err != nil {
		return l, err
	}
	l.backend = volume.Size(got.GetVolume().GetCapacityBytes())
	fs := filesystem.New(filesystem.Options{})
	m, found, err := fs.FindMount(v.Staging)
	if err != nil {
		return l, err
	}
	if !found {
		return l, fmt.Errorf("nothing is mounted at the staging path %s", v.Staging)
	}
	devices := blockdev.New()
	dev, err := devices.ByPath(m.Source)
	if err != nil {
		return l, err
	}
	if l.device, err = devices.Size(dev); err != nil {
		return l, err
	}
	h, err := devices.OpenContext(ctx, dev)
	if err != nil {
		return l, err
	}
	defer h.Close() //nolint:errcheck // only read from
	measured, err := fs.Measure(ctx, h, v.Staging)
	if err != nil {
		return l, err
	}
	l.filesystem = measured.Size
	_, free, err := d.Stats(ctx, v)
	l.free = volume.Size(free)
	return l, err
}

// verify mounts the volume again, so that the data comes from the device, compares
// every byte, and runs the filesystem's own check.
func (d demo) verify(ctx context.Context, v *csiclient.Volume, w *csiclient.Writer, t filesystem.Type) error {
	if err := errors.Join(d.Release(ctx, v), d.Use(ctx, v)); err != nil {
		return err
	}
	n, err := w.Verify(v.Target)
	if err != nil {
		return err
	}
	d.print("mounted again: %s read back, every byte as it was written", formatSize(volume.Size(n)))
	m, _, err := filesystem.New(filesystem.Options{}).FindMount(v.Staging)
	if err != nil {
		return err
	}
	if err := errors.Join(d.Unpublish(ctx, v), unix.Unmount(v.Staging, 0)); err != nil {
		return err
	}
	check := checkCommand(t)
	cmd := exec.CommandContext(ctx, check[0], append(check[1:], m.Source)...) //nolint:gosec // a fixed list
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(check, " "), err, out)
	}
	d.print("%s: clean", strings.Join(check, " "))
	return errors.Join(d.Unstage(ctx, v), d.Detach(ctx, v))
}

// checkCommand returns the command that checks a filesystem without changing it.
func checkCommand(t filesystem.Type) []string {
	switch t {
	case filesystem.TypeXFS:
		return []string{"xfs_repair", "-n"}
	case filesystem.TypeBtrfs:
		return []string{"btrfs", "check", "--readonly"}
	default:
		return []string{"e2fsck", "-f", "-n"}
	}
}

// print prints a line of the timeline.
func (d demo) print(format string, args ...any) {
	fmt.Printf("  %7.3f s   %s\n", time.Since(d.start).Seconds(), fmt.Sprintf(format, args...))
}

// formatMS formats a duration in milliseconds.
func formatMS(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}

// formatSize formats a size in MiB or GiB, rounded for people.
func formatSize(s volume.Size) string {
	if s < volume.GiB {
		return fmt.Sprintf("%.1f MiB", float64(s)/float64(volume.MiB))
	}
	return fmt.Sprintf("%.2f GiB", float64(s)/float64(volume.GiB))
}

// kernelRelease returns the release of the running kernel, as uname -r.
func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "(unknown)"
	}
	return unix.ByteSliceToString(u.Release[:])
}
