// Package hotplug drives the real growvol-node in a QEMU guest whose disks are
// plugged in, grow and are unplugged while they are in use, as Nova does it for
// Cinder, without the cloud. The tests play kubelet, from outside the guest.
package hotplug

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"

	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/vm"
)

// The id of the guest's node, and the directories of kubelet and growvol-node in it.
const (
	nodeID     = "guest"
	kubeletDir = "/var/lib/kubelet/plugins/kubernetes.io/csi"
	stateDir   = "/var/lib/growvol/node"
)

// machine is the guest of all tests, which boots once.
var machine *rig

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

// rig is a guest in which growvol-node runs.
type rig struct {
	*vm.Machine
	driver *csiclient.Driver
	conn   *grpc.ClientConn
	plugin *vm.Process
}

func runTests(m *testing.M) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	vm.DisableTestCache()
	// The tests wait most of the time, so that more of them than CPUs can run.
	if f := flag.Lookup("test.parallel"); f != nil && f.Value.String() == f.DefValue {
		_ = f.Value.Set("4")
	}
	code := 1
	if err := boot(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
		if err := checkMachine(ctx); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	if machine != nil && machine.Machine != nil {
		if err := machine.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	return code
}

// boot starts the guest and growvol-node in it.
func boot(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "growvol-hotplug-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	image, err := vm.BuildImage(ctx, dir, vm.ImageOptions{
		Packages: []string{"github.com/growvol/growvol/tests/vm/writer"},
	})
	if err != nil {
		return err
	}
	machine = &rig{}
	if machine.Machine, err = vm.Start(ctx, vm.Options{Image: image}); err != nil {
		return err
	}
	fmt.Printf("guest: Linux %s, up after %s\n", machine.Kernel, machine.BootTime.Round(time.Millisecond))
	if machine.conn, err = machine.DialNode(); err != nil {
		return err
	}
	machine.driver = &csiclient.Driver{Node: csi.NewNodeClient(machine.conn), NodeID: nodeID, Dir: kubeletDir}
	return machine.startPlugin(ctx)
}

// startPlugin starts growvol-node and waits for its first answer. It also starts
// one again that was killed.
func (r *rig) startPlugin(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	r.plugin, err = r.Start(ctx, vm.Command{Argv: []string{
		"growvol-node", "--endpoint=unix://" + vm.NodeSocket, "--backend=" + cindercsi.Name, "--node-id=" + nodeID,
		"--with-topology=false", "--state-dir=" + stateDir, "--log-level=debug",
	}})
	if err != nil {
		return err
	}
	identity := csi.NewIdentityClient(r.conn)
	for {
		r.conn.ResetConnectBackoff()
		if _, err = identity.Probe(ctx, &csi.ProbeRequest{}); err == nil {
			return nil
		}
		if running, runErr := r.plugin.IsRunning(ctx); runErr != nil || !running {
			log, _ := r.plugin.Log(ctx) // the plugin's end is the error to report
			return fmt.Errorf("growvol-node has ended: %w\n%s", err, log)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("growvol-node does not answer: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// checkMachine returns an error if the guest or the plugin has failed during the
// tests, or if a test has left files or mounts in the guest.
func checkMachine(ctx context.Context) error {
	if err := machine.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if running, err := machine.plugin.IsRunning(ctx); err != nil || !running {
		return fmt.Errorf("growvol-node has ended before the tests (%v)", err) //nolint:errorlint // may be nil
	}
	log, err := machine.plugin.Log(ctx)
	if err != nil {
		return err
	}
	for line := range strings.Lines(log) {
		if strings.Contains(line, "panic") {
			return fmt.Errorf("growvol-node panicked: %s", line)
		}
	}
	list := fmt.Sprintf("for d in %[1]s %[2]s; do ls $d 2>/dev/null; done; grep %[2]s /proc/mounts; true",
		stateDir, kubeletDir)
	left, err := machine.Run(ctx, vm.Command{Argv: []string{"sh", "-c", list}})
	if err == nil && strings.TrimSpace(left) != "" {
		err = fmt.Errorf("left behind in the guest:\n%s", left)
	}
	return err
}
