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

	"github.com/growvol/growvol/tests/openstack"
	"github.com/growvol/growvol/tests/vm"
)

const (
	// greeterPort is one of the guests' ports that this machine reaches.
	greeterPort = 7777
	// mark is what the guests' root disks have behind a hole of markOffset
	// bytes.
	mark       = "behind the hole"
	markOffset = 64 << 20
)

// markedDisk makes the raw image with which the guests' root disks begin.
func markedDisk(t *testing.T) string {
	t.Helper()
	f := get(os.Create(filepath.Join(t.TempDir(), "disk")))(t)
	get(f.WriteAt([]byte(mark), markOffset))(t)
	must(t, f.Truncate(markOffset<<1))
	must(t, f.Close())
	return f.Name()
}

// testBoot: what Boot promises of an instance besides that its agent answers.
func (r *rig) testBoot(t *testing.T) {
	for bus, disk := range map[openstack.Bus]string{openstack.VirtioBlk: "vda", openstack.VirtioSCSI: "sda"} {
		t.Run(string(bus), func(t *testing.T) {
			g := r.guest(t, bus)
			script := fmt.Sprintf("tail -c +%d /dev/%s | head -c %d", markOffset+1, disk, len(mark))
			if got := g.sh(t, script); got != mark {
				t.Errorf("at byte %d of the root disk there is %q, want %q", markOffset, got, mark)
			}
			if got, want := g.sh(t, "cat /sys/class/block/"+disk+"/size"), fmt.Sprint(gib/512); got != want {
				t.Errorf("the root disk has %s sectors; the flavor's have %s", got, want)
			}
			if got := g.greeting(t); got != "hello" {
				t.Errorf("port %d of the guest says %q", greeterPort, got)
			}
			if other := g.Address(greeterPort + 1); other != "" {
				t.Errorf("%s leads to a port that was not asked for", other)
			}
			if console := get(g.Console(t.Context()))(t); !strings.Contains(console, vm.ReadyLine) {
				t.Errorf("the console's output lacks %q:\n%s", vm.ReadyLine, console)
			}
		})
	}
}

// greeting is what a server in the guest says to a client on this machine.
func (g *guest) greeting(t *testing.T) (said string) {
	t.Helper()
	ctx := limited(t)
	server := get(g.Start(ctx, vm.Command{Argv: []string{"busybox", "nc", "-l", "-p", fmt.Sprint(greeterPort), "-e", "echo", "hello"}}))(t)
	// QEMU accepts connections before the server in the guest does.
	must(t, openstack.Eventually(ctx, "the guest greets", func(ctx context.Context) (bool, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", g.Address(greeterPort))
		if err != nil {
			return false, err
		}
		must(t, conn.SetDeadline(time.Now().Add(time.Minute)))
		line, err := io.ReadAll(conn)
		said = strings.TrimSpace(string(line))
		return err == nil && said != "", conn.Close()
	}))
	must(t, server.Wait(ctx))
	return said
}

// testImages: a new image for a server takes the place of the old one, with its
// kernel and initramfs.
func (r *rig) testImages(t *testing.T) {
	ctx := limited(t)
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, []byte("nothing"), 0o600))
	registered := func() (all []images.Image) {
		pages := get(images.List(r.Admin.Images, images.ListOpts{}).AllPages(context.WithoutCancel(ctx)))(t)
		all = get(images.ExtractImages(pages))(t)
		return slices.DeleteFunc(all, func(i images.Image) bool { return !strings.HasPrefix(i.Name, "growvol-unbootable") })
	}
	t.Cleanup(func() {
		for _, i := range registered() {
			must(t, images.Delete(context.WithoutCancel(ctx), r.Admin.Images, i.ID).Err)
		}
	})
	for _, key := range []string{"first", "second"} {
		image := vm.Image{Key: key, Kernel: file, Initrd: file}
		_, err := r.Boot(ctx, openstack.Options{Name: "unbootable", Image: image, Bus: openstack.VirtioBlk, Flavor: "absent"})
		if err == nil || !strings.Contains(err.Error(), "lavor") {
			t.Fatalf("a server of no flavor: %v", err)
		}
		title := "growvol-unbootable/" + key + "-blank-virtio"
		var got []string
		for _, i := range registered() {
			got = append(got, i.Name)
		}
		slices.Sort(got)
		if want := []string{title, title + "-initramfs", title + "-kernel"}; !slices.Equal(got, want) {
			t.Errorf("images %q, want %q", got, want)
		}
	}
}
