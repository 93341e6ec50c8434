package fakecloud_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/backups"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/snapshots"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/volumeattach"
	"github.com/gophercloud/gophercloud/v2/openstack/config"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"
	"github.com/gophercloud/gophercloud/v2/openstack/utils"

	"github.com/growvol/growvol/tests/fakecloud"
)

func TestCloudsYAMLSignsIn(t *testing.T) {
	cloud := fakecloud.Start(t, fakecloud.Options{})
	path, err := cloud.CloudsYAML(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"csi", "appcred", "admin"} {
		auth, _, tls, err := clouds.Parse(clouds.WithLocations(path), clouds.WithCloudName(name))
		if err != nil {
			t.Fatal(err)
		}
		p, err := config.NewProviderClient(t.Context(), auth, config.WithTLSConfig(tls))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c := clients(t, cloud, p)
		if _, err := volumes.List(c.cinder, nil).AllPages(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTokens(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	list := func() error { _, err := volumes.List(c.cinder, nil).AllPages(t.Context()); return err }
	c.cloud.RevokeTokens()
	if err := list(); err != nil || c.cloud.Count(fakecloud.CreateToken) != 2 {
		t.Errorf("after the revocation: %v, %d tokens", err, c.cloud.Count(fakecloud.CreateToken))
	}
	c.cloud.SetTokenLife(time.Nanosecond)
	c.cloud.RevokeTokens()
	if err := list(); err == nil {
		t.Error("a token that expires at once was good")
	}
	_, err := openstack.AuthenticatedClient(t.Context(), gophercloud.AuthOptions{
		IdentityEndpoint: c.cloud.URL() + "/identity/v3", Username: "csi", Password: "wrong", DomainName: "Default", TenantName: "csi",
	})
	c.refused(err, http.StatusUnauthorized)
}

func TestMicroversionsAreOffered(t *testing.T) {
	c := connect(t, fakecloud.Options{CinderMax: "3.41", NovaMax: "2.53"})
	c.cinder.Microversion, c.nova.Microversion = "", ""
	top := *c.cinder // Cinder tells its versions above the project
	top.Endpoint = c.cloud.URL() + "/volume/v3/"
	for client, want := range map[*gophercloud.ServiceClient]string{&top: "3.41", c.nova: "2.53"} {
		v, err := utils.GetSupportedMicroversions(t.Context(), client)
		if err != nil {
			t.Fatal(err)
		}
		if have := fmt.Sprintf("%d.%d", v.MaxMajor, v.MaxMinor); have != want {
			t.Errorf("highest is %s, want %s", have, want)
		}
	}
	id := c.available(1)
	c.cinder.Microversion = "3.42"
	c.refused(c.extendErr(id, 2), http.StatusNotAcceptable)
}

func TestPagesAndFilters(t *testing.T) {
	c := connect(t, fakecloud.Options{ListLimit: 3})
	for i := range 7 {
		c.cloud.AddVolume(fakecloud.Volume{Name: fmt.Sprintf("v%d", i), Size: 1, Metadata: map[string]string{"cluster": fmt.Sprint(i % 2), "it's": "odd"}})
	}
	count := func(o volumes.ListOpts) int {
		t.Helper()
		pages, err := volumes.List(c.cinder, o).AllPages(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all, err := volumes.ExtractVolumes(pages)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, v := range all {
			seen[v.ID] = true
		}
		if len(seen) != len(all) {
			t.Errorf("%d volumes on the pages, %d different", len(all), len(seen))
		}
		return len(all)
	}
	for want, o := range map[int]volumes.ListOpts{
		7: {}, 4: {Metadata: map[string]string{"cluster": "0"}}, 1: {Name: "v3"}, 0: {Name: "v"}, 3: {Metadata: map[string]string{"cluster": "1"}, Status: "available"},
	} {
		if have := count(o); have != want {
			t.Errorf("%+v: %d volumes, want %d", o, have, want)
		}
	}
	if n := count(volumes.ListOpts{Limit: 2, Sort: "name:asc"}); n != 7 {
		t.Errorf("%d volumes on pages of two", n)
	}
}

func TestQuota(t *testing.T) {
	c := connect(t, fakecloud.Options{Quota: &fakecloud.Quota{Gigabytes: 5, Volumes: 3, Snapshots: 1, PerVolumeGigabytes: 4, Backups: 1, BackupGigabytes: 10}})
	id := c.available(3)
	over := func(err error, text string) {
		t.Helper()
		var e gophercloud.ErrUnexpectedResponseCode
		if !errors.As(err, &e) || e.Actual != http.StatusRequestEntityTooLarge {
			t.Fatalf("want 413, have %v", err)
		}
		var body struct {
			OverLimit struct {
				Message    string
				RetryAfter string
			}
		}
		if err := json.Unmarshal(e.Body, &body); err != nil || body.OverLimit.Message != text || body.OverLimit.RetryAfter != "0" || e.ResponseHeader.Get("Retry-After") != "0" {
			t.Errorf("%s\nwant %q", e.Body, text)
		}
	}
	over(c.extendErr(id, 5), "VolumeSizeExceedsLimit: Requested volume size 5G is larger than maximum allowed limit 4G.")
	if v, _ := c.cloud.Volume(id); v.Status != "available" {
		t.Errorf("%s after a refusal", v.Status)
	}
	other := c.available(2)
	over(c.extendErr(id, 4), "VolumeSizeExceedsAvailableQuota: Requested volume or snapshot exceeds allowed gigabytes quota. Requested 1G, quota is 5G and 5G has been consumed.")
	q := fakecloud.Unlimited()
	q.Volumes, q.Snapshots = 2, 0
	c.cloud.SetQuota(q)
	_, err := volumes.Create(t.Context(), c.cinder, volumes.CreateOpts{Size: 1}, nil).Extract()
	over(err, "VolumeLimitExceeded: Maximum number of volumes allowed (2) exceeded for quota 'volumes'.")
	_, err = snapshots.Create(t.Context(), c.cinder, snapshots.CreateOpts{VolumeID: other}).Extract()
	over(err, "SnapshotLimitExceeded: Maximum number of snapshots allowed (0) exceeded")
	c.extend(id, 4)
	if v := c.settled(id, "available"); v.Size != 4 {
		t.Errorf("%d GiB", v.Size)
	}
}

// TestExtendingCountsItsTarget: what is being extended has its new size in the
// quota already.
func TestExtendingCountsItsTarget(t *testing.T) {
	q := fakecloud.Unlimited()
	q.Gigabytes = 10
	c := connect(t, fakecloud.Options{Quota: &q})
	id := c.available(1)
	extendCall(c.cloud, fakecloud.Stuck())
	c.extend(id, 8)
	_, err := volumes.Create(t.Context(), c.cinder, volumes.CreateOpts{Size: 3}, nil).Extract()
	c.refused(err, http.StatusRequestEntityTooLarge)
}

func TestSnapshotsAndRestores(t *testing.T) {
	c := connect(t, fakecloud.Options{Dependent: true})
	id := c.available(2)
	snap, err := snapshots.Create(t.Context(), c.cinder, snapshots.CreateOpts{VolumeID: id, Name: "s"}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { s, _ := c.cloud.Snapshot(snap.ID); return s.Status == "available" })
	restored := c.create(volumes.CreateOpts{SnapshotID: snap.ID, Size: 4})
	if v := c.settled(restored, "available"); v.Size != 4 || v.SnapshotID != snap.ID {
		t.Errorf("restored as %+v", v)
	}
	if err := snapshots.Delete(t.Context(), c.cinder, snap.ID).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return len(c.messages(snap.ID)) == 1 })
	if s, ok := c.cloud.Snapshot(snap.ID); !ok || s.Status != "available" {
		t.Errorf("a snapshot with a clone is %v %s", ok, s.Status)
	}
	c.cloud.RemoveVolume(restored)
	if err := snapshots.Delete(t.Context(), c.cinder, snap.ID).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { _, ok := c.cloud.Snapshot(snap.ID); return !ok })
}

func TestBackups(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.create(volumes.CreateOpts{Size: 2, Name: "source", Metadata: map[string]string{"a": "source"}})
	c.settled(id, "available")
	full, err := backups.Create(t.Context(), c.cinder, backups.CreateOpts{VolumeID: id, Name: "b"}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { b, _ := c.cloud.Backup(full.ID); return b.Status == "available" })
	part, err := backups.Create(t.Context(), c.cinder, backups.CreateOpts{VolumeID: id, Incremental: true}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { b, _ := c.cloud.Backup(part.ID); return b.Status == "available" })
	c.refused(backups.Delete(t.Context(), c.cinder, full.ID).ExtractErr(), http.StatusBadRequest)
	restored := c.create(volumes.CreateOpts{BackupID: full.ID, Size: 3, Name: "restored", Metadata: map[string]string{"b": "lost"}})
	v := c.settled(restored, "available")
	if v.Size != 3 || v.Name != "restored" || v.Metadata["src_backup_id"] != full.ID || v.Metadata["a"] != "source" || v.Metadata["b"] != "" {
		t.Errorf("restored as %+v", v)
	}
	c.cloud.On(fakecloud.Match{Call: fakecloud.CreateBackup}, fakecloud.Fails())
	bad, err := backups.Create(t.Context(), c.cinder, backups.CreateOpts{VolumeID: id}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		b, _ := c.cloud.Backup(bad.ID)
		return b.Status == "error" && b.FailReason != ""
	})
	c.settled(id, "available")
}

