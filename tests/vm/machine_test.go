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

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/vm"
)

const serial = "d25f9882-eb5a-41ea-8d34-3f1f54cfb2b2"

func TestMain(m *testing.M) {
	vm.DisableTestCache()
	os.Exit(m.Run())
}

// One guest from boot to panic: what the tests above it rely on.
func TestMachine(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	ctx := t.Context()
	image, err := vm.BuildImage(ctx, t.TempDir(), vm.ImageOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := vm.Start(ctx, vm.Options{Image: image, CPUs: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close() //nolint:errcheck // closed below
	t.Logf("booted Linux %s in %s", m.Kernel, m.BootTime.Round(time.Millisecond))
	if m.Kernel != image.Version {
		t.Errorf("kernel %s, the image's is %s", m.Kernel, image.Version)
	}

	t.Run("network", func(t *testing.T) {
		if out := sh(t, m, "ip route; ip addr show lo"); !strings.Contains(out, "default via 10.0.2.2") || !strings.Contains(out, "127.0.0.1") {
			t.Error(out)
		}
	})
	t.Run("node plugin", func(t *testing.T) { nodePlugin(t, m) })
	t.Run("tools", func(t *testing.T) {
		sh(t, m, "modprobe loop && truncate -s 400M /run/x && mkfs.xfs -q /run/x && mount -o loop /run/x /mnt && umount /mnt && xfs_repair -n /run/x && rm /run/x && fsck.ext4 -V")
	})
	for bus, growsTo := range map[vm.Bus]string{vm.VirtioBlk: "2", vm.VirtioSCSI: "2", vm.VirtioSCSISilent: "1", vm.NVMe: ""} {
		t.Run(string(bus), func(t *testing.T) { plugAndGrow(t, m, bus, growsTo) })
	}
	t.Run("encrypted", func(t *testing.T) { plugEncrypted(t, m) })
	t.Run("panic", func(t *testing.T) {
		_, err := m.Start(ctx, vm.Command{Argv: []string{"sh", "-c", "echo c > /proc/sysrq-trigger"}})
		select {
		case <-m.Failed():
		case <-time.After(time.Minute):
			t.Fatalf("nobody has noticed that the guest's kernel panicked (%v)", err)
		}
		if err := m.Err(); err == nil || !strings.Contains(err.Error(), "Kernel panic") || !strings.Contains(err.Error(), "console") {
			t.Errorf("the error is %v", err)
		}
	})
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// nodePlugin starts growvol-node, calls it, kills it and starts it again under
// the same connection.
func nodePlugin(t *testing.T, m *vm.Machine) {
	t.Helper()
	ctx := t.Context()
	conn, err := m.DialNode()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // only called on
	node := csi.NewNodeClient(conn)
	if _, err := node.NodeGetInfo(ctx, &csi.NodeGetInfoRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("without a plugin the answer is %v", err)
	}
	for _, id := range []string{"first", "second"} {
		p, err := m.Start(ctx, vm.Command{Argv: []string{"growvol-node", "--endpoint=unix://" + vm.NodeSocket, "--node-id=" + id}})
		if err != nil {
			t.Fatal(err)
		}
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
			t.Errorf("node %q answers, want %q; log %q, %v", got, id, log, err)
		}
		if err := p.Kill(ctx); err != nil {
			t.Error(err)
		}
	}
}

// plugAndGrow plugs a disk in, grows it and unplugs it. growsTo is what the
// guest sees of the growth to 2 GiB without being asked; "" when QEMU cannot
// grow such a disk.
func plugAndGrow(t *testing.T, m *vm.Machine, bus vm.Bus, growsTo string) {
	t.Helper()
	ctx := t.Context()
	before := sh(t, m, "ls /sys/block")
	if err := m.AddDisk(ctx, vm.Disk{Name: "d", Bus: bus, Serial: serial, Size: volume.GiB}); err != nil {
		t.Fatal(err)
	}
	gib := `for d in /sys/block/*; do [ $(cat $d/size) = $((N*2097152)) ] && exit 0; done; exit 1`
	eventually(t, m, strings.Replace(gib, "N", "1", 1))
	if found := sh(t, m, "cat /sys/block/*/serial /sys/block/*/device/serial /sys/block/*/device/vpd_pg80 2>/dev/null; true"); !strings.Contains(found, serial[:20]) {
		t.Errorf("the guest sees no serial: %q", found)
	}
	err := m.ResizeDisk(ctx, "d", 2*volume.GiB)
	if growsTo == "" {
		if err == nil {
			t.Error("QEMU can grow such a disk by now: the tests should, too")
		}
	} else if err != nil {
		t.Error(err)
	} else {
		eventually(t, m, strings.Replace(gib, "N", growsTo, 1))
	}
	if err := m.RemoveDisk(ctx, "d"); err != nil {
		t.Error(err)
	}
	// A SCSI disk is gone for QEMU before it is for the guest's kernel.
	after := sh(t, m, "ls /sys/block")
	for deadline := time.Now().Add(30 * time.Second); after != before && time.Now().Before(deadline); after = sh(t, m, "ls /sys/block") {
		<-time.After(100 * time.Millisecond)
	}
	if after != before {
		t.Errorf("before: %q, after: %q", before, after)
	}
}

// plugEncrypted checks what the guest sees of a disk that QEMU decrypts.
func plugEncrypted(t *testing.T, m *vm.Machine) {
	t.Helper()
	ctx := t.Context()
	if err := m.AddDisk(ctx, vm.Disk{Name: "e", Bus: vm.VirtioBlk, Serial: serial, Size: volume.GiB, Encrypted: true}); err != nil {
		t.Fatal(err)
	}
	for _, size := range []volume.Size{volume.GiB, 2 * volume.GiB} {
		if err := m.ResizeDisk(ctx, "e", size); err != nil {
			t.Fatal(err)
		}
		eventually(t, m, fmt.Sprintf("[ $(cat /sys/block/vda/size) = %d ]", (size-vm.LUKSHeaderSize).Bytes()/512))
	}
	if out := sh(t, m, "dd if=/dev/vda bs=4096 count=1 2>/dev/null | tr -d '\\0' | wc -c"); strings.TrimSpace(out) == "0" {
		t.Error("what was never written reads as zeros: nothing decrypts the disk")
	}
	if err := m.RemoveDisk(ctx, "e"); err != nil {
		t.Error(err)
	}
}

func sh(t *testing.T, m *vm.Machine, script string) string {
	t.Helper()
	out, err := m.Run(t.Context(), vm.Command{Argv: []string{"sh", "-c", script}})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func eventually(t *testing.T, m *vm.Machine, script string) {
	t.Helper()
	sh(t, m, fmt.Sprintf("for i in $(seq 300); do (%s) && exit 0; sleep 0.1; done; exit 1", script))
}

// Equal inputs make equal images, others make others.
func TestImageKey(t *testing.T) {
	ctx := t.Context()
	script := filepath.Join(t.TempDir(), "script")
	build := func(content string) vm.Image {
		if err := os.WriteFile(script, []byte("#!/bin/sh\n"+content), 0o600); err != nil {
			t.Fatal(err)
		}
		image, err := vm.BuildImage(ctx, t.TempDir(), vm.ImageOptions{Programs: map[string]string{"/usr/bin/script": script}})
		if err != nil {
			t.Fatal(err)
		}
		return image
	}
	a, b, c := build("1"), build("1"), build("2")
	if a.Key != b.Key || a.Key == c.Key || a.Key == "" {
		t.Errorf("keys %s, %s of equal inputs, %s of another", a.Key, b.Key, c.Key)
	}
	_, err := vm.BuildImage(ctx, t.TempDir(), vm.ImageOptions{Programs: map[string]string{"/usr/bin/x": "/nonexistent"}})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing program: %v", err)
	}
}
