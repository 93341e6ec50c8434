package cinder

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/class"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/controller"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// copying is a copy that Cinder has accepted and does not finish before the test releases it.
type copying struct {
	*rig
	server *controller.Server
	source string
	id     string // of the copy

	snapshot string        // that it is restored from
	done     chan struct{} // closed when the call has ended
	err      error         // of the call, once done is closed
}

// startCopy asks the controller for a copy of a volume, which Cinder makes with call, and returns
// when Cinder has accepted it. found returns the copies in the cloud.
func startCopy(
	t *testing.T, call fakecloud.Call, found func(r *rig, source string) []string,
	ask func(ctx context.Context, s *controller.Server, source string) error,
) *copying {
	t.Helper()
	c := &copying{rig: newRig(t, fakecloud.Options{}), done: make(chan struct{})}
	c.server, c.source = controller.New(c.Backend, controller.Options{}), c.cloud.Add(fakecloud.Volume{})
	c.cloud.OnCall(call, fakecloud.Stuck())
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(c.done)
		c.err = ask(ctx, c.server, c.source)
	}()
	t.Cleanup(func() { cancel(); <-c.done })
	cindertest.Eventually(t, "Cinder accepts the copy", func() bool {
		ids := found(c.rig, c.source)
		if len(ids) == 1 {
			c.id = ids[0]
		}
		return c.id != ""
	})
	return c
}

func startClone(t *testing.T) *copying {
	t.Helper()
	return startCopy(t, fakecloud.CreateVolume, copiedVolumes, func(
		ctx context.Context, s *controller.Server, source string,
	) error {
		return makeFrom(ctx, s, &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: source},
		}})
	})
}

func startRestore(t *testing.T) *copying {
	t.Helper()
	c := startCopy(t, fakecloud.CreateVolume, copiedVolumes, func(
		ctx context.Context, s *controller.Server, source string,
	) error {
		resp, err := s.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: source})
		if err != nil {
			return err
		}
		return makeFrom(ctx, s, &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: resp.GetSnapshot().GetSnapshotId()},
		}})
	})
	for _, s := range cindertest.SnapshotsNamed(t, c.clouds, "s") {
		c.snapshot = s.ID
	}
	return c
}

// copiedVolumes returns the volumes of the cloud except the source.
func copiedVolumes(r *rig, source string) (ids []string) {
	for _, v := range r.cloud.Volumes() {
		if v.ID != source {
			ids = append(ids, v.ID)
		}
	}
	return ids
}

func makeFrom(ctx context.Context, s *controller.Server, source *csi.VolumeContentSource) error {
	_, err := s.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name: "copy", CapacityRange: &csi.CapacityRange{RequiredBytes: volume.GiB.Bytes()}, VolumeCapabilities: writable(),
		VolumeContentSource: source,
	})
	return err
}

func startSnapshot(t *testing.T, kind string) *copying {
	t.Helper()
	call := fakecloud.CreateSnapshot
	if kind == class.TypeBackup {
		call = fakecloud.CreateBackup
	}
	return startCopy(t, call, func(r *rig, _ string) (ids []string) {
		for _, s := range cindertest.SnapshotsNamed(t, r.clouds, "s") {
			if r.cloud.Count(call) > 0 {
				ids = append(ids, s.ID)
			}
		}
		return ids
	}, func(ctx context.Context, s *controller.Server, source string) error {
		_, err := s.CreateSnapshot(
			ctx,
			&csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: source, Parameters: map[string]string{class.ParamType: kind}},
		)
		return err
	})
}

func writable() []*csi.VolumeCapability {
	return []*csi.VolumeCapability{{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}}
}

func (c *copying) expand(ctx context.Context) (int64, error) {
	resp, err := c.server.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{
		VolumeId: c.source, CapacityRange: &csi.CapacityRange{RequiredBytes: (2 * volume.GiB).Bytes()},
	})
	return resp.GetCapacityBytes(), err
}

