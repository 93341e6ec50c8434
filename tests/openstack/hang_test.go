package openstack_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/openstack"
)

// testHangs pauses one service of the cloud, which then accepts connections but does not answer. A
// controller that starts meanwhile must serve its socket within seconds and do everything that
// needs only the other services.
func (r *rig) testHangs(t *testing.T) {
	r.checkLeftovers(t)
	t.Run("nova-api", r.testNovaHangs)
	t.Run("cinder-api", r.testCinderHangs)
	t.Run("keystone", r.testKeystoneHangs)
}

// startControllerDuringHang pauses a service and starts a controller. resume lets the service
// continue.
func (r *rig) startControllerDuringHang(t *testing.T, service string) (p *csiclient.Plugin, resume func()) {
	t.Helper()
	resume = func() { r.service(t, "continue", service) }
	t.Cleanup(resume)
	r.service(t, "pause", service)
	p, _ = r.startController(t, "--cloud-config="+filepath.Join(r.Dir, "cloud-test.conf"))
	if p.StartDuration > 15*time.Second {
		t.Errorf("the controller answered after %s, want at most 15s", p.StartDuration)
	}
	t.Logf("the controller answered after %s", p.StartDuration.Round(time.Millisecond))
	return p, resume
}

// wantReady fails the test unless Probe reports this readiness.
func wantReady(t *testing.T, p *csiclient.Plugin, want bool) {
	t.Helper()
	if ready := must.Value(probe(t, p))(t); ready != want {
		t.Errorf("Probe: got ready %t, want %t", ready, want)
	}
}

// probe returns the readiness that the controller reports.
func probe(t *testing.T, p *csiclient.Plugin) (bool, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	answer, err := csi.NewIdentityClient(p.Conn).Probe(ctx, &csi.ProbeRequest{})
	return answer.GetReady().GetValue(), err
}

func (r *rig) testNovaHangs(t *testing.T) {
	p, _ := r.startControllerDuringHang(t, "nova-api")
	wantReady(t, p, true)
	ctx, c, start := testContext(t), csi.NewControllerClient(p.Conn), time.Now()
	logTime := func(call string) {
		t.Logf("%s: %s", call, time.Since(start).Round(time.Millisecond))
		start = time.Now()
	}
	v := must.Value(c.CreateVolume(ctx, createRequest(testName(t), gib)))(t).GetVolume()
	logTime("create")
	must.Value(c.ListVolumes(ctx, &csi.ListVolumesRequest{}))(t)
	must.Value(c.GetCapacity(ctx, &csi.GetCapacityRequest{}))(t)
	logTime("list, capacity")
	must.Value(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: v.GetVolumeId()}))(t)
	logTime("delete")
}

func (r *rig) testCinderHangs(t *testing.T) {
	p, resume := r.startControllerDuringHang(t, "cinder-api")
	wantReady(t, p, true)
	c := csi.NewControllerClient(p.Conn)
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second) // for the whole margin
	defer cancel()
	_, err := c.CreateVolume(ctx, createRequest(testName(t), gib))
	wantAnswerInTime(ctx, t, err, testName(t))
	wantReady(t, p, true)
	resume()
	must.Value(c.ListVolumes(testContext(t), &csi.ListVolumesRequest{}))(t)
}

func (r *rig) testKeystoneHangs(t *testing.T) {
	p, resume := r.startControllerDuringHang(t, "keystone")
	wantReady(t, p, false)
	resume()
	start := time.Now()
	must.Succeed(t,
		openstack.WaitUntil(testContext(t), "the controller is ready", func(context.Context) (bool, error) {
			return probe(t, p)
		}))
	t.Logf("ready %s after Keystone", time.Since(start).Round(time.Millisecond))
	must.Value(csi.NewControllerClient(p.Conn).ListVolumes(testContext(t), &csi.ListVolumesRequest{}))(t)
}
