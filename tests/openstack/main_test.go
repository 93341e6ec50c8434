// Package openstack_test drives the real plugins against a real OpenStack:
// Keystone, Cinder on Ceph, and Nova, whose instances run growvol-node. The
// rig is brought up by the program `up` of this directory.
package openstack_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/openstack"
)

const (
	gib = int64(volume.GiB)
	// rigVariable names the directory of a running rig.
	rigVariable = "GROWVOL_OPENSTACK_DIR"
)

// TestOpenStack is one test so that its parts share the guests, which take
// long to boot without hardware virtualization.
func TestOpenStack(t *testing.T) {
	dir := os.Getenv(rigVariable)
	if dir == "" {
		t.Skipf("%s does not name a running OpenStack; `make openstack-test` brings one up and tests with it", rigVariable)
	}
	r := newRig(t, dir)
	t.Run("life", r.testLife)
	t.Run("backup", r.testBackup)
	t.Run("metadata", r.testMetadata)
	t.Run("quota", r.testQuota)
	t.Run("refused", r.testRefused)
	t.Run("outages", r.testOutages)
	t.Run("hangs", r.testHangs)
	t.Run("speed", r.testSpeed)
	t.Run("images", r.testImages)
	t.Run("boot", r.testBoot)
	t.Run("attachments", r.testAttachments)
	t.Run("growth in use", r.testGrowthInUse)
	t.Run("extended by hand", r.testExtended)
	t.Run("block", r.testBlock)
	t.Run("encrypted", r.testEncrypted)
	t.Run("copies", r.testLiveCopies)
	t.Run("faults", r.testFaults)
	t.Run("multiattach", r.testMultiattach)
	t.Run("sanity", r.testSanity)
}

// rig is a running OpenStack and the driver on it; the user's project is for
// the tests alone.
type rig struct {
	*openstack.Rig
	bin        string // with the plugins
	controller *csiclient.Plugin
	socket     string // path of the controller's
	guests     map[openstack.Bus]*guest
}

func newRig(t *testing.T, dir string) *rig {
	t.Helper()
	ctx := t.Context()
	r := &rig{Rig: get(openstack.Open(ctx, dir, "test"))(t), bin: get(csiclient.BuildPlugins(ctx))(t), guests: map[openstack.Bus]*guest{}}
	must(t, r.User.Purge(ctx))
	must(t, r.Admin.SetQuota(ctx, r.User.Project, 1000, 1000))
	t.Cleanup(func() {
		// A test's own context has ended by now.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute)
		defer cancel()
		if err := r.User.Purge(ctx); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	r.controller, r.socket = r.startController(t, "--cloud-config="+filepath.Join(dir, "cloud-test.conf"))
	return r
}

// startController starts the controller plugin with further arguments for the
// time of the test; its log is shown when the test fails.
func (r *rig) startController(t *testing.T, args ...string) (plugin *csiclient.Plugin, socket string) {
	t.Helper()
	dir := t.TempDir()
	log := get(os.Create(filepath.Join(dir, "controller.log")))(t)
	args = append([]string{"--backend=cinder", "--cluster-id=test", "--log-level=debug"}, args...)
	socket = filepath.Join(dir, "csi.sock")
	p := get(csiclient.StartPlugin(t.Context(), log, filepath.Join(r.bin, "growvol-controller"), socket, args...))(t)
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Errorf("the controller did not end well: %v", err)
		}
		showOnFailure(t, log.Name())
	})
	return p, socket
}

// showOnFailure prints the end of a log if the test has failed.
func showOnFailure(t *testing.T, path string) {
	t.Helper()
	if text, err := os.ReadFile(path); err == nil && t.Failed() {
		t.Logf("end of %s:\n%s", filepath.Base(path), text[max(0, len(text)-6000):])
	}
}

// client returns the calls of the controller.
func (r *rig) client() csi.ControllerClient { return csi.NewControllerClient(r.controller.Conn) }

// service disturbs a service of the rig: pause, continue, stop, start.
func (r *rig) service(t *testing.T, action, name string) {
	t.Helper()
	// Also from clean-ups, when the test's own context has ended.
	must(t, r.Service(context.WithoutCancel(t.Context()), action, name))
}

// tidy makes the test fail that leaves a volume, snapshot or backup behind.
func (r *rig) tidy(t *testing.T) {
	t.Helper()
	// A test before this one may have failed and left something.
	before := get(r.User.Leftovers(t.Context()))(t)
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		// The test's own context has ended by now.
		left := get(r.User.Leftovers(context.WithoutCancel(t.Context())))(t)
		for _, o := range left {
			if !slices.ContainsFunc(before, func(b openstack.Object) bool { return b.ID == o.ID }) {
				t.Errorf("left behind: %s", o)
			}
		}
	})
}

// must fails the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// get fails the test on an error and returns the value.
func get[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		must(t, err)
		return v
	}
}

// wantCode fails the test unless err has the code and its message each word.
func wantCode(t *testing.T, err error, code codes.Code, words ...string) {
	t.Helper()
	if got := status.Code(err); got != code {
		t.Fatalf("code %s, want %s: %v", got, code, err)
	}
	for _, w := range words {
		if !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(w)) {
			t.Errorf("the message does not mention %q: %v", w, err)
		}
	}
}

// limited is the test's context with a limit: calls wait for as long as their
// caller does, and that must not be for ever. A machine that is busy with other
// things takes minutes for what is done in seconds.
func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func name(t *testing.T) string {
	t.Helper()
	return strings.ToLower(strings.NewReplacer("/", "-", "_", "-", " ", "-").Replace(t.Name()))
}

func short(size int64) string { return fmt.Sprint(volume.Size(size)) }