// Operations that Cinder allows while it copies a volume do not wait for the copy, which may take
// an hour.
func TestSourceIsUnlockedWhenTheCopyIsAccepted(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) *copying{
		"clone":    startClone,
		"snapshot": func(t *testing.T) *copying { t.Helper(); return startSnapshot(t, class.TypeSnapshot) },
		"backup":   func(t *testing.T) *copying { t.Helper(); return startSnapshot(t, class.TypeBackup) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := start(t)
				node := c.cloud.AddServer("")
				publish := &csi.ControllerPublishVolumeRequest{VolumeId: c.source, NodeId: node, VolumeCapability: writable()[0]}
				began := time.Now()
				if _, err := c.server.ControllerPublishVolume(cindertest.Within(t, 10*time.Second), publish); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took > 3*time.Second {
					t.Errorf("the volume was attached after %s", took)
				}
				c.cloud.CheckAttached(t, c.source, node)
				unpublish := &csi.ControllerUnpublishVolumeRequest{VolumeId: c.source, NodeId: node}
				if _, err := c.server.ControllerUnpublishVolume(cindertest.Within(t, 10*time.Second), unpublish); err != nil {
					t.Error(err)
				}
				c.cloud.Release(c.id)
				if <-c.done; c.err != nil {
					t.Errorf("the copy ended with %v", c.err)
				}
				if left := c.copies.Of(c.source); len(left) != 0 {
					t.Errorf("%v are still noted", left)
				}
			})
		})
	}
}

// Cinder cuts a copy off at the size that the source had when Cinder accepted the copy.
func TestExpandWaitsUntilTheCopyIsMade(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) *copying{
		"clone":    startClone,
		"snapshot": func(t *testing.T) *copying { t.Helper(); return startSnapshot(t, class.TypeSnapshot) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := start(t)
				_, err := c.expand(cindertest.Within(t, time.Second))
				cindertest.CheckKind(t, err, volume.KindInProgress, c.source, c.id, "cut off")
				c.cloud.CheckCalls(t, fakecloud.ExtendVolume, 0)
				cindertest.After(t, 200*time.Millisecond, func() { c.cloud.Release(c.id) })
				if size, err := c.expand(cindertest.Within(t, 10*time.Second)); err != nil || size != (2*volume.GiB).Bytes() {
					t.Errorf("%d, %v; want 2 GiB", size, err)
				}
				if <-c.done; c.err != nil {
					t.Errorf("the copy ended with %v", c.err)
				}
				if left := c.copies.Of(c.source); len(left) != 0 {
					t.Errorf("%v are still noted", left)
				}
			})
		})
	}
}

// A backup is made from a snapshot that is cut: a backup that takes hours delays nothing.
func TestExpandDoesNotWaitForABackup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := startSnapshot(t, class.TypeBackup)
		if size, err := c.expand(cindertest.Within(t, 10*time.Second)); err != nil || size != (2*volume.GiB).Bytes() {
			t.Errorf("%d, %v; want 2 GiB", size, err)
		}
	})
}

// The call that asked for the copy may have ended.
func TestExpandWaitsForACopyWhoseCallHasEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		source := r.cloud.Add(fakecloud.Volume{})
		r.cloud.OnCall(fakecloud.CreateVolume, fakecloud.Stuck())
		req := request("clone", volume.GiB, nil)
		req.Source.VolumeID = source
		_, err := r.CloneVolume(cindertest.Within(t, time.Second), req)
		cindertest.CheckKind(t, err, volume.KindDeadline)
		_, err = r.Expand(cindertest.Within(t, time.Second), source, 2*volume.GiB)
		cindertest.CheckKind(t, err, volume.KindInProgress, "cut off")
		// If the volume has the size already, Expand neither extends nor waits.
		if _, err := r.Expand(cindertest.Within(t, time.Second), source, volume.GiB); err != nil {
			t.Error(err)
		}
		for _, v := range r.cloud.Volumes() {
			if v.SourceID == source {
				r.cloud.SetVolumeStatus(v.ID, state.Error)
			}
		}
		checkExpand(cindertest.Within(t, 10*time.Second), t, r.Backend, source, 2*volume.GiB)
	})
}

