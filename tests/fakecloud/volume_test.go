package fakecloud_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/volumeattach"

	"github.com/growvol/growvol/tests/fakecloud"
)

func TestAttachedVolumeIsExtendedAndDeleted(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	server := c.cloud.AddServer("")
	id := c.createAvailable(1)
	c.extend(id, 2)
	if v := c.awaitStatus(id, "available"); v.Size != 2 {
		t.Fatalf("got %d GiB, want 2 GiB", v.Size)
	}
	c.attach(server, id)
	if gib, ok := c.cloud.GuestSize(server, id); !ok || gib != 2 {
		t.Fatalf("the guest sees %d GiB (%t), want 2 GiB", gib, ok)
	}
	c.cloud.SetLatency(fakecloud.GuestResize, fakecloud.Latency{Work: fakecloud.Fixed(time.Second)})
	c.extend(id, 4)
	if v := c.awaitStatus(id, "in-use"); v.Size != 4 {
		t.Fatalf("got %d GiB, want 4 GiB", v.Size)
	}
	if gib, _ := c.cloud.GuestSize(server, id); gib != 2 {
		t.Fatalf("before the event: the guest sees %d GiB, want 2 GiB", gib)
	}
	await(t, func() bool { gib, _ := c.cloud.GuestSize(server, id); return gib == 4 })
	if err := volumeattach.Delete(t.Context(), c.nova, server, id).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	c.awaitStatus(id, "available")
	if err := volumes.Delete(t.Context(), c.cinder, id, nil).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { _, ok := c.cloud.Volume(id); return !ok })
	_, err := volumes.Get(t.Context(), c.cinder, id).Extract()
	c.wantStatus(err, http.StatusNotFound)
}

func TestNewVolumeHasHintsZoneAndType(t *testing.T) {
	c := connect(t, fakecloud.Options{Zones: []string{"east", "west"}})
	id := c.create(volumes.CreateOpts{Size: 2, AvailabilityZone: "west", VolumeType: "rbd-luks"})
	if v := c.awaitStatus(id, "available"); v.AvailabilityZone != "west" || !v.Encrypted {
		t.Errorf("got the volume %+v, want an encrypted one in the zone west", v)
	}
	hinted, err := volumes.Create(t.Context(), c.cinder, volumes.CreateOpts{Size: 2}, volumes.SchedulerHintOpts{
		DifferentHost: []string{id},
	}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	if v, _ := c.cloud.Volume(hinted.ID); fmt.Sprint(v.Hints["different_host"]) != "["+id+"]" {
		t.Errorf("got the hints %v, want different_host %s", v.Hints, id)
	}
	for size, ok := range map[int]bool{1: false, 2: true, 8: true, 9: false} {
		_, err := volumes.Create(t.Context(), c.cinder, volumes.CreateOpts{
			Size:       size,
			VolumeType: "rbd-small",
		}, nil).Extract()
		if (err == nil) != ok {
			t.Errorf("%d GiB of a type from 2 to 8 GiB: got the error %v, want accepted: %t", size, err, ok)
		}
	}
}
