package road

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
	"github.com/growvol/growvol/tests/co"
)

const mib = int64(volume.MiB)

// finishAll releases and deletes volumes.
func finishAll(t *testing.T, d *co.Deployment, volumes ...*co.Volume) {
	t.Helper()
	for _, v := range volumes {
		must(t, d.Release(t.Context(), v))
		must(t, d.Delete(t.Context(), v))
	}
}

func mounted(t *testing.T, path string) bool {
	t.Helper()
	_, ok, err := filesystem.New(filesystem.Options{}).FindMount(path)
	must(t, err)
	return ok
}

// A pod writes to the raw device; asking for the volume as a filesystem must
// not make one over its data, whether it is in use still or not any more.
func TestRawDataIsNotFormattedOver(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := get(d.Create(ctx, name(t), 256*mib, co.Block(), nil))(t)
	must(t, d.Use(ctx, v))
	data := make([]byte, 20*mib)
	get(rand.Read(data))(t)
	f := get(os.OpenFile(v.Target, os.O_RDWR, 0))(t)
	get(f.WriteAt(data, 40*mib))(t) // away from where signatures are
	must(t, f.Sync())

	other := *v
	other.Capability, other.Staging = co.Mount("ext4"), v.Staging+"-mount"
	wantCode(t, d.Stage(ctx, &other), codes.FailedPrecondition, v.Target)
	must(t, f.Close())
	must(t, d.Unpublish(ctx, v))
	wantCode(t, d.Stage(ctx, &other), codes.FailedPrecondition, "unknown data")

	must(t, d.Publish(ctx, v))
	f = get(os.Open(v.Target))(t)
	back := make([]byte, len(data))
	get(f.ReadAt(back, 40*mib))(t)
	must(t, f.Close())
	if !bytes.Equal(data, back) {
		t.Error("the data has changed")
	}
	finishAll(t, d, v)
}

// A format that failed leaves no permit to format later.
func TestFailedFormatIsNotTakenUpAgain(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := get(d.Create(ctx, name(t), 256*mib, co.Mount("ext4"), nil))(t)
	must(t, d.Attach(ctx, v))
	v.Context = map[string]string{"mkfsOptions": "-O no_such_feature"}
	if err := d.Stage(ctx, v); err == nil {
		t.Fatal("staged with an option that mkfs does not know")
	}
	v.Context, v.Capability = nil, co.Block()
	must(t, d.Stage(ctx, v))
	must(t, d.Publish(ctx, v))
	data := make([]byte, 32*mib)
	get(rand.Read(data))(t)
	must(t, os.WriteFile(v.Target, data, 0o600))
	must(t, d.Unpublish(ctx, v))
	must(t, d.Unstage(ctx, v))
	v.Capability = co.Mount("ext4")
	wantCode(t, d.Stage(ctx, v), codes.FailedPrecondition, "unknown data")
	finishAll(t, d, v)
}

// What is another volume's is not unmounted, and what is in use is not cut
// off, whatever is asked.
func TestOnlyTheVolumesOwnMountsAreTakenAway(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	a := get(d.Create(ctx, name(t)+"-a", 64*mib, co.Mount("ext4"), nil))(t)
	b := get(d.Create(ctx, name(t)+"-b", 64*mib, co.Mount("ext4"), nil))(t)
	raw := get(d.Create(ctx, name(t)+"-raw", 64*mib, co.Block(), nil))(t)
	must(t, d.Use(ctx, b))
	must(t, d.Use(ctx, raw))

	wrong := *a
	wrong.Staging, wrong.Target = b.Staging, b.Target
	wantCode(t, d.Unstage(ctx, &wrong), codes.FailedPrecondition, b.Staging)
	wantCode(t, d.Unpublish(ctx, &wrong), codes.FailedPrecondition, b.Target)
	wrong.Target = filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(b.Target, wrong.Target))
	wantCode(t, d.Unpublish(ctx, &wrong), codes.FailedPrecondition, "symbolic link")
	if !mounted(t, b.Staging) || !mounted(t, b.Target) {
		t.Error("the mounts of another volume are gone")
	}

	wantCode(t, d.Unstage(ctx, raw), codes.FailedPrecondition, raw.Target)
	if dev := connected(t, raw); dev.Path == "" {
		t.Error("the raw device is gone from under its user")
	}
	must(t, os.Remove(wrong.Target))
	finishAll(t, d, b, raw)
	must(t, d.Delete(ctx, a))
}