// Cinder may delete the source before it has begun the clone, which then fails.
func TestDeleteWaitsUntilTheCopyIsMade(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		start  func(*testing.T) *copying
		remove func(context.Context, *copying) error
		call   fakecloud.Call
	}{
		"volume": {startClone, func(ctx context.Context, c *copying) error {
			_, err := c.server.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: c.source})
			return err
		}, fakecloud.DeleteVolume},
		"snapshot": {startRestore, func(ctx context.Context, c *copying) error {
			_, err := c.server.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: c.snapshot})
			return err
		}, fakecloud.DeleteSnapshot},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := test.start(t)
				err := test.remove(cindertest.Within(t, time.Second), c)
				cindertest.CheckKind(t, err, volume.KindInProgress, c.id, "would fail")
				c.cloud.CheckCalls(t, test.call, 0)
				cindertest.After(t, 200*time.Millisecond, func() { c.cloud.Release(c.id) })
				if err := test.remove(cindertest.Within(t, 10*time.Second), c); err != nil {
					t.Error(err)
				}
				if v, _ := c.cloud.Volume(c.id); v.Status != state.Available {
					t.Errorf("the copy is %q", v.Status)
				}
			})
		})
	}
}

func TestDeleteFailsWhileASnapshotIsTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := startSnapshot(t, class.TypeSnapshot)
		cindertest.After(t, 200*time.Millisecond, func() { c.cloud.Release(c.id) })
		_, err := c.server.DeleteVolume(cindertest.Within(t, 10*time.Second), &csi.DeleteVolumeRequest{VolumeId: c.source})
		cindertest.CheckKind(t, err, volume.KindPrecondition, c.id, "snapshots")
	})
}

// Cinder restores one volume at a time from a backup.
func TestRestoreOfABackupKeepsTheSourceLocked(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	for kind, free := range map[string]bool{class.TypeBackup: false, class.TypeSnapshot: true} {
		s := r.ready(t, cindertest.SnapshotRequest("s"+kind, r.cloud.Add(fakecloud.Volume{}), "type", kind))
		req, accepted := request("pvc-"+kind, volume.GiB, nil), false
		req.Source.SnapshotID, req.OnAccepted = s.ID, func() { accepted = true }
		for range 2 {
			if _, err := r.Restore(t.Context(), req); err != nil || accepted != free {
				t.Errorf("%s: accepted %t, %v; want %t", kind, accepted, err, free)
			}
			accepted = false
		}
	}
}

// A copy can take hours, in which the volume may have to be attached elsewhere.
func TestExpandEndsEarlyWhileACopyIsMade(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := startClone(t)
		ctx, began := cindertest.Within(t, 20*time.Second), time.Now()
		_, err := c.expand(ctx)
		cindertest.CheckKind(t, err, volume.KindInProgress, c.id)
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("the volume was locked for %s of 20 s", took)
		}
	})
}

// A source such as a golden image exists for years: its known copies must not accumulate.
func TestCopiesThatFailAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		source := r.cloud.Add(fakecloud.Volume{})
		s := r.ready(t, cindertest.SnapshotRequest("s", source))
		for id, from := range map[string]volume.Source{source: {VolumeID: source}, s.ID: {SnapshotID: s.ID}} {
			r.cloud.OnCall(fakecloud.CreateVolume, fakecloud.Fails())
			req := request("copy", volume.GiB, nil)
			req.Source = from
			_, err := r.Create(cindertest.Within(t, 10*time.Second), req)
			cindertest.CheckKind(t, err, volume.KindInternal)
			if left := r.copies.Of(id); len(left) != 0 {
				t.Errorf("%v are still noted", left)
			}
		}
	})
}
