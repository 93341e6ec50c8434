package fakecloud_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/volumeattach"

	"github.com/growvol/growvol/tests/fakecloud"
)

func TestServerRefusesAttachmentsAndDetachments(t *testing.T) {
	c := connect(t, fakecloud.Options{MaxDisks: 1})
	server, id, other := c.cloud.AddServer(""), c.createAvailable(1), c.createAvailable(1)
	attach := func(volume string) error {
		_, err := volumeattach.Create(t.Context(), c.nova, server, volumeattach.CreateOpts{VolumeID: volume}).Extract()
		return err
	}
	c.cloud.SetServer(fakecloud.Server{ID: server, Locked: true})
	c.wantStatus(attach(id), http.StatusConflict)
	c.cloud.SetServer(fakecloud.Server{ID: server, Status: "ERROR"})
	c.wantStatus(attach(id), http.StatusConflict)
	c.cloud.SetServer(fakecloud.Server{ID: server})
	c.attach(server, id)
	c.wantStatus(attach(other), http.StatusForbidden)
	c.cloud.SetMaxDisks(0)
	c.attach(server, other)
	c.cloud.SetServer(fakecloud.Server{ID: server, Locked: true})
	c.wantStatus(volumeattach.Delete(t.Context(), c.nova, server, id).ExtractErr(), http.StatusConflict)
	c.cloud.RemoveServer(server)
	c.awaitStatus(id, "available")
	c.wantStatus(attach(id), http.StatusNotFound)
}

func TestMultiattachGrowsInEveryGuest(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.create(volumes.CreateOpts{Size: 1, VolumeType: "rbd-multi"})
	c.awaitStatus(id, "available")
	servers := []string{c.cloud.AddServer(""), c.cloud.AddServer("")}
	for _, s := range servers {
		c.attach(s, id)
	}
	c.extend(id, 2)
	for _, s := range servers {
		await(t, func() bool { gib, _ := c.cloud.GuestSize(s, id); return gib == 2 })
	}
	c.awaitStatus(id, "in-use")
	if err := volumeattach.Delete(t.Context(), c.nova, servers[0], id).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { v, _ := c.cloud.Volume(id); return len(v.Attachments) == 1 && v.Status == "in-use" })
}

func TestPurgedServerLeavesDeletableRecords(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	server, id := c.cloud.AddServer(""), c.createAvailable(1)
	c.attach(server, id)
	v, _ := c.cloud.Volume(id)
	deleteRecord := func() error {
		url := c.cinder.ServiceURL("attachments", v.Attachments[0].ID)
		resp, err := c.cinder.Delete(t.Context(), url, &gophercloud.RequestOpts{OkCodes: []int{http.StatusOK}})
		if resp != nil {
			err = errors.Join(err, resp.Body.Close())
		}
		return err
	}
	c.wantStatus(deleteRecord(), http.StatusConflict)
	c.cloud.PurgeServer(server)
	c.awaitStatus(id, "in-use")
	if err := deleteRecord(); err != nil {
		t.Fatal(err)
	}
	c.awaitStatus(id, "available")
}
