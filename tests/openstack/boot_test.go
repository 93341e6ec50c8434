package openstack_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"

	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/openstack"
	"github.com/growvol/growvol/tests/vm"
)

const (
	// greeterPort is a port of the guests that is reachable from this machine.
	greeterPort = 7777
	// rootDiskMark is at byte rootDiskMarkOffset of the guests' root disks, after a hole.
	rootDiskMark       = "behind the hole"
	rootDiskMarkOffset = 64 << 20
)

// newRootDisk returns the path of a raw image for the guests' root disks.
func newRootDisk(t *testing.T) string {
	t.Helper()
	f := must.Value(os.Create(filepath.Join(t.TempDir(), "disk")))(t)
	must.Value(f.WriteAt([]byte(rootDiskMark), rootDiskMarkOffset))(t)
	must.Succeed(t, f.Truncate(rootDiskMarkOffset<<1))
	must.Succeed(t, f.Close())
	return f.Name()
}

// testBoot checks what Boot promises besides a running agent: the root disk, the ports and the
// console.
func (r *rig) testBoot(t *testing.T) {
	for bus, disk := range map[openstack.Bus]string{openstack.BusVirtioBlk: "vda", openstack.BusVirtioSCSI: "sda"} {
		t.Run(string(bus), func(t *testing.T) {
			g := r.guest(t, bus)
			script := fmt.Sprintf("tail -c +%d /dev/%s | head -c %d", rootDiskMarkOffset+1, disk, len(rootDiskMark))
			if got := g.runScript(t, script); got != rootDiskMark {
				t.Errorf("byte %d of the root disk: got %q, want %q", rootDiskMarkOffset, got, rootDiskMark)
			}
			if got, want := g.runScript(t, "cat /sys/class/block/"+disk+"/size"), fmt.Sprint(gib/512); got != want {
				t.Errorf("the root disk has %s sectors, want the %s of the flavor", got, want)
			}
			if got := g.readGreeting(t); got != "hello" {
				t.Errorf("port %d of the guest: got %q, want hello", greeterPort, got)
			}
			if other := g.Address(greeterPort + 1); other != "" {
				t.Errorf("Address of a port that Boot does not know: got %q, want none", other)
			}
			if console := must.Value(g.Console(t.Context()))(t); !strings.Contains(console, vm.ReadyLine) {
				t.Errorf("the output of the console does not contain %q:\n%s", vm.ReadyLine, console)
			}
		})
	}
}

// readGreeting starts a server in the guest and returns what the server sends to a client on this
// machine.
func (g *guest) readGreeting(t *testing.T) (greeting string) {
	t.Helper()
	ctx := testContext(t)
	server := must.Value(g.Start(ctx, vm.Command{
		Argv: []string{"busybox", "nc", "-l", "-p", fmt.Sprint(greeterPort), "-e", "echo", "hello"},
	}))(t)
	// QEMU accepts connections before the server in the guest does.
	must.Succeed(t, openstack.WaitUntil(ctx, "the guest greets", func(ctx context.Context) (bool, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", g.Address(greeterPort))
		if err != nil {
			return false, err
		}
		must.Succeed(t, conn.SetDeadline(time.Now().Add(time.Minute)))
		line, err := io.ReadAll(conn)
		greeting = strings.TrimSpace(string(line))
		return err == nil && greeting != "", conn.Close()
	}))
	must.Succeed(t, server.Wait(ctx))
	return greeting
}

// testImages checks that a new image of a server replaces the old image, with its kernel and
// initramfs.
func (r *rig) testImages(t *testing.T) {
	ctx := testContext(t)
	file := filepath.Join(t.TempDir(), "file")
	must.Succeed(t, os.WriteFile(file, []byte("nothing"), 0o600))
	registered := func() (all []images.Image) {
		pages := must.Value(images.List(r.Admin.Images, images.ListOpts{}).AllPages(context.WithoutCancel(ctx)))(t)
		all = must.Value(images.ExtractImages(pages))(t)
		return slices.DeleteFunc(all, func(i images.Image) bool { return !strings.HasPrefix(i.Name, "growvol-unbootable") })
	}
	t.Cleanup(func() {
		for _, i := range registered() {
			must.Succeed(t, images.Delete(context.WithoutCancel(ctx), r.Admin.Images, i.ID).Err)
		}
	})
	for _, key := range []string{"first", "second"} {
		image := vm.Image{Key: key, Kernel: file, Initrd: file}
		_, err := r.Boot(ctx, openstack.Options{
			Name:   "unbootable",
			Image:  image,
			Bus:    openstack.BusVirtioBlk,
			Flavor: "absent",
		})
		if err == nil || !strings.Contains(err.Error(), "lavor") {
			t.Fatalf("a server with an unknown flavor: got %v, want an error about the flavor", err)
		}
		title := "growvol-unbootable/" + key + "-blank-virtio"
		var got []string
		for _, i := range registered() {
			got = append(got, i.Name)
		}
		slices.Sort(got)
		if want := []string{title, title + "-initramfs", title + "-kernel"}; !slices.Equal(got, want) {
			t.Errorf("got the images %q, want %q", got, want)
		}
	}
}
