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

	"github.com/growvol/growvol/pkg/operation"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/node"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/csiclient"
)

const (
	firstSize   = volume.GiB
	writeBudget = 400 << 20 // bytes per filesystem; the guest keeps them in memory
	writePause  = time.Millisecond
	// before and after tell how long the writer runs alone around an
	// expansion, so that a stall would be caught in the act.
	before = 300 * time.Millisecond
	after  = 700 * time.Millisecond
)

// steps are the sizes the volume grows to.
func steps() []volume.Size { return []volume.Size{2 * volume.GiB, 6 * volume.GiB} }

// stage is the demo under way in the guest.
type stage struct {
	*csiclient.Deployment
	start time.Time
}

// show runs in the guest: both plugins, then one volume per filesystem.
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
	fmt.Printf("Linux %s in a guest; growvol-controller up in %s, growvol-node in %s.\n", release(), ms(d.ControllerPlugin.StartDuration), ms(d.NodePlugin.StartDuration))
	var names []string
	for _, t := range types {
		names = append(names, string(t))
		s := stage{Deployment: d, start: time.Now()}
		if err := s.play(ctx, t); err != nil {
			return fmt.Errorf("%s: %w", t, err)
		}
	}
	fmt.Printf("\nDone: %s grew from %s to %s in use; no restart, no lost byte.\n", strings.Join(names, " and "), firstSize, steps()[len(steps())-1])
	return d.Stop()
}

// play is the life of one volume.
func (s *stage) play(ctx context.Context, t filesystem.Type) error {
	fmt.Printf("\n── %s %s\n", t, strings.Repeat("─", 60-len(t)))
	d := s.Driver
	v, err := d.Create(ctx, "demo-"+string(t), firstSize.Bytes(), csiclient.MountCapability(string(t)), nil)
	if err != nil {
		return err
	}
	s.say("created: a volume of %s", volume.Size(v.Size))
	if err := d.Use(ctx, v); err != nil {
		return err
	}
	s.say("attached, formatted, mounted: a pod could start now")
	w := csiclient.StartWriter(ctx, v.Target, writeBudget, writePause)
	s.say("a writer starts: 64 KiB writes, fsync after each MiB, SHA-256 of everything")
	for _, size := range steps() {
		if err := s.expand(ctx, v, w, size); err != nil {
			return errors.Join(err, w.Stop())
		}
	}
	if err := w.Stop(); err != nil {
		return fmt.Errorf("the writer was disturbed: %w", err)
	}
	if err := s.verify(ctx, v, w, t); err != nil {
		return err
	}
	if err := d.Delete(ctx, v); err != nil {
		return err
	}
	s.say("deleted")
	return nil
}

// expand grows the volume under the writer and shows every layer.
func (s *stage) expand(ctx context.Context, v *csiclient.Volume, w *csiclient.Writer, size volume.Size) error {
	if err := operation.Sleep(ctx, before); err != nil {
		return err
	}
	old, err := s.layers(ctx, v)
	if err != nil {
		return err
	}
	was, err := s.ExpandPhases(ctx)
	if err != nil {
		return err
	}
	w.TakeLongestStall()
	s.say("asked for %s, while the writer writes", size)
	e, err := s.Expand(ctx, v, size.Bytes())
	if err != nil {
		return err
	}
	if err := operation.Sleep(ctx, after); err != nil {
		return err
	}
	now, err := s.layers(ctx, v)
	if err != nil {
		return err
	}
	phases, err := s.ExpandPhases(ctx)
	if err != nil {
		return err
	}
	took := func(p node.Phase) string { return ms(phases[string(p)] - was[string(p)]) }
	if now.device < size || now.filesystem <= old.filesystem {
		return fmt.Errorf("the plugins answered OK, but the device has %s and the filesystem %s", now.device, now.filesystem)
	}
	line := func(layer string, from, to volume.Size, how string) {
		fmt.Printf("              %-11s %10s → %-10s %s\n", layer, short(from), short(to), how)
	}
	line("backend", old.backend, now.backend, "ControllerExpandVolume "+ms(e.ControllerDuration))
	line("device", old.device, now.device, "NodeExpandVolume "+ms(e.NodeDuration)+", of it rescanning the device "+took(node.PhaseDevice))
	line("filesystem", old.filesystem, now.filesystem, "… and growing the filesystem "+took(node.PhaseFilesystem))
	line("free (df)", old.free, now.free, "as the pod sees it")
	fmt.Printf("              longest stall of the writer: %s; %s written so far\n", ms(w.TakeLongestStall()), short(volume.Size(w.Bytes())))
	return nil
}