// The storage below is full: the growth fails, ext4 has given up its journal,
// and the kernel's superblock shows the new size all the same. A retry must
// not find "already grown".
func TestGrowthOnFullStorageIsNoSuccess(t *testing.T) {
	back := filepath.Join(t.TempDir(), "back")
	must(t, os.Mkdir(back, 0o700))
	must(t, command(t, "mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", back))
	t.Cleanup(func() { must(t, run(context.WithoutCancel(t.Context()), t, nil, "umount", back)) })
	d, ctx := deploy(t, "--loop-dir="+filepath.Join(back, "volumes")), t.Context()
	v := get(d.Create(ctx, name(t), gib, co.Mount("ext4"), nil))(t)
	must(t, d.Use(ctx, v))
	filler := filepath.Join(back, "filler")
	_ = os.WriteFile(filler, make([]byte, 300*mib), 0o600) // as much as there is room for
	must(t, d.ExpandController(ctx, v, 500*gib))
	for range 3 {
		_, err := d.ExpandNode(ctx, v, 500*gib)
		wantCode(t, err, codes.FailedPrecondition, v.ID, "next step")
		t.Log(err)
		// The kernel records the error a moment after it has answered with it.
		<-time.After(200 * time.Millisecond)
	}
	must(t, os.Remove(filler))
	must(t, d.Unpublish(ctx, v))
	// What could not be written back is told once; then the device may go.
	if err := d.Unstage(ctx, v); err != nil {
		wantCode(t, err, codes.Internal, "input/output error")
		must(t, d.Unstage(ctx, v))
	}
	must(t, d.Detach(ctx, v))
	must(t, d.Delete(ctx, v))
}

// ReadWriteOncePod below a path with a symbolic link in it.
func TestSingleWriterBelowALink(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	capability := co.Mount("ext4")
	capability.AccessMode.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	v := get(d.Create(ctx, name(t), 64*mib, capability, nil))(t)
	link := filepath.Join(t.TempDir(), "kubelet")
	must(t, os.Symlink(t.TempDir(), link))
	v.Staging, v.Target = filepath.Join(link, "globalmount"), filepath.Join(link, "pod")
	must(t, d.Use(ctx, v))
	must(t, d.Use(ctx, v))
	first := v.Target
	v.Target = filepath.Join(link, "pod-2")
	wantCode(t, d.Publish(ctx, v), codes.FailedPrecondition, "one path")
	v.Target = first
	finishAll(t, d, v)
}

// A clone whose origin was in use, asked for read-only: its journal has to be
// replayed, which needs a writable device below the read-only mount.
func TestReadOnlyUseOfADirtyFilesystem(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		d, ctx := deploy(t), t.Context()
		v := get(d.Create(ctx, name(t)+fstype, gib, co.Mount(fstype), nil))(t)
		must(t, d.Use(ctx, v))
		must(t, os.WriteFile(filepath.Join(v.Target, "file"), []byte("content"), 0o600))
		dev := source(t, v.Staging)
		must(t, command(t, "sync"))
		image := filepath.Join(t.TempDir(), "image") // the device as it is in use
		must(t, command(t, "cp", "--sparse=always", dev.Path, image))
		must(t, d.Unpublish(ctx, v))
		unmount(t, v.Staging)
		must(t, command(t, "dd", "if="+image, "of="+dev.Path, "bs=1M", "conv=sparse,notrunc,fsync", "status=none"))
		must(t, d.Unstage(ctx, v))
		must(t, d.Detach(ctx, v))
		v.Capability.AccessMode.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
		must(t, d.Use(ctx, v))
		if text, err := os.ReadFile(filepath.Join(v.Target, "file")); err != nil || string(text) != "content" {
			t.Errorf("%s: %q, %v", fstype, text, err)
		}
		if err := os.WriteFile(filepath.Join(v.Target, "x"), nil, 0o600); err == nil {
			t.Errorf("%s: a read-only volume can be written to", fstype)
		}
		finishAll(t, d, v)
	}
}

// A check that takes longer than a call ends once, not never.
func TestSlowCheckEnds(t *testing.T) {
	bin := t.TempDir()
	log, ended := filepath.Join(bin, "log"), filepath.Join(bin, "ended")
	check := "#!/bin/sh\necho start >> " + log + "\nuntil [ -e " + ended + " ]; do sleep 0.1; done\necho end >> " + log + "\n"
	must(t, os.WriteFile(filepath.Join(bin, "e2fsck"), []byte(check), 0o755)) //nolint:gosec // a program
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	d, ctx := deploy(t), t.Context()
	v := get(d.Create(ctx, name(t), 64*mib, co.Mount("ext4"), nil))(t)
	must(t, d.Use(ctx, v))
	must(t, d.Release(ctx, v))
	must(t, d.Attach(ctx, v))
	err := error(nil)
	for patience := time.Second; err == nil || !strings.Contains(err.Error(), "checking"); patience *= 2 { // a busy machine may not come that far
		hurried, cancel := context.WithTimeout(ctx, patience)
		err = d.Stage(hurried, v)
		cancel()
		if patience > time.Minute {
			break
		}
	}
	wantCode(t, err, codes.DeadlineExceeded, "checking")
	must(t, os.WriteFile(ended, nil, 0o600))
	must(t, d.Stage(ctx, v))
	// Once by the call that gave up, once more by the one that followed, which
	// found a sound filesystem that was not mounted yet.
	text := get(os.ReadFile(log))(t)
	begun, done := bytes.Count(text, []byte("start")), bytes.Count(text, []byte("end"))
	if begun > 2 || done != begun {
		t.Errorf("%d checks have come to their end of %d that were started", done, begun)
	}
	must(t, d.Publish(ctx, v))
	finishAll(t, d, v)
}
