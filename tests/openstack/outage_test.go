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
	"github.com/growvol/growvol/tests/openstack"
)

// testOutages: parts of the cloud, or the driver itself, are gone in the
// middle of an expansion. No answer is a success that is none or a failure
// that would be final; and once all is well, the repeated call ends well.
func (r *rig) testOutages(t *testing.T) {
	r.tidy(t)
	ctx, c := limited(t), r.client()
	id := get(c.CreateVolume(ctx, request(name(t), gib)))(t).GetVolume().GetVolumeId()
	t.Run("cinder-volume stalls", func(t *testing.T) {
		expandThrough(t, r, id, 2*gib, func() { r.service(t, "pause", "cinder-volume") }, func() { r.service(t, "continue", "cinder-volume") })
	})
	t.Run("cinder-api is down", func(t *testing.T) {
		expandThrough(t, r, id, 3*gib, func() { r.service(t, "stop", "cinder-api") }, func() { r.service(t, "start", "cinder-api") })
	})
	t.Run("controller is killed", func(t *testing.T) { killController(t, r, id, 4*gib) })
	get(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}))(t)
}

// expandThrough asks for a size while something is broken, and again when it
// is mended.
func expandThrough(t *testing.T, r *rig, id string, size int64, breakIt, mend func()) {
	t.Helper()
	before := int64(get(r.User.Volume(t.Context(), id))(t).Size) * gib
	breakIt()
	t.Cleanup(mend)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := expand(ctx, r.client(), id, size)
	if ctx.Err() != nil {
		t.Error("the answer came only when the caller had given up")
	}
	switch status.Code(err) {
	case codes.Aborted, codes.Unavailable, codes.DeadlineExceeded:
	default:
		t.Errorf("external-resizer would not go on after this: %v", err)
	}
	wantCode(t, err, status.Code(err), id)
	t.Logf("meanwhile: %v", err)
	mend()
	must(t, openstack.Eventually(t.Context(), "Cinder answers", func(ctx context.Context) (bool, error) {
		v, err := r.User.Volume(ctx, id)
		return err == nil && (int64(v.Size)*gib == before || int64(v.Size)*gib == size), nil
	}))
	if got := get(expand(limited(t), r.client(), id, size))(t); got != size {
		t.Errorf("afterwards the answer is %s, want %s", short(got), short(size))
	}
	r.wantSize(t, id, size, "available")
}

// killController ends a controller in the middle of an expansion; the next one
// brings it to its end.
func killController(t *testing.T, r *rig, id string, size int64) {
	t.Helper()
	dir, conf := t.TempDir(), "--cloud-config="+filepath.Join(r.Dir, "cloud-test.conf")
	// Paused, so that the first controller cannot have ended before it is killed.
	r.service(t, "pause", "cinder-volume")
	t.Cleanup(func() { r.service(t, "continue", "cinder-volume") })
	first := get(csiclient.StartPlugin(t.Context(), io.Discard, filepath.Join(r.bin, "growvol-controller"), filepath.Join(dir, "csi.sock"), "--backend=cinder", conf))(t)
	asked := make(chan error, 1)
	go func() {
		_, err := expand(limited(t), csi.NewControllerClient(first.Conn), id, size)
		asked <- err
	}()
	must(t, openstack.Eventually(t.Context(), "the volume is being extended", func(ctx context.Context) (bool, error) {
		v, err := r.User.Volume(ctx, id)
		return err == nil && v.Status == "extending", err
	}))
	first.Kill()
	if err := <-asked; err == nil {
		t.Fatalf("an expansion of a volume of %s succeeded that was not done", volume.Size(size))
	}
	second, _ := r.startController(t, conf)
	r.service(t, "continue", "cinder-volume")
	if got := get(expand(limited(t), csi.NewControllerClient(second.Conn), id, size))(t); got != size {
		t.Errorf("the next controller says %s, want %s", short(got), short(size))
	}
	r.wantSize(t, id, size, "available")
}
