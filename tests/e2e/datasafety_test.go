package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// A pod writes to the raw device. A stage of the volume as a filesystem must not
// format over the data, neither while the device is in use nor afterwards.
func TestStageDoesNotFormatOverRawData(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := createAndUse(t, d, volumeName(t), 256*mib, csiclient.BlockCapability())
	data := make([]byte, 20*mib)
	must.Value(rand.Read(data))(t)
	f := must.Value(os.OpenFile(v.Target, os.O_RDWR, 0))(t)
	must.Value(f.WriteAt(data, 40*mib))(t) // away from where signatures are
	must.Succeed(t, f.Sync())

	other := *v
	other.Capability, other.Staging = csiclient.MountCapability("ext4"), v.Staging+"-mount"
	must.FailWith(t, d.Stage(ctx, &other), codes.FailedPrecondition, v.Target)
	must.Succeed(t, f.Close())
	must.Succeed(t, d.Unpublish(ctx, v))
	must.FailWith(t, d.Stage(ctx, &other), codes.FailedPrecondition, "unknown data")

	must.Succeed(t, d.Publish(ctx, v))
	f = must.Value(os.Open(v.Target))(t)
	back := make([]byte, len(data))
	must.Value(f.ReadAt(back, 40*mib))(t)
	must.Succeed(t, f.Close())
	if !bytes.Equal(data, back) {
		t.Error("the data read back differs from what was written")
	}
	releaseAndDelete(t, d, v)
}

// A format that failed does not permit a later stage to format data that was
// written in between.
func TestFailedFormatIsNotRepeated(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := must.Value(d.Create(ctx, volumeName(t), 256*mib, csiclient.MountCapability("ext4"), nil))(t)
	must.Succeed(t, d.Attach(ctx, v))
	v.VolumeContext = map[string]string{"mkfsOptions": "-O no_such_feature"}
	if err := d.Stage(ctx, v); err == nil {
		t.Fatal("stage succeeded with an option that mkfs does not know")
	}
	v.VolumeContext, v.Capability = nil, csiclient.BlockCapability()
	must.Succeed(t, d.Stage(ctx, v))
	must.Succeed(t, d.Publish(ctx, v))
	data := make([]byte, 32*mib)
	must.Value(rand.Read(data))(t)
	must.Succeed(t, os.WriteFile(v.Target, data, 0o600))
	must.Succeed(t, d.Unpublish(ctx, v))
	must.Succeed(t, d.Unstage(ctx, v))
	v.Capability = csiclient.MountCapability("ext4")
	must.FailWith(t, d.Stage(ctx, v), codes.FailedPrecondition, "unknown data")
	releaseAndDelete(t, d, v)
}

// Unpublish and unstage refuse paths where another volume is mounted, symbolic
// links to them, and a raw device that is still published.
func TestUnmountRefusesMountsOfOtherVolumes(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	a := must.Value(d.Create(ctx, volumeName(t)+"-a", 64*mib, csiclient.MountCapability("ext4"), nil))(t)
	b := must.Value(d.Create(ctx, volumeName(t)+"-b", 64*mib, csiclient.MountCapability("ext4"), nil))(t)
	raw := must.Value(d.Create(ctx, volumeName(t)+"-raw", 64*mib, csiclient.BlockCapability(), nil))(t)
	must.Succeed(t, d.Use(ctx, b))
	must.Succeed(t, d.Use(ctx, raw))

	wrong := *a
	wrong.Staging, wrong.Target = b.Staging, b.Target
	must.FailWith(t, d.Unstage(ctx, &wrong), codes.FailedPrecondition, b.Staging)
	must.FailWith(t, d.Unpublish(ctx, &wrong), codes.FailedPrecondition, b.Target)
	wrong.Target = filepath.Join(t.TempDir(), "link")
	must.Succeed(t, os.Symlink(b.Target, wrong.Target))
	must.FailWith(t, d.Unpublish(ctx, &wrong), codes.FailedPrecondition, "symbolic link")
	if !isMounted(t, b.Staging) || !isMounted(t, b.Target) {
		t.Error("the mounts of the other volume are gone")
	}

	must.FailWith(t, d.Unstage(ctx, raw), codes.FailedPrecondition, raw.Target)
	loopDeviceOf(t, raw) // the test ends if the volume has none
	must.Succeed(t, os.Remove(wrong.Target))
	releaseAndDelete(t, d, b, raw)
	must.Succeed(t, d.Delete(ctx, a))
}

