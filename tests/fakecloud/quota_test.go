package fakecloud_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"testing"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/snapshots"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"

	"github.com/growvol/growvol/tests/fakecloud"
)

func TestExceededQuotaIsRefusedWith413(t *testing.T) {
	c := connect(t, fakecloud.Options{Quota: &fakecloud.Quota{
		Gigabytes: 5, Volumes: 3, Snapshots: 1, PerVolumeGigabytes: 4, Backups: 1, BackupGigabytes: 10,
	}})
	id := c.createAvailable(3)
	wantOverLimit := func(err error, text string) {
		t.Helper()
		var e gophercloud.ErrUnexpectedResponseCode
		if !errors.As(err, &e) || e.Actual != http.StatusRequestEntityTooLarge {
			t.Fatalf("got %v, want the status 413", err)
		}
		var body struct {
			OverLimit struct {
				Message    string
				RetryAfter string
			}
		}
		if err := json.Unmarshal(e.Body, &body); err != nil {
			t.Fatal(err)
		}
		if body.OverLimit.Message != text {
			t.Errorf("got the message %q, want %q", body.OverLimit.Message, text)
		}
		inBody, inHeader := body.OverLimit.RetryAfter, e.ResponseHeader.Get("Retry-After")
		if inBody != "0" || inHeader != "0" {
			t.Errorf("got retryAfter %q in the body and %q in the header, want 0", inBody, inHeader)
		}
	}
	wantOverLimit(c.tryExtend(id, 5),
		"VolumeSizeExceedsLimit: Requested volume size 5G is larger than maximum allowed limit 4G.")
	if v, _ := c.cloud.Volume(id); v.Status != "available" {
		t.Errorf("after a refusal: got the state %s, want available", v.Status)
	}
	other := c.createAvailable(2)
	wantOverLimit(c.tryExtend(id, 4),
		"VolumeSizeExceedsAvailableQuota: Requested volume or snapshot exceeds allowed gigabytes quota. Requested 1G, "+
			"quota is 5G and 5G has been consumed.")
	q := fakecloud.UnlimitedQuota()
	q.Volumes, q.Snapshots = 2, 0
	c.cloud.SetQuota(q)
	_, err := volumes.Create(t.Context(), c.cinder, volumes.CreateOpts{Size: 1}, nil).Extract()
	wantOverLimit(err, "VolumeLimitExceeded: Maximum number of volumes allowed (2) exceeded for quota 'volumes'.")
	_, err = snapshots.Create(t.Context(), c.cinder, snapshots.CreateOpts{VolumeID: other}).Extract()
	wantOverLimit(err, "SnapshotLimitExceeded: Maximum number of snapshots allowed (0) exceeded")
	c.extend(id, 4)
	if v := c.awaitStatus(id, "available"); v.Size != 4 {
		t.Errorf("got %d GiB, want 4 GiB", v.Size)
	}
}

func TestExtendingVolumeCountsWithNewSize(t *testing.T) {
	q := fakecloud.UnlimitedQuota()
	q.Gigabytes = 10
	c := connect(t, fakecloud.Options{Quota: &q})
	id := c.createAvailable(1)
	onExtend(c.cloud, fakecloud.Stuck())
	c.extend(id, 8)
	_, err := volumes.Create(t.Context(), c.cinder, volumes.CreateOpts{Size: 3}, nil).Extract()
	c.wantStatus(err, http.StatusRequestEntityTooLarge)
}
