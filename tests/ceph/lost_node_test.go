package ceph_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/vm"
)

// This file tests a node that is lost while it has a volume mapped.

// testLostNode ends a node whose program writes to a volume, as a loss of power does. Another node
// takes over, and has every file that the program had synchronized and reported.
func (r *rig) testLostNode(t *testing.T) { //nolint:thelper // a test, no helper
	lost, other, ctx := r.nodes[1], r.nodes[0], testContext(t)
	capability := csiclient.MountCapability("ext4")
	v := must.Value(lost.CreateWithParameters(ctx, class(nil), testName(t), gib, capability, nil))(t)
	must.Succeed(t, lost.Use(ctx, v))
	reporter := lost.startReporter(t, v)
	reports := reporter.await(t, 20)
	lost.kill(t)
	start := time.Now()
	other.retry(t, "ControllerUnpublishVolume", callTimeout, func(ctx context.Context) error {
		return lost.Detach(ctx, v)
	})
	must.Succeed(t, other.Attach(ctx, v))
	other.retry(t, "NodeStageVolume", time.Minute, func(ctx context.Context) error { return other.Stage(ctx, v) })
	must.Succeed(t, other.Publish(ctx, v))
	t.Logf("the other node has the volume after %s", time.Since(start).Round(time.Millisecond))
	other.wantReported(t, v, reports)
	must.Succeed(t, other.Release(ctx, v))
	other.wantCleanFilesystem(t, v)
	must.Succeed(t, other.Delete(ctx, v))
}

// reporter is a program in a guest that writes files, and reports each with its checksum after it
// has synchronized it.
type reporter struct{ process *vm.Process }

func (n *node) startReporter(t *testing.T, v *csiclient.Volume) reporter {
	t.Helper()
	script := fmt.Sprintf(`cd %s; for i in $(seq 1000); do
		head -c 65536 /dev/urandom >report-$i; sync report-$i .; sha256sum report-$i; sleep 0.02; done`, v.Target)
	return reporter{must.Value(n.guest.Start(t.Context(), vm.Command{Argv: []string{"bash", "-euc", script}}))(t)}
}

// await returns the reports when there are at least so many.
func (r reporter) await(t *testing.T, minimum int) []string {
	t.Helper()
	ctx := testContext(t)
	for {
		log := must.Value(r.process.Log(ctx))(t)
		// The last line may be incomplete.
		if lines := strings.Split(log, "\n"); len(lines) > minimum {
			return lines[:len(lines)-1]
		}
		must.Succeed(t, ctx.Err())
	}
}

// wantReported fails the test unless the volume has the reported files.
func (n *node) wantReported(t *testing.T, v *csiclient.Volume, reports []string) {
	t.Helper()
	list := strings.Join(reports, "\n") + "\n"
	_, err := n.guest.Run(testContext(t), vm.Command{
		Argv:  []string{"sh", "-c", "cd " + v.Target + " && sha256sum --check --quiet --strict -"},
		Stdin: []byte(list),
	})
	if err != nil {
		t.Errorf("of %d reported files some are lost: %v", len(reports), err)
	}
}
