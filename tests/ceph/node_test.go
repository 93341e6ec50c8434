package ceph_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/ceph"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/inguest"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/vm"
)

// This file holds node: a guest in which the node plugin runs, and the writer in it.

// node is a guest in which the node plugin runs.
type node struct {
	*csiclient.Driver // the controller on this machine, the node in the guest

	guest  *ceph.Node
	bin    string // directory of the programs, the same as on this machine
	plugin *vm.Process
	isDead bool
	// environment and options of the plugin besides those of every start.
	environment, options []string
}

// configDir has the configuration of the node plugin in the guest.
const configDir = "/var/lib/ceph"

// startNode boots a guest, and starts the node plugin in it. Both run until the end of the test.
func (r *rig) startNode(t *testing.T, number int) *node {
	t.Helper()
	console := must.Value(os.Create(filepath.Join(t.TempDir(), "console.log")))(t)
	options := ceph.NodeOptions{Number: number, Programs: r.bin, Memory: 768 * volume.MiB, Console: console}
	n := &node{bin: r.bin, guest: must.Value(r.Boot(t.Context(), options))(t)}
	t.Cleanup(func() {
		if t.Failed() && !n.isDead {
			n.logPlugin(t)
		}
		n.kill(t)
		logOnFailure(t, console.Name())
	})
	for _, name := range []string{"config.json", "keys/userID", "keys/userKey"} {
		content := must.Value(os.ReadFile(filepath.Join(r.Dir, name)))(t)
		must.Succeed(t, n.guest.WriteFile(t.Context(), configDir+"/"+name, 0o600, content))
	}
	n.Driver = &csiclient.Driver{
		Controller: r.client(), NodeID: fmt.Sprintf("node-%d", number), Dir: "/var/lib/kubelet/plugins",
	}
	n.startPlugin(t)
	return n
}

// startPlugin starts the node plugin and connects to it.
func (n *node) startPlugin(t *testing.T) {
	t.Helper()
	ctx := testContext(t)
	n.runScript(t, "mkdir -p "+filepath.Dir(vm.NodeSocket)+" "+n.Dir)
	argv := []string{
		n.bin + "/growvol-node", "--backend=rbd", "--node-id=" + n.NodeID, "--endpoint=unix://" + vm.NodeSocket,
		"--ceph-config=" + configDir + "/config.json", "--ceph-keys=" + configDir + "/keys", "--log-level=debug",
	}
	n.plugin = must.Value(n.guest.Start(ctx, vm.Command{Argv: append(argv, n.options...), Env: n.environment}))(t)
	conn := must.Value(n.guest.DialNode())(t)
	n.Node = csi.NewNodeClient(conn)
	err := ceph.WaitUntil(ctx, "the node plugin answers", func(ctx context.Context) (bool, error) {
		if running, err := n.plugin.IsRunning(ctx); err != nil || !running {
			return false, errors.Join(errors.New("the node plugin has ended"), err)
		}
		conn.ResetConnectBackoff()
		_, err := n.Node.NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
		return err == nil, nil
	})
	if err != nil {
		n.logPlugin(t)
		t.Fatal(err)
	}
}

// logPlugin logs the end of the log of the node plugin.
func (n *node) logPlugin(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
	defer cancel()
	log, err := n.plugin.Log(ctx)
	t.Logf("end of the log of growvol-node on %s (%v):\n%s", n.NodeID, err, log[max(0, len(log)-20000):])
}

// kill ends the guest as a loss of power does.
func (n *node) kill(t *testing.T) {
	t.Helper()
	if n.isDead {
		return
	}
	n.isDead = true
	if err := n.guest.Kill(); err != nil {
		t.Error(err)
	}
}

// runScript runs a shell script in the guest and returns its output.
func (n *node) runScript(t *testing.T, script string) string {
	t.Helper()
	return must.Value(n.guest.Script(testContext(t), script))(t)
}

// writer is a program in the guest that writes files and records their checksums.
type writer struct {
	node   *node
	record string // path in the guest of the list of checksums
	*inguest.Writer
}

// startWriter starts a writer in the filesystem of a volume.
func (n *node) startWriter(t *testing.T, v *csiclient.Volume) *writer {
	t.Helper()
	record := "/tmp/record-" + v.Name
	w := inguest.StartWriter(t, n.guest.Agent, n.bin+"/writer", v.Target, record)
	// Before its first write, it may not handle signals yet.
	n.runScript(t, "for i in $(seq 600); do if [ -s "+v.Target+"/data-000000 ]; then exit; fi; sleep 0.1; done; exit 1")
	return &writer{node: n, record: record, Writer: w}
}

