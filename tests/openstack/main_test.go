// Package openstack_test drives the real plugins against a real OpenStack: Keystone, Cinder on
// Ceph, and Nova, in whose instances growvol-node runs. The program `up` of this directory starts
// the OpenStack.
package openstack_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/inguest"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/openstack"
)

const (
	gib = int64(volume.GiB)
	// rigVariable is the environment variable with the directory of a running rig.
	rigVariable = "GROWVOL_OPENSTACK_DIR"
)

// TestOpenStack is one test so that its parts share the guests: without hardware virtualization a
// guest boots slowly.
func TestOpenStack(t *testing.T) {
	r := newRig(t, rigDir(t))
	t.Run("lifecycle", r.testLifecycle)
	t.Run("backup", r.testBackup)
	t.Run("metadata", r.testMetadata)
	t.Run("quota", r.testQuota)
	t.Run("refused", r.testRefused)
	t.Run("outages", r.testOutages)
	t.Run("hangs", r.testHangs)
	t.Run("concurrent", r.testConcurrent)
	t.Run("images", r.testImages)
	t.Run("boot", r.testBoot)
	t.Run("attachments", r.testAttachments)
	t.Run("growth in use", r.testGrowth)
	t.Run("extended by hand", r.testExternalExtension)
	t.Run("block", r.testBlock)
	t.Run("encrypted", r.testEncrypted)
	t.Run("copies", r.testCopiesInUse)
	t.Run("faults", r.testFaults)
	t.Run("multiattach", r.testMultiattach)
	t.Run("sanity", r.testSanity)
}

// rigDir returns the directory of the running OpenStack; without one the test is skipped.
func rigDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv(rigVariable)
	if dir == "" {
		t.Skipf("no OpenStack: %s is not set (next step: make openstack-test)", rigVariable)
	}
	return dir
}

// rig is a running OpenStack with the controller plugin. The project of the user "test" is for the
// tests alone.
type rig struct {
	*openstack.Rig
	bin        string // directory of the plugins
	controller *csiclient.Plugin
	socket     string // path of the socket of the controller
	guests     map[openstack.Bus]*guest
}

// newRig opens the rig, empties the project of the tests and starts the controller.
func newRig(t *testing.T, dir string) *rig {
	t.Helper()
	ctx := t.Context()
	r := &rig{
		Rig:    must.Value(openstack.Open(ctx, dir, "test"))(t),
		bin:    must.Value(csiclient.BuildPlugins(ctx))(t),
		guests: map[openstack.Bus]*guest{},
	}
	must.Succeed(t, r.User.Purge(ctx))
	must.Succeed(t, r.Admin.SetQuota(ctx, r.User.Project, 1000, 1000))
	t.Cleanup(func() {
		// The context of the test has ended by now.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute)
		defer cancel()
		if err := r.User.Purge(ctx); err != nil {
			t.Errorf("empty the project: %v", err)
		}
	})
	r.controller, r.socket = r.startController(t, "--cloud-config="+filepath.Join(dir, "cloud-test.conf"))
	return r
}

// startController starts a controller plugin that runs until the end of the test. The end of its
// log is shown if the test fails.
func (r *rig) startController(t *testing.T, args ...string) (plugin *csiclient.Plugin, socket string) {
	t.Helper()
	dir := t.TempDir()
	log := must.Value(os.Create(filepath.Join(dir, "controller.log")))(t)
	args = append([]string{"--backend=cinder", "--cluster-id=test", "--log-level=debug"}, args...)
	socket = filepath.Join(dir, "csi.sock")
	program := filepath.Join(r.bin, "growvol-controller")
	p := must.Value(csiclient.StartPlugin(t.Context(), log, program, socket, args...))(t)
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Errorf("stop the controller: %v", err)
		}
		logOnFailure(t, log.Name())
	})
	return p, socket
}

// logOnFailure logs the end of a file if the test has failed.
func logOnFailure(t *testing.T, path string) {
	t.Helper()
	if text, err := os.ReadFile(path); err == nil && t.Failed() {
		t.Logf("end of %s:\n%s", filepath.Base(path), text[max(0, len(text)-6000):])
	}
}

// client returns a client of the controller.
func (r *rig) client() csi.ControllerClient { return csi.NewControllerClient(r.controller.Conn) }

// service disturbs a service of the rig: the action is pause, continue, stop or start.
func (r *rig) service(t *testing.T, action, name string) {
	t.Helper()
	// Clean-ups call service when the context of the test has ended.
	must.Succeed(t, r.ControlService(context.WithoutCancel(t.Context()), action, name))
}

// checkLeftovers fails the test if it leaves a volume, snapshot or backup behind.
func (r *rig) checkLeftovers(t *testing.T) {
	t.Helper()
	// An earlier test may have failed and left objects behind.
	before := must.Value(r.User.ListStorage(t.Context()))(t)
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		// The context of the test has ended by now.
		after := must.Value(r.User.ListStorage(context.WithoutCancel(t.Context())))(t)
		for _, o := range after {
			if !slices.ContainsFunc(before, func(b openstack.Object) bool { return b.ID == o.ID }) {
				t.Errorf("the test left behind %s", o)
			}
		}
	})
}

// testContext returns the context of the test with a timeout, because calls wait for as long as
// their caller. On a busy machine, calls that usually take seconds may take minutes.
func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// testName returns the name of the test in characters that names of volumes may have.
func testName(t *testing.T) string {
	t.Helper()
	return inguest.VolumeName(t)
}

// sizeText returns a size in bytes as text with a unit.
func sizeText(size int64) string { return fmt.Sprint(volume.Size(size)) }
