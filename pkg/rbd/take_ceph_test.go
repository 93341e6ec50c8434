//go:build ceph

package rbd

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/rbd/internal/attachment"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// This file tests on a real cluster what protects images and snapshots from clients that the driver
// does not see.

// imageID returns the id of an image of the test.
func (r *cephRig) imageID(t *testing.T, name string) string {
	t.Helper()
	var info struct {
		ID string `json:"id"`
	}
	check(t, json.Unmarshal([]byte(r.run(t, "rbd", "info", "--format", "json", "volumes/"+r.prefix+name)), &info))
	return info.ID
}

// attach writes the record of an attachment, as Attach does, and returns a function that removes
// it.
func (r *cephRig) attach(t *testing.T, name string) (detach func()) {
	t.Helper()
	spec, key := "volumes/"+r.prefix+name, attachment.Key("n1")
	r.run(t, "rbd", "image-meta", "set", spec, key, `{"imageID":"`+r.imageID(t, name)+`","mode":"SINGLE_NODE_WRITER"}`)
	return func() { r.run(t, "rbd", "image-meta", "remove", spec, key) }
}

// A lock without a watch is that of a node that is cut off.
func TestOnCephSnapshotWhileTheNodeIsCutOff(t *testing.T) {
	r := newCephRig(t)
	v := r.create(t, r.request("x"))
	detach := r.attach(t, "x")
	r.run(t, "rbd", "lock", "add", "volumes/"+r.prefix+"x", "auto 139")
	req := volume.SnapshotRequest{Name: "cut", VolumeID: v.ID}
	_, err := r.CreateSnapshot(t.Context(), req)
	volumetest.WantKind(t, err, volume.KindUnavailable, "does not answer")
	volumetest.WantKind(t, r.Delete(t.Context(), v.ID), volume.KindPrecondition, "n1")
	r.run(t, "rbd", "lock", "remove", "volumes/"+r.prefix+"x", "auto 139", r.locker(t, "x"))
	detach()
	s, err := r.CreateSnapshot(t.Context(), req)
	check(t, err)
	check(t, r.DeleteSnapshot(t.Context(), s.ID))
}

// locker returns the client that holds a lock of an image.
func (r *cephRig) locker(t *testing.T, name string) string {
	t.Helper()
	var locks []struct {
		Locker string `json:"locker"`
	}
	check(t, json.Unmarshal([]byte(r.run(t, "rbd", "lock", "list", "--format", "json", "volumes/"+r.prefix+name)), &locks))
	return locks[0].Locker
}

// A client that writes all the time gives the lock for the moment of the snapshot.
func TestOnCephSnapshotAndCloneWhileAClientWrites(t *testing.T) {
	r := newCephRig(t)
	v := r.create(t, r.request("x"))
	t.Cleanup(r.attach(t, "x"))
	ctx, cancel := context.WithCancel(t.Context())
	writer := exec.CommandContext(ctx, "rbd", "-c", filepath.Join(r.dir, "ceph.conf"), "--name", "client.admin", "bench",
		"--io-type", "write", "--io-size", "4096", "--io-threads", "4", "--io-total", "100G", "volumes/"+r.prefix+"x")
	writer.Cancel = func() error { return writer.Process.Signal(os.Interrupt) } // it gives the lock back
	check(t, writer.Start())
	t.Cleanup(func() {
		cancel()
		_ = writer.Wait()
	})
	for deadline := time.Now().Add(20 * time.Second); r.run(t, "rbd", "lock", "list", "volumes/"+r.prefix+"x") == ""; {
		if time.Now().After(deadline) {
			t.Fatal("the client does not take the lock")
		}
	}
	start := time.Now()
	s, err := r.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: "writing", VolumeID: v.ID})
	check(t, err)
	t.Logf("snapshot: %s", time.Since(start))
	start = time.Now()
	req := r.request("y")
	req.Source.VolumeID = v.ID
	clone, err := r.CloneVolume(t.Context(), req)
	check(t, err)
	t.Logf("clone: %s", time.Since(start))
	check(t, r.DeleteSnapshot(t.Context(), s.ID))
	check(t, r.Delete(t.Context(), clone.ID))
}

func TestOnCephCreateDoesNotTakeAnImageWithData(t *testing.T) {
	r := newCephRig(t)
	for _, name := range []string{"x", "y"} {
		r.run(t, "rbd", "create", "--size", "1G", "volumes/"+r.prefix+name)
	}
	r.run(t, "rbd", "bench", "--io-type", "write", "--io-size", "4096", "--io-total", "4096", "volumes/"+r.prefix+"x")
	_, err := r.Create(t.Context(), r.request("x"))
	volumetest.WantKind(t, err, volume.KindAlreadyExists, "has data")
	if v := r.create(t, r.request("y")); v.Size != volume.GiB {
		t.Errorf("got %s", v.Size)
	}
}