// stop ends the writing. It returns the number of written bytes and the longest time of one write.
func (w *writer) stop(t *testing.T) (bytes int64, stall time.Duration) {
	t.Helper()
	written := w.Stop(t)
	return written.Bytes, time.Duration(written.StallMS) * time.Millisecond
}

// verify reads all files back on the writer's node and compares their checksums.
func (w *writer) verify(t *testing.T, v *csiclient.Volume) {
	t.Helper()
	(&inguest.Writer{Agent: w.node.guest.Agent, Program: w.node.bin + "/writer", Record: w.record}).Verify(t, v.Target)
}

// wantGrown fails the test unless the filesystem has about the size in the guest, as df reports it.
func (n *node) wantGrown(t *testing.T, v *csiclient.Volume, size int64) {
	t.Helper()
	output := n.runScript(t, "df -B1 --output=size "+v.Target+" | tail -n 1")
	total := must.Value(strconv.ParseInt(strings.TrimSpace(output), 10, 64))(t)
	// The journal, inode tables, XFS's log and the LUKS header do not count.
	if total > size || total < size*85/100 {
		t.Errorf("df on %s: got %s, want about %s", n.NodeID, sizeText(total), sizeText(size))
	}
	stats, _, err := n.Stats(t.Context(), v)
	if must.Succeed(t, err); stats != total {
		t.Errorf("NodeGetVolumeStats reports %s, but df %s", sizeText(stats), sizeText(total))
	}
}

// asBlock returns the volume as a raw block volume: its filesystem is checked without a mount.
func (n *node) asBlock(v *csiclient.Volume) *csiclient.Volume {
	block := *v
	block.Capability = csiclient.BlockCapability()
	block.Staging, block.Target = filepath.Join(n.Dir, v.Name, "block"), filepath.Join(n.Dir, v.Name, "device")
	return &block
}

// wantCleanFilesystem fails the test unless the checker of the filesystem finds no error. The
// volume must not be in use.
func (n *node) wantCleanFilesystem(t *testing.T, v *csiclient.Volume) {
	t.Helper()
	block := n.asBlock(v)
	must.Succeed(t, n.Use(testContext(t), block))
	check := "e2fsck -fn " + block.Target + " 2>&1"
	if v.Capability.GetMount().GetFsType() == "xfs" {
		check = "xfs_repair -n " + block.Target + " 2>&1"
	}
	n.runScript(t, check)
	must.Succeed(t, n.Release(testContext(t), block))
}

// expandUntil repeats the call of the controller and then that of the node, each with the timeout,
// until both have succeeded: as external-resizer and kubelet do. It fails the test for an answer
// after the deadline, and for a code after which they give up. It returns how often each failed.
func (n *node) expandUntil(
	t *testing.T, v *csiclient.Volume, size int64, timeout time.Duration,
) (controller, node int) {
	t.Helper()
	controller = n.retry(t, "ControllerExpandVolume", timeout, func(ctx context.Context) error {
		return n.ExpandController(ctx, v, size)
	})
	node = n.retry(t, "NodeExpandVolume", timeout, func(ctx context.Context) error {
		got, err := n.ExpandNode(ctx, v, size)
		if err == nil && got < size {
			t.Errorf("NodeExpandVolume reports %s, want %s", sizeText(got), sizeText(size))
		}
		return err
	})
	return controller, node
}

// retry repeats a call until it succeeds, and returns how often it failed before. Two answers in a
// row after the deadline of their caller fail the test: one may be that of a busy machine.
func (n *node) retry(
	t *testing.T, name string, timeout time.Duration, call func(context.Context) error,
) (failures int) {
	t.Helper()
	limit := testContext(t)
	for wasLate := false; ; {
		ctx, cancel := context.WithTimeout(limit, timeout)
		start := time.Now()
		err := call(ctx)
		isLate := ctx.Err() != nil
		cancel()
		if err == nil {
			t.Logf("%s succeeded in %s, after %d failures", name, time.Since(start).Round(time.Millisecond), failures)
			return failures
		}
		if isLate && wasLate {
			t.Errorf("%s answered twice only after the deadline of the caller, %s: %v", name, timeout, err)
		}
		wasLate = isLate
		wantRetried(t, err)
		if failures++; failures == 1 {
			t.Logf("%s after %s: %v", name, time.Since(start).Round(time.Millisecond), err)
		}
		must.Succeed(t, operation.Sleep(limit, 500*time.Millisecond))
	}
}

// wantRetried fails the test unless the sidecars of Kubernetes retry a call with this error.
func wantRetried(t *testing.T, err error) {
	t.Helper()
	switch status.Code(err) {
	case codes.Aborted, codes.Unavailable, codes.DeadlineExceeded:
	default:
		t.Errorf("got %v, want a code after which the caller retries", err)
	}
}
