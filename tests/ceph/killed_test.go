package ceph_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// This file tests a controller that is killed in the middle of its operations.

// testKilledController kills a controller at several moments of every operation. The next
// controller must complete the repeated operation, and no image may be left at the end.
func (r *rig) testKilledController(t *testing.T) {
	t.Parallel()
	for _, milliseconds := range []int{4, 10, 20, 40, 70} {
		delay := time.Duration(milliseconds) * time.Millisecond
		t.Run(delay.String(), func(t *testing.T) {
			t.Parallel()
			log := must.Value(os.Create(filepath.Join(t.TempDir(), "killed.log")))(t)
			t.Cleanup(func() { logOnFailure(t, log.Name()) })
			k := killing{rig: r, t: t, log: log, delay: delay, name: testName(t)}
			k.start()
			k.run()
			k.plugin.Kill()
			r.wantNothingOf(t, testName(t))
		})
	}
}

// killing is a part of testKilledController.
type killing struct {
	rig    *rig
	t      *testing.T
	log    *os.File
	delay  time.Duration // from the call to the kill
	name   string
	plugin *csiclient.Plugin
}

func (k *killing) start() {
	k.t.Helper()
	k.plugin, _ = k.rig.startKillableController(k.t, k.log)
}

// run makes every operation once, through interrupt.
func (k *killing) run() {
	k.t.Helper()
	var id, snapshot string
	copies := map[string]*csi.VolumeContentSource{}
	k.interrupt("create", func(ctx context.Context, c csi.ControllerClient) error {
		resp, err := c.CreateVolume(ctx, createRequest(k.name, gib))
		id = resp.GetVolume().GetVolumeId()
		return err
	})
	k.interrupt("expand", func(ctx context.Context, c csi.ControllerClient) error {
		_, err := expand(ctx, c, id, 2*gib)
		return err
	})
	k.rig.wantSize(k.t, id, 2*gib)
	k.interrupt("snapshot", func(ctx context.Context, c csi.ControllerClient) error {
		resp, err := c.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{SourceVolumeId: id, Name: k.name})
		snapshot = resp.GetSnapshot().GetSnapshotId()
		return err
	})
	copies["restored"], copies["cloned"] = snapshotSource(snapshot), volumeSource(id)
	made := []string{id}
	for kind, source := range copies {
		k.interrupt(kind, func(ctx context.Context, c csi.ControllerClient) error {
			req := createRequest(k.name+"-"+kind, 3*gib)
			req.VolumeContentSource = source
			resp, err := c.CreateVolume(ctx, req)
			if err == nil {
				made = append(made, resp.GetVolume().GetVolumeId())
				k.rig.wantSize(k.t, resp.GetVolume().GetVolumeId(), 3*gib)
			}
			return err
		})
	}
	for _, id := range made {
		k.interrupt("delete", func(ctx context.Context, c csi.ControllerClient) error {
			_, err := c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id})
			return err
		})
		k.rig.wantNoImage(k.t, id)
	}
	k.interrupt("delete the snapshot", func(ctx context.Context, c csi.ControllerClient) error {
		_, err := c.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snapshot})
		return err
	})
}

// interrupt makes a call, kills the controller meanwhile, and repeats the call with the next
// controller until it succeeds.
func (k *killing) interrupt(name string, call func(context.Context, csi.ControllerClient) error) {
	k.t.Helper()
	// A killed client may hold the lock of an image for half a minute.
	ctx, cancel := context.WithTimeout(k.t.Context(), time.Minute)
	defer cancel()
	answered := make(chan error, 1)
	go func() { answered <- call(ctx, csi.NewControllerClient(k.plugin.Conn)) }()
	_ = operation.Sleep(ctx, k.delay)
	k.plugin.Kill()
	first := <-answered
	k.start()
	start := time.Now()
	for {
		err := call(ctx, csi.NewControllerClient(k.plugin.Conn))
		if err == nil {
			break
		}
		// external-provisioner repeats DeleteVolume after every error.
		if isWatched := strings.Contains(err.Error(), "is in use by"); !isWatched || name != "delete" {
			wantRetried(k.t, err)
		}
		if ctx.Err() != nil {
			k.t.Fatalf("%s after a kill: %v", name, err)
		}
		_ = operation.Sleep(ctx, 200*time.Millisecond)
	}
	if took := time.Since(start); took > 2*time.Second {
		k.t.Logf("%s, killed after %s (%v): the next controller completed it in %s",
			name, k.delay, first, took.Round(time.Millisecond))
	}
}