func TestServersRefuse(t *testing.T) {
	c := connect(t, fakecloud.Options{MaxDisks: 1})
	server, id, other := c.cloud.AddServer(""), c.available(1), c.available(1)
	attach := func(volume string) error {
		_, err := volumeattach.Create(t.Context(), c.nova, server, volumeattach.CreateOpts{VolumeID: volume}).Extract()
		return err
	}
	c.cloud.PutServer(fakecloud.Server{ID: server, Locked: true})
	c.refused(attach(id), http.StatusConflict)
	c.cloud.PutServer(fakecloud.Server{ID: server, Status: "ERROR"})
	c.refused(attach(id), http.StatusConflict)
	c.cloud.PutServer(fakecloud.Server{ID: server})
	c.attach(server, id)
	c.refused(attach(other), http.StatusForbidden)
	c.cloud.SetMaxDisks(0)
	c.attach(server, other)
	c.cloud.PutServer(fakecloud.Server{ID: server, Locked: true})
	c.refused(volumeattach.Delete(t.Context(), c.nova, server, id).ExtractErr(), http.StatusConflict)
	c.cloud.RemoveServer(server)
	c.settled(id, "available")
	c.refused(attach(id), http.StatusNotFound)
}

func TestMultiattachGrowsInEveryGuest(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.create(volumes.CreateOpts{Size: 1, VolumeType: "rbd-multi"})
	c.settled(id, "available")
	servers := []string{c.cloud.AddServer(""), c.cloud.AddServer("")}
	for _, s := range servers {
		c.attach(s, id)
	}
	c.extend(id, 2)
	for _, s := range servers {
		eventually(t, func() bool { gib, _ := c.cloud.GuestSize(s, id); return gib == 2 })
	}
	c.settled(id, "in-use")
	if err := volumeattach.Delete(t.Context(), c.nova, servers[0], id).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { v, _ := c.cloud.Volume(id); return len(v.Attachments) == 1 && v.Status == "in-use" })
}

