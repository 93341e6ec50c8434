package ceph_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/ceph"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/inguest"
	"github.com/growvol/growvol/tests/must"
)

// This file starts what all tests share: the controller and the nodes.

const (
	gib = int64(volume.GiB)
	mib = int64(volume.MiB)
	// allFeatures are those of Ceph's own default. The driver's default has neither the object map
	// nor what needs it.
	allFeatures = "layering,exclusive-lock,object-map,fast-diff,deep-flatten"
)

// rig is a running Ceph with the controller plugin and two nodes.
type rig struct {
	*ceph.Rig
	bin        string // directory of the programs
	controller *csiclient.Plugin
	socket     string // path of the socket of the controller
	user       string // directory below Dir with the keys of the controller
	nodes      []*node
	used       atomic.Int32 // number of calls of nextNode
}

// The guests by their numbers. Tests that cut their guests off, fence or kill them have guests of
// their own, so that other tests can run concurrently.
const (
	firstGuest, secondGuest = 1, 2 // of the other tests
	kernelGuest             = 3    // of the tests of package krbd
	cutOffGuest             = 4
	longCutOffGuest         = 5
	cutOffGroupGuest        = 6
	sanityGuest             = 7
	fencedGuest             = 8
	fencedGuestTaker        = 9
	lostGuest               = 10
	lostGuestTaker          = 11
)

// newRig empties the pools, and starts the controller and the nodes.
func newRig(t *testing.T, dir string) *rig {
	t.Helper()
	r := &rig{Rig: ceph.Open(dir, os.Getenv(sourceVariable)), bin: os.Getenv(binVariable), user: "keys"}
	limited, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
	defer cancel()
	must.Succeed(t, r.Purge(limited)) // what a test that was killed has left
	r.controller, r.socket = r.startController(t)
	return r.withNodes(t, firstGuest, secondGuest)
}

// withNodes returns the rig with other nodes: guests with these numbers, which run until the end of
// the test.
func (r *rig) withNodes(t *testing.T, guests ...int) *rig {
	t.Helper()
	other := &rig{
		Rig: r.Rig, bin: r.bin, controller: r.controller, socket: r.socket, user: r.user,
		nodes: make([]*node, len(guests)),
	}
	var wg sync.WaitGroup
	for i, number := range guests {
		wg.Go(func() { other.nodes[i] = other.startNode(t, number) })
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return other
}

// withGuests returns a parallel test that has other nodes: guests with these numbers.
func (r *rig) withGuests(test func(*rig, *testing.T), guests ...int) func(*testing.T) {
	return func(t *testing.T) { //nolint:thelper // a test, no helper
		t.Parallel()
		test(r.withNodes(t, guests...), t)
	}
}

// startController starts a controller plugin that runs until the end of the test. The end of its
// log is shown if the test fails.
func (r *rig) startController(t *testing.T) (plugin *csiclient.Plugin, socket string) {
	t.Helper()
	dir := t.TempDir()
	log := must.Value(os.Create(filepath.Join(dir, "controller.log")))(t)
	p, socket := r.startKillableController(t, log)
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Errorf("stop the controller: %v", err)
		}
		logOnFailure(t, log.Name())
	})
	return p, socket
}

// startKillableController starts a controller plugin that the caller ends.
func (r *rig) startKillableController(t *testing.T, log io.Writer) (plugin *csiclient.Plugin, socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "csi.sock")
	program := filepath.Join(r.bin, "growvol-controller-ceph")
	return must.Value(csiclient.StartPlugin(t.Context(), log, program, socket, r.controllerOptions()...))(t), socket
}

// controllerOptions returns the options of a controller plugin.
func (r *rig) controllerOptions() []string {
	return []string{
		"--backend=rbd", "--log-level=debug",
		"--ceph-config=" + filepath.Join(r.Dir, "config.json"), "--ceph-keys=" + filepath.Join(r.Dir, r.user),
	}
}

// logOnFailure logs the end of a file if the test has failed.
func logOnFailure(t *testing.T, path string) {
	t.Helper()
	if text, err := os.ReadFile(path); err == nil && t.Failed() {
		t.Logf("end of %s:\n%s", filepath.Base(path), text[max(0, len(text)-20000):])
	}
}

// client returns a client of the controller.
func (r *rig) client() csi.ControllerClient { return csi.NewControllerClient(r.controller.Conn) }

// class returns the parameters of a StorageClass: the further ones replace the default.
func class(further map[string]string) map[string]string {
	parameters := map[string]string{"clusterID": ceph.Cluster, "pool": ceph.Pool}
	for key, value := range further {
		parameters[key] = value
	}
	return parameters
}

// createRequest returns the request of external-provisioner for a claim of this size in bytes.
func createRequest(name string, size int64) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name:               name,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: size},
		VolumeCapabilities: []*csi.VolumeCapability{csiclient.MountCapability("ext4")},
		Parameters:         class(nil),
	}
}

// expand expands a volume to a size in bytes and returns the size in the answer.
func expand(ctx context.Context, c csi.ControllerClient, id string, size int64) (int64, error) {
	resp, err := c.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{
		VolumeId:      id,
		CapacityRange: &csi.CapacityRange{RequiredBytes: size},
	})
	return resp.GetCapacityBytes(), err
}

// imageOf returns the image of a volume as Ceph's tools name it: its handle without the cluster.
func imageOf(id string) string {
	_, image, _ := strings.Cut(id, "/")
	return image
}

// wantSize fails the test unless Ceph has the image of the volume with this size in bytes.
func (r *rig) wantSize(t *testing.T, id string, size int64) {
	t.Helper()
	if info := must.Value(r.Image(t.Context(), imageOf(id)))(t); info.Size != size {
		t.Errorf("Ceph has image %s with %s, want %s", imageOf(id), sizeText(info.Size), sizeText(size))
	}
}

// imageNames returns the images of a pool as Ceph's tools name them.
func (r *rig) imageNames(t *testing.T, pool string) []string {
	t.Helper()
	var images []string
	for name := range strings.FieldsSeq(must.Value(r.Tool(t.Context(), "rbd", "ls", pool))(t)) {
		images = append(images, pool+"/"+name)
	}
	return images
}

// wantNobodyFenced fails the test if a client is on the blocklist that no other test fences.
func (r *rig) wantNobodyFenced(t *testing.T) {
	t.Helper()
	fenced := slices.DeleteFunc(must.Value(r.Blocklist(t.Context()))(t), func(address string) bool {
		host, _, _ := strings.Cut(address, ":")
		return slices.ContainsFunc([]int{kernelGuest, fencedGuest, lostGuest}, func(guest int) bool {
			return host == ceph.Address(guest).String()
		})
	})
	if len(fenced) > 0 {
		t.Errorf("got the fenced clients %v, want none", fenced)
	}
}

// testContext returns the context of the test with a timeout, because calls wait for as long as
// their caller.
func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
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
