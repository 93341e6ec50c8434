// Package hotplug drives the real growvol-node in a guest into which a
// hypervisor plugs disks, and whose disks it makes larger while they are in
// use: what Nova does for Cinder, without the cloud. The calls come from
// outside, as kubelet's do.
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

const (
	nodeID     = "guest"
	kubeletDir = "/var/lib/kubelet/plugins/kubernetes.io/csi"
	stateDir   = "/var/lib/growvol/node"
)

// machine is the guest of all tests: it boots once.
var machine *rig

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

// rig is a guest whose growvol-node runs.
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
	// Most of the tests' time is waiting, whatever the number of CPUs.
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
	image, err := vm.BuildImage(ctx, dir, vm.ImageOptions{Packages: []string{"github.com/growvol/growvol/tests/vm/writer"}})
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

// startPlugin starts growvol-node, again if it was killed, and waits for its
// first answer.
func (r *rig) startPlugin(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	r.plugin, err = r.Start(ctx, vm.Command{Argv: []string{
		"growvol-node", "--endpoint=unix://" + vm.NodeSocket, "--backend=" + cindercsi.Name, "--node-id=" + nodeID, "--with-topology=false",
		"--state-dir=" + stateDir, "--log-level=debug",
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
		if running, runErr := r.plugin.Running(ctx); runErr != nil || !running {
			log, _ := r.plugin.Log(ctx) // best effort: the plugin's end is the error
			return fmt.Errorf("growvol-node has ended: %w\n%s", err, log)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("growvol-node does not answer: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// checkMachine checks at the end that guest and plugin have lived through it all.
func checkMachine(ctx context.Context) error {
	if err := machine.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if running, err := machine.plugin.Running(ctx); err != nil || !running {
		return fmt.Errorf("growvol-node has ended before the tests did (%w)", err)
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
	left, err := machine.Run(ctx, vm.Command{Argv: []string{"sh", "-c", "ls " + stateDir + " " + kubeletDir + " 2>/dev/null; grep " + kubeletDir + " /proc/mounts; true"}})
	if err == nil && strings.Trim(strings.ReplaceAll(strings.ReplaceAll(left, stateDir+":", ""), kubeletDir+":", ""), "\n ") != "" {
		err = fmt.Errorf("left behind in the guest: %s", left)
	}
	return err
}
