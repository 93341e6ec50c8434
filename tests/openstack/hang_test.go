package openstack_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/openstack"
)

// testHangs: one service of the cloud hangs, as when its processes are stopped
// or its database locks: it takes connections and answers nothing. A controller
// that is started then serves its socket within seconds, and does what needs
// only the other services.
func (r *rig) testHangs(t *testing.T) {
	r.tidy(t)
	t.Run("nova-api", r.testNovaHangs)
	t.Run("cinder-api", r.testCinderHangs)
	t.Run("keystone", r.testKeystoneHangs)
}

// startBeside starts a controller while a service hangs. resume ends that.
func (r *rig) startBeside(t *testing.T, service string) (p *csiclient.Plugin, resume func()) {
	t.Helper()
	resume = func() { r.service(t, "continue", service) }
	t.Cleanup(resume)
	r.service(t, "pause", service)
	p, _ = r.startController(t, "--cloud-config="+filepath.Join(r.Dir, "cloud-test.conf"))
	if p.StartDuration > 15*time.Second {
		t.Errorf("the controller answered after %s", p.StartDuration)
	}
	t.Logf("the controller answered after %s", p.StartDuration.Round(time.Millisecond))
	return p, resume
}

// wantReady fails the test unless Probe has the answer.
func wantReady(t *testing.T, p *csiclient.Plugin, want bool) {
	t.Helper()
	if ready := get(probe(t, p))(t); ready != want {
		t.Errorf("the controller is ready: %t, want %t", ready, want)
	}
}

func probe(t *testing.T, p *csiclient.Plugin) (bool, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	answer, err := csi.NewIdentityClient(p.Conn).Probe(ctx, &csi.ProbeRequest{})
	return answer.GetReady().GetValue(), err
}

func (r *rig) testNovaHangs(t *testing.T) {
	p, _ := r.startBeside(t, "nova-api")
	wantReady(t, p, true)
	ctx, c, start := limited(t), csi.NewControllerClient(p.Conn), time.Now()
	step := func(what string) {
		t.Logf("%s: %s", what, time.Since(start).Round(time.Millisecond))
		start = time.Now()
	}
	v := get(c.CreateVolume(ctx, request(name(t), gib)))(t).GetVolume()
	step("create")
	get(c.ListVolumes(ctx, &csi.ListVolumesRequest{}))(t)
	get(c.GetCapacity(ctx, &csi.GetCapacityRequest{}))(t)
	step("list, capacity")
	get(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: v.GetVolumeId()}))(t)
	step("delete")
}

func (r *rig) testCinderHangs(t *testing.T) {
	p, resume := r.startBeside(t, "cinder-api")
	wantReady(t, p, true)
	c := csi.NewControllerClient(p.Conn)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err := c.CreateVolume(ctx, request(name(t), gib))
	if code := status.Code(err); code != codes.DeadlineExceeded && code != codes.Unavailable {
		t.Errorf("while Cinder hangs: %v", err)
	}
	wantReady(t, p, true)
	resume()
	get(c.ListVolumes(limited(t), &csi.ListVolumesRequest{}))(t)
}

func (r *rig) testKeystoneHangs(t *testing.T) {
	p, resume := r.startBeside(t, "keystone")
	wantReady(t, p, false)
	resume()
	start := time.Now()
	must(t, openstack.Eventually(limited(t), "the controller is ready", func(context.Context) (bool, error) { return probe(t, p) }))
	t.Logf("ready %s after Keystone", time.Since(start).Round(time.Millisecond))
	get(csi.NewControllerClient(p.Conn).ListVolumes(limited(t), &csi.ListVolumesRequest{}))(t)
}
