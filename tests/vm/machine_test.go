package vm_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/vm"
)

// serial is the serial of the disks of TestMachine, as Nova sets it.
const serial = "d25f9882-eb5a-41ea-8d34-3f1f54cfb2b2"

func TestMain(m *testing.M) {
	vm.DisableTestCache()
	os.Exit(m.Run())
}

// One machine from boot to panic: what the tests of other packages rely on.
func TestMachine(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	ctx := t.Context()
	image := must.Value(vm.BuildImage(ctx, t.TempDir(), vm.ImageOptions{}))(t)
	m := must.Value(vm.Start(ctx, vm.Options{Image: image, CPUs: 1}))(t)
	defer m.Close() //nolint:errcheck // closed below
	t.Logf("booted Linux %s in %s", m.Kernel, m.BootTime.Round(time.Millisecond))
	if m.Kernel != image.Version {
		t.Errorf("got kernel %s, want the image's: %s", m.Kernel, image.Version)
	}

	t.Run("network", func(t *testing.T) {
		out := sh(t, m, "ip route; ip addr show lo")
		if !strings.Contains(out, "default via 10.0.2.2") || !strings.Contains(out, "127.0.0.1") {
			t.Errorf("got %s, want a default route and a loopback address", out)
		}
	})
	t.Run("node plugin", func(t *testing.T) { testNodePlugin(t, m) })
	t.Run("tools", func(t *testing.T) {
		sh(t, m, "modprobe loop && truncate -s 400M /run/x && mkfs.xfs -q /run/x && mount -o loop /run/x /mnt")
		sh(t, m, "umount /mnt && xfs_repair -n /run/x && rm /run/x && fsck.ext4 -V")
	})
	for bus, sizeAfter := range map[vm.Bus]string{
		vm.VirtioBlk: "2", vm.VirtioSCSI: "2", vm.VirtioSCSISilent: "1", vm.NVMe: "",
	} {
		t.Run(string(bus), func(t *testing.T) { testDisk(t, m, bus, sizeAfter) })
	}
	t.Run("encrypted", func(t *testing.T) { testEncryptedDisk(t, m) })
	t.Run("panic", func(t *testing.T) {
		_, err := m.Start(ctx, vm.Command{Argv: []string{"sh", "-c", "echo c > /proc/sysrq-trigger"}})
		select {
		case <-m.Failed():
		case <-time.After(time.Minute):
			t.Fatalf("Failed is still open a minute after a kernel panic (%v)", err)
		}
		err = m.Err()
		if err == nil || !strings.Contains(err.Error(), "Kernel panic") || !strings.Contains(err.Error(), "console") {
			t.Errorf("got the error %v, want the kernel panic and the console", err)
		}
	})
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// testNodePlugin starts growvol-node, calls it, kills it and starts it again, over
// the same connection.
func testNodePlugin(t *testing.T, m *vm.Machine) {
	t.Helper()
	ctx := t.Context()
	conn := must.Value(m.DialNode())(t)
	defer conn.Close() //nolint:errcheck // only called on
	node := csi.NewNodeClient(conn)
	if _, err := node.NodeGetInfo(ctx, &csi.NodeGetInfoRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("without a plugin: got %v, want code Unavailable", err)
	}
	for _, id := range []string{"first", "second"} {
		p := must.Value(m.Start(ctx, vm.Command{
			Argv: []string{"growvol-node", "--endpoint=unix://" + vm.NodeSocket, "--node-id=" + id},
		}))(t)
		var got string
		for deadline := time.Now().Add(30 * time.Second); got == "" && time.Now().Before(deadline); {
			conn.ResetConnectBackoff()
			info, err := node.NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
			if got = info.GetNodeId(); err != nil {
				<-time.After(100 * time.Millisecond)
			}
		}
		log, err := p.Log(ctx)
		if got != id || !strings.Contains(log, "growvol-node starts") {
			t.Errorf("got an answer of node %q, want %q; log %q, %v", got, id, log, err)
		}
		if err := p.Kill(ctx); err != nil {
			t.Error(err)
		}
	}
}

// testDisk plugs a disk of 1 GiB in, resizes it to 2 GiB and unplugs it. sizeAfter
// is the size in GiB that the guest shows after the resize without a rescan, or ""
// if QEMU cannot resize such a disk.
func testDisk(t *testing.T, m *vm.Machine, bus vm.Bus, sizeAfter string) {
	t.Helper()
	ctx := t.Context()
	before := sh(t, m, "ls /sys/block")
	must.Succeed(t, m.AddDisk(ctx, vm.Disk{Name: "d", Bus: bus, Serial: serial, Size: volume.GiB}))
	hasDisk := `for d in /sys/block/*; do [ $(cat $d/size) = $((N*2097152)) ] && exit 0; done; exit 1` // of N GiB
	eventually(t, m, strings.Replace(hasDisk, "N", "1", 1))
	serials := sh(t, m, "cd /sys/block; cat */serial */device/serial */device/vpd_pg80 2>/dev/null; true")
	if !strings.Contains(serials, serial[:20]) {
		t.Errorf("got the serials %q in the guest, want %s", serials, serial[:20])
	}
	err := m.ResizeDisk(ctx, "d", 2*volume.GiB)
	if sizeAfter == "" {
		if err == nil {
			t.Error("QEMU can resize such a disk now: extend the tests")
		}
	} else if err != nil {
		t.Error(err)
	} else {
		eventually(t, m, strings.Replace(hasDisk, "N", sizeAfter, 1))
	}
	if err := m.RemoveDisk(ctx, "d"); err != nil {
		t.Error(err)
	}
	// QEMU removes a SCSI disk before the guest's kernel does.
	after := sh(t, m, "ls /sys/block")
	for deadline := time.Now().Add(30 * time.Second); after != before && time.Now().Before(deadline); {
		<-time.After(100 * time.Millisecond)
		after = sh(t, m, "ls /sys/block")
	}
	if after != before {
		t.Errorf("got the disks %q after the removal, want %q", after, before)
	}
}

// testEncryptedDisk checks size and content that the guest shows of a disk that
// QEMU decrypts.
func testEncryptedDisk(t *testing.T, m *vm.Machine) {
	t.Helper()
	ctx := t.Context()
	d := vm.Disk{Name: "e", Bus: vm.VirtioBlk, Serial: serial, Size: volume.GiB, Encrypted: true}
	must.Succeed(t, m.AddDisk(ctx, d))
	for _, size := range []volume.Size{volume.GiB, 2 * volume.GiB} {
		must.Succeed(t, m.ResizeDisk(ctx, "e", size))
		eventually(t, m, fmt.Sprintf("[ $(cat /sys/block/vda/size) = %d ]", (size-vm.LUKSHeaderSize).Bytes()/512))
	}
	if out := sh(t, m, "dd if=/dev/vda bs=4096 count=1 2>/dev/null | tr -d '\\0' | wc -c"); strings.TrimSpace(out) == "0" {
		t.Error("a block that was never written reads as zeros: QEMU does not decrypt the disk")
	}
	if err := m.RemoveDisk(ctx, "e"); err != nil {
		t.Error(err)
	}
}

// sh runs a script in the guest and returns its output.
func sh(t *testing.T, m *vm.Machine, script string) string {
	t.Helper()
	out := must.Value(m.Run(t.Context(), vm.Command{Argv: []string{"sh", "-c", script}}))(t)
	return out
}

// eventually ends the test unless the script succeeds within 30 s.
func eventually(t *testing.T, m *vm.Machine, script string) {
	t.Helper()
	sh(t, m, fmt.Sprintf("for i in $(seq 300); do (%s) && exit 0; sleep 0.1; done; exit 1", script))
}

// Equal inputs give images with equal keys, and others give other keys.
func TestBuildImageIsReproducible(t *testing.T) {
	ctx := t.Context()
	script := filepath.Join(t.TempDir(), "script")
	build := func(content string) vm.Image {
		must.Succeed(t, os.WriteFile(script, []byte("#!/bin/sh\n"+content), 0o600))
		programs := map[string]string{"/usr/bin/script": script}
		image := must.Value(vm.BuildImage(ctx, t.TempDir(), vm.ImageOptions{Programs: programs}))(t)
		return image
	}
	a, b, c := build("1"), build("1"), build("2")
	if a.Key != b.Key || a.Key == c.Key || a.Key == "" {
		t.Errorf("got the keys %s and %s for equal inputs, and %s for another", a.Key, b.Key, c.Key)
	}
	_, err := vm.BuildImage(ctx, t.TempDir(), vm.ImageOptions{Programs: map[string]string{"/usr/bin/x": "/nonexistent"}})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing program: got %v, want fs.ErrNotExist", err)
	}
}
