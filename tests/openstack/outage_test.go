package openstack_test

import (
	"context"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/openstack"
)

// testOutages stops parts of the cloud, or the driver, during an expansion. No answer may be a
// success without an expansion, or a failure after which external-resizer gives up. When the cause
// is gone, the repeated call must succeed.
func (r *rig) testOutages(t *testing.T) {
	r.checkLeftovers(t)
	ctx, c := testContext(t), r.client()
	id := must.Value(c.CreateVolume(ctx, createRequest(testName(t), gib)))(t).GetVolume().GetVolumeId()
	t.Run("cinder-volume stalls", func(t *testing.T) {
		expandDuringOutage(t, r, id, 2*gib,
			func() { r.service(t, "pause", "cinder-volume") },
			func() { r.service(t, "continue", "cinder-volume") })
	})
	t.Run("cinder-api is down", func(t *testing.T) {
		expandDuringOutage(t, r, id, 3*gib,
			func() { r.service(t, "stop", "cinder-api") },
			func() { r.service(t, "start", "cinder-api") })
	})
	t.Run("controller is killed", func(t *testing.T) { killController(t, r, id, 4*gib) })
	must.Value(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}))(t)
}

// expandDuringOutage expands a volume between disturb and restore, and again after restore.
func expandDuringOutage(t *testing.T, r *rig, id string, size int64, disturb, restore func()) {
	t.Helper()
	before := int64(must.Value(r.User.Volume(t.Context(), id))(t).Size) * gib
	disturb()
	t.Cleanup(restore)
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second) // for the whole margin
	defer cancel()
	_, err := expand(ctx, r.client(), id, size)
	wantAnswerInTime(ctx, t, err, id)
	restore()
	must.Succeed(t, openstack.WaitUntil(t.Context(), "Cinder answers", func(ctx context.Context) (bool, error) {
		v, err := r.User.Volume(ctx, id)
		return err == nil && (int64(v.Size)*gib == before || int64(v.Size)*gib == size), nil
	}))
	if got := must.Value(expand(testContext(t), r.client(), id, size))(t); got != size {
		t.Errorf("after the outage: got %s, want %s", sizeText(got), sizeText(size))
	}
	r.wantSize(t, id, size, "available")
}

// wantAnswerInTime fails the test unless a call with the deadline of ctx, which has just returned
// err, was answered before the deadline, with a code after which Kubernetes retries and a message
// that names the object of the call.
func wantAnswerInTime(ctx context.Context, t *testing.T, err error, name string) {
	t.Helper()
	deadline, _ := ctx.Deadline()
	left := time.Until(deadline).Round(time.Millisecond)
	if left <= 0 {
		t.Error("the controller answered only after the deadline of the caller")
	}
	switch status.Code(err) {
	case codes.Aborted, codes.Unavailable, codes.DeadlineExceeded:
	default:
		t.Errorf("got %v, want a code after which Kubernetes retries", err)
	}
	must.FailWith(t, err, status.Code(err), name)
	t.Logf("during the outage, %s before the deadline: %v", left, err)
}

// killController kills a controller during an expansion. The next controller must complete the
// expansion.
func killController(t *testing.T, r *rig, id string, size int64) {
	t.Helper()
	dir, conf := t.TempDir(), "--cloud-config="+filepath.Join(r.Dir, "cloud-test.conf")
	// The pause makes sure that the expansion does not end before the controller is killed.
	r.service(t, "pause", "cinder-volume")
	t.Cleanup(func() { r.service(t, "continue", "cinder-volume") })
	program, socket := filepath.Join(r.bin, "growvol-controller"), filepath.Join(dir, "csi.sock")
	first := must.Value(csiclient.StartPlugin(t.Context(), io.Discard, program, socket, "--backend=cinder", conf))(t)
	answered := make(chan error, 1)
	go func() {
		_, err := expand(testContext(t), csi.NewControllerClient(first.Conn), id, size)
		answered <- err
	}()
	must.Succeed(t,
		openstack.WaitUntil(t.Context(), "the volume is being extended", func(ctx context.Context) (bool, error) {
			v, err := r.User.Volume(ctx, id)
			return err == nil && v.Status == "extending", err
		}))
	first.Kill()
	if err := <-answered; err == nil {
		t.Fatalf("the expansion to %s succeeded in a controller that was killed", volume.Size(size))
	}
	second, _ := r.startController(t, conf)
	r.service(t, "continue", "cinder-volume")
	if got := must.Value(expand(testContext(t), csi.NewControllerClient(second.Conn), id, size))(t); got != size {
		t.Errorf("the next controller reports %s, want %s", sizeText(got), sizeText(size))
	}
	r.wantSize(t, id, size, "available")
}