func TestLostServerLeavesRecordsThatCanBeDeleted(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	server, id := c.cloud.AddServer(""), c.available(1)
	c.attach(server, id)
	v, _ := c.cloud.Volume(id)
	forget := func() error {
		resp, err := c.cinder.Delete(t.Context(), c.cinder.ServiceURL("attachments", v.Attachments[0].ID), &gophercloud.RequestOpts{OkCodes: []int{200}})
		if resp != nil {
			err = errors.Join(err, resp.Body.Close())
		}
		return err
	}
	c.refused(forget(), http.StatusConflict)
	c.cloud.LoseServer(server)
	c.settled(id, "in-use")
	if err := forget(); err != nil {
		t.Fatal(err)
	}
	c.settled(id, "available")
}

func TestHintsAndZonesAndTypes(t *testing.T) {
	c := connect(t, fakecloud.Options{Zones: []string{"east", "west"}})
	id := c.create(volumes.CreateOpts{Size: 2, AvailabilityZone: "west", VolumeType: "rbd-luks"})
	if v := c.settled(id, "available"); v.AvailabilityZone != "west" || !v.Encrypted {
		t.Errorf("created as %+v", v)
	}
	hinted, err := volumes.Create(t.Context(), c.cinder, volumes.CreateOpts{Size: 2}, volumes.SchedulerHintOpts{DifferentHost: []string{id}}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	if v, _ := c.cloud.Volume(hinted.ID); fmt.Sprint(v.Hints["different_host"]) != "["+id+"]" {
		t.Errorf("hints %v", v.Hints)
	}
	for size, ok := range map[int]bool{1: false, 2: true, 8: true, 9: false} {
		_, err := volumes.Create(t.Context(), c.cinder, volumes.CreateOpts{Size: size, VolumeType: "rbd-small"}, nil).Extract()
		if (err == nil) != ok {
			t.Errorf("%d GiB of a type from 2 to 8: %v", size, err)
		}
	}
}

func TestSameSeedSameCloud(t *testing.T) {
	ids := func(seed uint64) []string {
		c := fakecloud.Start(t, fakecloud.Options{Seed: seed})
		return []string{c.AddServer(""), c.AddVolume(fakecloud.Volume{Size: 1}), c.ProjectID()}
	}
	if a, b := ids(7), ids(7); !slices.Equal(a, b) {
		t.Errorf("%v and %v from the same seed", a, b)
	}
	if a, b := ids(7), ids(8); a[0] == b[0] {
		t.Error("the same identifiers from two seeds")
	}
}

func TestLatencyOfTheAnswer(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	c.cloud.SetLatency(fakecloud.GetVolume, fakecloud.Latency{Answer: fakecloud.Uniform(40*time.Millisecond, 60*time.Millisecond)})
	id := c.cloud.AddVolume(fakecloud.Volume{Size: 1})
	begun := time.Now()
	if _, err := volumes.Get(t.Context(), c.cinder, id).Extract(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took < 40*time.Millisecond {
		t.Errorf("answered after %v", took)
	}
}

func TestRequestsAreRecorded(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	c.provider.UserAgent.Prepend("growvol/test")
	id := c.available(1)
	c.cloud.Forget()
	c.extend(id, 2)
	log := c.cloud.Requests()
	if len(log) != 1 || c.cloud.Count(fakecloud.AnyCall) != 1 || c.cloud.Counts()[fakecloud.ExtendVolume] != 1 {
		t.Fatalf("recorded %+v", log)
	}
	r := log[0]
	if r.Method != http.MethodPost || !strings.HasSuffix(r.Path, "/volumes/"+id+"/action") || r.Microversion != "3.70" ||
		!strings.HasPrefix(r.UserAgent, "growvol/test") || !strings.HasPrefix(r.RequestID, "req-") || r.Status != http.StatusAccepted {
		t.Errorf("recorded %+v", r)
	}
}

// TestCloseEndsEverything: requests that wait, work that is not done.
func TestCloseEndsEverything(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	c.cloud.SetLatency(fakecloud.CreateVolume, fakecloud.Latency{Done: fakecloud.Fixed(time.Hour)})
	c.create(volumes.CreateOpts{Size: 1})
	c.cloud.SetLatency(fakecloud.ListVolumeDetail, fakecloud.Latency{Answer: fakecloud.Fixed(time.Hour)})
	answered := make(chan error, 1)
	go func() { _, err := volumes.List(c.cinder, nil).AllPages(t.Context()); answered <- err }()
	eventually(t, func() bool { return c.cloud.Count(fakecloud.ListVolumeDetail) == 1 })
	closed := make(chan struct{})
	go func() { c.cloud.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(5 * time.Second):
		t.Fatal("Close still waits")
	}
	if err := <-answered; err == nil {
		t.Error("a request was answered after the end")
	}
	c.cloud.Close() // again
}