// The storage below the volume is full: the growth fails, ext4 aborts its journal, but
// the kernel's superblock already shows the new size. A retry must not take that for a
// success.
func TestExpandFailsOnFullStorage(t *testing.T) {
	storage := filepath.Join(t.TempDir(), "storage")
	must.Succeed(t, os.Mkdir(storage, 0o700))
	must.Succeed(t, runCommand(t, "mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", storage))
	t.Cleanup(func() {
		must.Succeed(t, runWithInput(context.WithoutCancel(t.Context()), t, "", "umount", storage))
	})
	d, ctx := deploy(t, "--loop-dir="+filepath.Join(storage, "volumes")), t.Context()
	v := createAndUse(t, d, volumeName(t), gib, csiclient.MountCapability("ext4"))
	filler := filepath.Join(storage, "filler")
	_ = os.WriteFile(filler, make([]byte, 300*mib), 0o600) // fails when the storage is full
	must.Succeed(t, d.ExpandController(ctx, v, 500*gib))
	for range 3 {
		_, err := d.ExpandNode(ctx, v, 500*gib)
		must.FailWith(t, err, codes.FailedPrecondition, v.ID, "next step")
		t.Log(err)
		// The kernel records the error some milliseconds after it returned it.
		<-time.After(200 * time.Millisecond)
	}
	must.Succeed(t, os.Remove(filler))
	must.Succeed(t, d.Unpublish(ctx, v))
	// The kernel reports a failed write-back once; the next unstage succeeds.
	if err := d.Unstage(ctx, v); err != nil {
		must.FailWith(t, err, codes.Internal, "input/output error")
		must.Succeed(t, d.Unstage(ctx, v))
	}
	must.Succeed(t, d.Detach(ctx, v))
	must.Succeed(t, d.Delete(ctx, v))
}

// The access mode of ReadWriteOncePod allows one target path, also when the path leads
// through a symbolic link.
func TestSingleWriterModeBelowASymbolicLink(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	capability := csiclient.MountCapability("ext4")
	capability.AccessMode.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	v := must.Value(d.Create(ctx, volumeName(t), 64*mib, capability, nil))(t)
	link := filepath.Join(t.TempDir(), "kubelet")
	must.Succeed(t, os.Symlink(t.TempDir(), link))
	v.Staging, v.Target = filepath.Join(link, "globalmount"), filepath.Join(link, "pod")
	must.Succeed(t, d.Use(ctx, v))
	must.Succeed(t, d.Use(ctx, v))
	first := v.Target
	v.Target = filepath.Join(link, "pod-2")
	must.FailWith(t, d.Publish(ctx, v), codes.FailedPrecondition, "one path")
	v.Target = first
	releaseAndDelete(t, d, v)
}

// A volume with an unreplayed journal, as a clone of a volume in use has, is staged
// read-only. The kernel replays the journal, for which it needs a writable device below
// the read-only mount.
func TestReadOnlyStageReplaysTheJournal(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		d, ctx := deploy(t), t.Context()
		v := createAndUse(t, d, volumeName(t)+fstype, gib, csiclient.MountCapability(fstype))
		must.Succeed(t, os.WriteFile(filepath.Join(v.Target, "file"), []byte("content"), 0o600))
		dev := mountedDevice(t, v.Staging)
		must.Succeed(t, runCommand(t, "sync"))
		image := filepath.Join(t.TempDir(), "image") // of the device while it is in use
		must.Succeed(t, runCommand(t, "cp", "--sparse=always", dev.Path, image))
		must.Succeed(t, d.Unpublish(ctx, v))
		unmount(t, v.Staging)
		must.Succeed(t, runCommand(t, "dd", "if="+image, "of="+dev.Path, "bs=1M", "conv=sparse,notrunc,fsync", "status=none"))
		must.Succeed(t, d.Unstage(ctx, v))
		must.Succeed(t, d.Detach(ctx, v))
		v.Capability.AccessMode.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
		must.Succeed(t, d.Use(ctx, v))
		if text, err := os.ReadFile(filepath.Join(v.Target, "file")); err != nil || string(text) != "content" {
			t.Errorf("%s: read %q, %v; want the file's content", fstype, text, err)
		}
		if err := os.WriteFile(filepath.Join(v.Target, "x"), nil, 0o600); err == nil {
			t.Errorf("%s: a write to a read-only volume succeeded", fstype)
		}
		releaseAndDelete(t, d, v)
	}
}

// A filesystem check that takes longer than the call continues after it, and the next
// call waits for it instead of starting the check again.
func TestStageContinuesASlowCheck(t *testing.T) {
	bin := t.TempDir()
	log, ended := filepath.Join(bin, "log"), filepath.Join(bin, "ended")
	script := fmt.Sprintf(`#!/bin/sh
echo start >> %[1]s
until [ -e %[2]s ]; do sleep 0.1; done
echo end >> %[1]s
`, log, ended)
	must.Succeed(t, os.WriteFile(filepath.Join(bin, "e2fsck"), []byte(script), 0o755)) //nolint:gosec // a program
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	d, ctx := deploy(t), t.Context()
	v := createAndUse(t, d, volumeName(t), 64*mib, csiclient.MountCapability("ext4"))
	must.Succeed(t, d.Release(ctx, v))
	must.Succeed(t, d.Attach(ctx, v))
	stageUntil(t, d, v, "checking")
	must.Succeed(t, os.WriteFile(ended, nil, 0o600))
	must.Succeed(t, d.Stage(ctx, v))
	// One check belongs to the call that timed out. The next call may run one more, of a
	// filesystem that is not mounted yet.
	text := must.Value(os.ReadFile(log))(t)
	started, finished := bytes.Count(text, []byte("start")), bytes.Count(text, []byte("end"))
	if started > 2 || finished != started {
		t.Errorf("got %d checks started and %d finished, want equal numbers, 2 at most", started, finished)
	}
	must.Succeed(t, d.Publish(ctx, v))
	releaseAndDelete(t, d, v)
}