// layers are the sizes that can be read of a volume, none of them from what
// the plugins answered to an expansion.
type layers struct{ backend, device, filesystem, free volume.Size }

func (s *stage) layers(ctx context.Context, v *csiclient.Volume) (layers, error) {
	var l layers
	got, err := s.Controller.ControllerGetVolume(ctx, &csi.ControllerGetVolumeRequest{VolumeId: v.ID})
	if err != nil {
		return l, err
	}
	l.backend = volume.Size(got.GetVolume().GetCapacityBytes())
	fs := filesystem.New(filesystem.Options{})
	m, ok, err := fs.FindMount(v.Staging)
	if err != nil || !ok {
		return l, fmt.Errorf("no mount at the staging path (%w)", err)
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
	g, err := fs.Geometry(ctx, h, v.Staging)
	if err != nil {
		return l, err
	}
	l.filesystem = g.Size()
	_, free, err := s.Stats(ctx, v)
	l.free = volume.Size(free)
	return l, err
}

// verify mounts the volume anew, so that what is read comes from the device,
// compares every byte, and has the filesystem's own tool check it.
func (s *stage) verify(ctx context.Context, v *csiclient.Volume, w *csiclient.Writer, t filesystem.Type) error {
	d := s.Driver
	if err := errors.Join(d.Release(ctx, v), d.Use(ctx, v)); err != nil {
		return err
	}
	n, err := w.Verify(v.Target)
	if err != nil {
		return err
	}
	s.say("mounted anew; verified %s byte by byte: all as it was written", short(volume.Size(n)))
	m, _, err := filesystem.New(filesystem.Options{}).FindMount(v.Staging)
	if err != nil {
		return err
	}
	if err := errors.Join(d.Unpublish(ctx, v), unix.Unmount(v.Staging, 0)); err != nil {
		return err
	}
	check := fsck(t)
	out, err := exec.CommandContext(ctx, check[0], append(check[1:], m.Source)...).CombinedOutput() //nolint:gosec // a fixed list
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(check, " "), err, out)
	}
	s.say("%s: clean", strings.Join(check, " "))
	return errors.Join(d.Unstage(ctx, v), d.Detach(ctx, v))
}

// fsck is the command that checks a filesystem without touching it.
func fsck(t filesystem.Type) []string {
	switch t {
	case filesystem.TypeXFS:
		return []string{"xfs_repair", "-n"}
	case filesystem.TypeBtrfs:
		return []string{"btrfs", "check", "--readonly"}
	default:
		return []string{"e2fsck", "-f", "-n"}
	}
}

// say prints a line of the timeline.
func (s *stage) say(format string, args ...any) {
	fmt.Printf("  %7.3f s   %s\n", time.Since(s.start).Seconds(), fmt.Sprintf(format, args...))
}

// ms renders a duration in milliseconds.
func ms(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}

// short renders a size in MiB or GiB for people, rounded.
func short(s volume.Size) string {
	if s < volume.GiB {
		return fmt.Sprintf("%.1f MiB", float64(s)/float64(volume.MiB))
	}
	return fmt.Sprintf("%.2f GiB", float64(s)/float64(volume.GiB))
}

func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "(unknown)"
	}
	return unix.ByteSliceToString(u.Release[:])
}
