package fakecloud_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"

	"github.com/growvol/growvol/tests/fakecloud"
)

func TestSameSeedGivesSameIdentifiers(t *testing.T) {
	ids := func(seed uint64) []string {
		c := fakecloud.Start(t, fakecloud.Options{Seed: seed})
		return []string{c.AddServer(""), c.AddVolume(fakecloud.Volume{Size: 1}), c.ProjectID()}
	}
	if a, b := ids(7), ids(7); !slices.Equal(a, b) {
		t.Errorf("the same seed gives %v and %v", a, b)
	}
	if a, b := ids(7), ids(8); a[0] == b[0] {
		t.Errorf("two seeds give the same identifier %s", a[0])
	}
}

func TestLatencyDelaysAnswer(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	c.cloud.SetLatency(fakecloud.GetVolume, fakecloud.Latency{
		Answer: fakecloud.Uniform(40*time.Millisecond, 60*time.Millisecond),
	})
	id := c.cloud.AddVolume(fakecloud.Volume{Size: 1})
	begun := time.Now()
	if _, err := volumes.Get(t.Context(), c.cinder, id).Extract(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took < 40*time.Millisecond {
		t.Errorf("the answer took %v, want at least 40ms", took)
	}
}

func TestRequestsAreRecorded(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	c.provider.UserAgent.Prepend("growvol/test")
	id := c.createAvailable(1)
	c.cloud.ClearRequests()
	c.extend(id, 2)
	log := c.cloud.Requests()
	if len(log) != 1 || c.cloud.Count(fakecloud.AnyCall) != 1 || c.cloud.Counts()[fakecloud.ExtendVolume] != 1 {
		t.Fatalf("got the records %+v, want one extension", log)
	}
	r := log[0]
	if r.Method != http.MethodPost || !strings.HasSuffix(r.Path, "/volumes/"+id+"/action") || r.Microversion != "3.70" ||
		!strings.HasPrefix(r.UserAgent, "growvol/test") || !strings.HasPrefix(r.RequestID, "req-") ||
		r.Status != http.StatusAccepted {
		t.Errorf("got the record %+v", r)
	}
}

func TestCloseEndsWaitingRequestsAndWork(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	c.cloud.SetLatency(fakecloud.CreateVolume, fakecloud.Latency{Work: fakecloud.Fixed(time.Hour)})
	c.create(volumes.CreateOpts{Size: 1})
	c.cloud.SetLatency(fakecloud.ListVolumeDetail, fakecloud.Latency{Answer: fakecloud.Fixed(time.Hour)})
	answered := make(chan error, 1)
	go func() { _, err := volumes.List(c.cinder, nil).AllPages(t.Context()); answered <- err }()
	await(t, func() bool { return c.cloud.Count(fakecloud.ListVolumeDetail) == 1 })
	closed := make(chan struct{})
	go func() { c.cloud.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(5 * time.Second):
		t.Fatal("Close does not return within 5 s")
	}
	if err := <-answered; err == nil {
		t.Error("Close let a waiting request succeed")
	}
	c.cloud.Close() // may be called twice
}
