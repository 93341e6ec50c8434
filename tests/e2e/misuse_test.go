package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

const mib = int64(volume.MiB)

// releaseAndDelete releases and deletes volumes.
func releaseAndDelete(t *testing.T, d *csiclient.Deployment, volumes ...*csiclient.Volume) {
	t.Helper()
	for _, v := range volumes {
		must.Succeed(t, d.Release(t.Context(), v))
		must.Succeed(t, d.Delete(t.Context(), v))
	}
}

func isMounted(t *testing.T, path string) bool {
	t.Helper()
	_, ok, err := filesystem.New(filesystem.Options{}).FindMount(path)
	must.Succeed(t, err)
	return ok
}

// A pod writes to the raw device; asking for the volume as a filesystem must
// not make one over its data, whether it is in use still or not any more.
func TestStageDoesNotFormatOverRawData(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := must.Value(d.Create(ctx, volumeName(t), 256*mib, csiclient.BlockCapability(), nil))(t)
	must.Succeed(t, d.Use(ctx, v))
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
		t.Error("the data has changed")
	}
	releaseAndDelete(t, d, v)
}

// A format that failed leaves no permit to format later.
func TestFailedFormatIsNotRepeated(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := must.Value(d.Create(ctx, volumeName(t), 256*mib, csiclient.MountCapability("ext4"), nil))(t)
	must.Succeed(t, d.Attach(ctx, v))
	v.VolumeContext = map[string]string{"mkfsOptions": "-O no_such_feature"}
	if err := d.Stage(ctx, v); err == nil {
		t.Fatal("staged with an option that mkfs does not know")
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

// What is another volume's is not unmounted, and what is in use is not cut
// off, whatever is asked.
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
		t.Error("the mounts of another volume are gone")
	}

	must.FailWith(t, d.Unstage(ctx, raw), codes.FailedPrecondition, raw.Target)
	if dev := loopDeviceOf(t, raw); dev.Path == "" {
		t.Error("the raw device is gone from under its user")
	}
	must.Succeed(t, os.Remove(wrong.Target))
	releaseAndDelete(t, d, b, raw)
	must.Succeed(t, d.Delete(ctx, a))
}

// The storage below is full: the growth fails, ext4 has given up its journal,
// and the kernel's superblock shows the new size all the same. A retry must
// not find "already grown".
func TestExpandFailsOnFullStorage(t *testing.T) {
	back := filepath.Join(t.TempDir(), "back")
	must.Succeed(t, os.Mkdir(back, 0o700))
	must.Succeed(t, runCommand(t, "mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", back))
	t.Cleanup(func() { must.Succeed(t, runWithInput(context.WithoutCancel(t.Context()), t, nil, "umount", back)) })
	d, ctx := deploy(t, "--loop-dir="+filepath.Join(back, "volumes")), t.Context()
	v := must.Value(d.Create(ctx, volumeName(t), gib, csiclient.MountCapability("ext4"), nil))(t)
	must.Succeed(t, d.Use(ctx, v))
	filler := filepath.Join(back, "filler")
	_ = os.WriteFile(filler, make([]byte, 300*mib), 0o600) // as much as there is room for
	must.Succeed(t, d.ExpandController(ctx, v, 500*gib))
	for range 3 {
		_, err := d.ExpandNode(ctx, v, 500*gib)
		must.FailWith(t, err, codes.FailedPrecondition, v.ID, "next step")
		t.Log(err)
		// The kernel records the error a moment after it has answered with it.
		<-time.After(200 * time.Millisecond)
	}
	must.Succeed(t, os.Remove(filler))
	must.Succeed(t, d.Unpublish(ctx, v))
	// What could not be written back is told once; then the device may go.
	if err := d.Unstage(ctx, v); err != nil {
		must.FailWith(t, err, codes.Internal, "input/output error")
		must.Succeed(t, d.Unstage(ctx, v))
	}
	must.Succeed(t, d.Detach(ctx, v))
	must.Succeed(t, d.Delete(ctx, v))
}

// ReadWriteOncePod below a path with a symbolic link in it.
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

// A clone whose origin was in use, asked for read-only: its journal has to be
// replayed, which needs a writable device below the read-only mount.
func TestReadOnlyStageReplaysTheJournal(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		d, ctx := deploy(t), t.Context()
		v := must.Value(d.Create(ctx, volumeName(t)+fstype, gib, csiclient.MountCapability(fstype), nil))(t)
		must.Succeed(t, d.Use(ctx, v))
		must.Succeed(t, os.WriteFile(filepath.Join(v.Target, "file"), []byte("content"), 0o600))
		dev := mountedDevice(t, v.Staging)
		must.Succeed(t, runCommand(t, "sync"))
		image := filepath.Join(t.TempDir(), "image") // the device as it is in use
		must.Succeed(t, runCommand(t, "cp", "--sparse=always", dev.Path, image))
		must.Succeed(t, d.Unpublish(ctx, v))
		unmount(t, v.Staging)
		must.Succeed(t, runCommand(t, "dd", "if="+image, "of="+dev.Path, "bs=1M", "conv=sparse,notrunc,fsync", "status=none"))
		must.Succeed(t, d.Unstage(ctx, v))
		must.Succeed(t, d.Detach(ctx, v))
		v.Capability.AccessMode.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
		must.Succeed(t, d.Use(ctx, v))
		if text, err := os.ReadFile(filepath.Join(v.Target, "file")); err != nil || string(text) != "content" {
			t.Errorf("%s: %q, %v", fstype, text, err)
		}
		if err := os.WriteFile(filepath.Join(v.Target, "x"), nil, 0o600); err == nil {
			t.Errorf("%s: a read-only volume can be written to", fstype)
		}
		releaseAndDelete(t, d, v)
	}
}

// A check that takes longer than a call ends once, not never.
func TestStageContinuesASlowCheck(t *testing.T) {
	bin := t.TempDir()
	log, ended := filepath.Join(bin, "log"), filepath.Join(bin, "ended")
	check := "#!/bin/sh\necho start >> " + log + "\nuntil [ -e " + ended + " ]; do sleep 0.1; done\necho end >> " + log + "\n"
	must.Succeed(t, os.WriteFile(filepath.Join(bin, "e2fsck"), []byte(check), 0o755)) //nolint:gosec // a program
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	d, ctx := deploy(t), t.Context()
	v := must.Value(d.Create(ctx, volumeName(t), 64*mib, csiclient.MountCapability("ext4"), nil))(t)
	must.Succeed(t, d.Use(ctx, v))
	must.Succeed(t, d.Release(ctx, v))
	must.Succeed(t, d.Attach(ctx, v))
	err := error(nil)
	for patience := time.Second; err == nil || !strings.Contains(err.Error(), "checking"); patience *= 2 { // a busy machine may not come that far
		hurried, cancel := context.WithTimeout(ctx, patience)
		err = d.Stage(hurried, v)
		cancel()
		if patience > time.Minute {
			break
		}
	}
	must.FailWith(t, err, codes.DeadlineExceeded, "checking")
	must.Succeed(t, os.WriteFile(ended, nil, 0o600))
	must.Succeed(t, d.Stage(ctx, v))
	// Once by the call that gave up, once more by the one that followed, which
	// found a sound filesystem that was not mounted yet.
	text := must.Value(os.ReadFile(log))(t)
	begun, done := bytes.Count(text, []byte("start")), bytes.Count(text, []byte("end"))
	if begun > 2 || done != begun {
		t.Errorf("%d checks have come to their end of %d that were started", done, begun)
	}
	must.Succeed(t, d.Publish(ctx, v))
	releaseAndDelete(t, d, v)
}
