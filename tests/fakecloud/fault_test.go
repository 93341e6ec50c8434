package fakecloud_test

import (
	"errors"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/volumeattach"

	"github.com/growvol/growvol/tests/fakecloud"
)

func TestRefusedExtendKeepsSizeAndLeavesMessage(t *testing.T) {
	for name, refuse := range map[string]func(c *fakecloud.Cloud){
		"by a rule":       func(c *fakecloud.Cloud) { onExtend(c, fakecloud.Refused()) },
		"by the capacity": func(c *fakecloud.Cloud) { c.SetCapacity(3) },
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, fakecloud.Options{})
			id := c.createAvailable(1)
			refuse(c.cloud)
			c.extend(id, 4)
			await(t, func() bool { return len(c.messages(id)) == 1 })
			if v := c.awaitStatus(id, "available"); v.Size != 1 {
				t.Errorf("after a refused extension: got %d GiB, want 1 GiB", v.Size)
			}
			m := c.messages(id)[0]
			if m.EventID != "VOLUME_VOLUME_007_003" ||
				m.UserMessage != "extend volume:Could not find any available weighted backend." {
				t.Errorf("got the message %+v, want that no backend was found", m)
			}
			if last := lastRequest(c.cloud, fakecloud.ExtendVolume); m.RequestID != last.RequestID {
				t.Errorf("the message has the request ID %s, want %s", m.RequestID, last.RequestID)
			}
		})
	}
}

func TestFailedExtendNeedsAdministrator(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.createAvailable(1)
	onExtend(c.cloud, fakecloud.Fails())
	c.extend(id, 2)
	if v := c.awaitStatus(id, "error_extending"); v.Size != 1 {
		t.Errorf("after a failed extension: got %d GiB, want 1 GiB", v.Size)
	}
	if m := c.messages(id); len(m) != 1 || m[0].EventID != "VOLUME_VOLUME_007_010" {
		t.Errorf("got the messages %+v, want one of the event 007_010", m)
	}
	c.wantStatus(c.tryExtend(id, 2), http.StatusBadRequest)
	reset := volumes.ResetStatusOpts{Status: "available"}
	c.wantStatus(volumes.ResetStatus(t.Context(), c.cinder, id, reset).ExtractErr(), http.StatusForbidden)
	admin := login(t, c.cloud, "admin", fakecloud.Password)
	if err := volumes.ResetStatus(t.Context(), admin.cinder, id, reset).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	c.extend(id, 2)
	if v := c.awaitStatus(id, "available"); v.Size != 2 {
		t.Errorf("after the reset and another extension: got %d GiB, want 2 GiB", v.Size)
	}
}

func TestStuckExtensionEndsAfterRelease(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.createAvailable(1)
	onExtend(c.cloud, fakecloud.Stuck())
	c.extend(id, 2)
	sleep(t.Context(), 20*time.Millisecond)
	if v, _ := c.cloud.Volume(id); v.Status != "extending" || v.Size != 1 {
		t.Fatalf("got %s with %d GiB, want extending with 1 GiB", v.Status, v.Size)
	}
	c.wantStatus(c.tryExtend(id, 3), http.StatusBadRequest)
	if !c.cloud.Release(id) {
		t.Fatal("Release found no stuck work")
	}
	if v := c.awaitStatus(id, "available"); v.Size != 2 {
		t.Errorf("after Release: got %d GiB, want 2 GiB", v.Size)
	}
	if c.cloud.Release(id) {
		t.Error("a second Release found stuck work")
	}
}

func TestSlowDelaysExtension(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.createAvailable(1)
	onExtend(c.cloud, fakecloud.Slow(80*time.Millisecond))
	begun := time.Now()
	c.extend(id, 2)
	c.awaitStatus(id, "available")
	if took := time.Since(begun); took < 80*time.Millisecond {
		t.Errorf("the extension took %v, want at least 80ms", took)
	}
}

func TestEndsWithSizeGivesAnotherSize(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	server, id := c.cloud.AddServer(""), c.createAvailable(1)
	c.attach(server, id)
	onExtend(c.cloud, fakecloud.EndsWithSize(3))
	c.extend(id, 5)
	if v := c.awaitStatus(id, "in-use"); v.Size != 3 {
		t.Errorf("got %d GiB, want 3 GiB", v.Size)
	}
}

func TestLostEventKeepsGuestSize(t *testing.T) {
	for name, lose := range map[string]func(c *fakecloud.Cloud){
		"to Nova": func(c *fakecloud.Cloud) { onExtend(c, fakecloud.EventLost()) },
		"in Nova": func(c *fakecloud.Cloud) {
			c.On(fakecloud.Match{Call: fakecloud.GuestResize}, fakecloud.EventLost())
		},
		"to a server that is shut off": nil,
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, fakecloud.Options{ServiceRole: true})
			server, id := c.cloud.AddServer(""), c.createAvailable(1)
			c.attach(server, id)
			if lose == nil {
				c.cloud.SetServer(fakecloud.Server{ID: server, Status: "SHUTOFF"})
			} else {
				lose(c.cloud)
			}
			c.extend(id, 2)
			c.awaitStatus(id, "in-use")
			sleep(t.Context(), 30*time.Millisecond)
			if gib, _ := c.cloud.GuestSize(server, id); gib != 1 {
				t.Fatalf("the guest sees %d GiB, want 1 GiB", gib)
			}
			if name == "to Nova" {
				await(t, func() bool { m := c.messages(id); return len(m) == 1 && m[0].EventID == "VOLUME_VOLUME_007_009" })
			}
			if lose == nil {
				c.cloud.SetServer(fakecloud.Server{ID: server, Status: "ACTIVE"})
			} else if code := c.sendExtendedEvent(server, id); code != http.StatusOK {
				t.Fatalf("the event got the code %d, want 200", code)
			}
			await(t, func() bool { gib, _ := c.cloud.GuestSize(server, id); return gib == 2 })
		})
	}
}

func TestForbiddenEventLeavesMessageAndGuestSize(t *testing.T) {
	c := connect(t, fakecloud.Options{ForbidEvents: true})
	server, id := c.cloud.AddServer(""), c.createAvailable(1)
	c.attach(server, id)
	c.extend(id, 2)
	await(t, func() bool { return len(c.messages(id)) == 1 })
	if gib, _ := c.cloud.GuestSize(server, id); gib != 1 {
		t.Errorf("the guest sees %d GiB, want 1 GiB", gib)
	}
}

func TestAttachFaults(t *testing.T) {
	on := fakecloud.Match{Call: fakecloud.AttachVolume}
	t.Run("fails", func(t *testing.T) {
		c := connect(t, fakecloud.Options{})
		server, id := c.cloud.AddServer(""), c.createAvailable(1)
		c.cloud.On(on, fakecloud.Fails(), fakecloud.Slow(time.Second))
		if _, err := volumeattach.Create(t.Context(), c.nova, server, volumeattach.CreateOpts{
			VolumeID: id,
		}).Extract(); err != nil {
			t.Fatal(err)
		}
		if v, _ := c.cloud.Volume(id); v.Status != "reserved" || len(v.Attachments) != 1 {
			t.Errorf("right after the answer: got %s with %d attachments, want reserved with 1", v.Status, len(v.Attachments))
		}
		c.awaitStatus(id, "available")
		_, err := volumeattach.Get(t.Context(), c.nova, server, id).Extract()
		c.wantStatus(err, http.StatusNotFound)
	})
	for status, f := range map[string]fakecloud.Fault{
		"attaching": fakecloud.Stuck(),
		"reserved":  fakecloud.StaysReserved(),
	} {
		t.Run("stays "+status, func(t *testing.T) {
			c := connect(t, fakecloud.Options{})
			server, id := c.cloud.AddServer(""), c.createAvailable(1)
			c.cloud.On(on, f)
			if _, err := volumeattach.Create(t.Context(), c.nova, server, volumeattach.CreateOpts{
				VolumeID: id,
			}).Extract(); err != nil {
				t.Fatal(err)
			}
			v := c.awaitStatus(id, status)
			if len(v.Attachments) != 0 {
				t.Errorf("Cinder shows %d attachments, want none before the volume is attached", len(v.Attachments))
			}
			if _, err := volumeattach.Get(t.Context(), c.nova, server, id).Extract(); err != nil {
				t.Errorf("get the attachment from Nova: %v", err)
			}
			c.wantStatus(volumeattach.Delete(t.Context(), c.nova, server, id).ExtractErr(), http.StatusBadRequest)
			c.cloud.Release(id)
			c.awaitStatus(id, "in-use")
		})
	}
	t.Run("lost reply", func(t *testing.T) {
		c := connect(t, fakecloud.Options{})
		server, id := c.cloud.AddServer(""), c.createAvailable(1)
		c.cloud.On(on, fakecloud.LostReply())
		_, err := volumeattach.Create(t.Context(), c.nova, server, volumeattach.CreateOpts{VolumeID: id}).Extract()
		c.wantConnectionCut(err)
		c.awaitStatus(id, "in-use")
	})
}

func TestDetachFaults(t *testing.T) {
	on := fakecloud.Match{Call: fakecloud.DetachVolume}
	setUp := func(t *testing.T, f fakecloud.Fault) (c client, server, id string) {
		t.Helper()
		c = connect(t, fakecloud.Options{})
		server, id = c.cloud.AddServer(""), c.createAvailable(1)
		c.attach(server, id)
		c.cloud.On(on, f)
		if err := volumeattach.Delete(t.Context(), c.nova, server, id).ExtractErr(); err != nil {
			t.Fatal(err)
		}
		return c, server, id
	}
	t.Run("stuck", func(t *testing.T) {
		c, server, id := setUp(t, fakecloud.Stuck())
		sleep(t.Context(), 20*time.Millisecond)
		c.awaitStatus(id, "detaching")
		c.wantStatus(volumeattach.Delete(t.Context(), c.nova, server, id).ExtractErr(), http.StatusBadRequest)
		c.cloud.Release(id)
		c.awaitStatus(id, "available")
	})
	t.Run("fails", func(t *testing.T) {
		c, server, id := setUp(t, fakecloud.Fails())
		if v := c.awaitStatus(id, "in-use"); len(v.Attachments) != 1 {
			t.Errorf("after a failed detachment: got %d attachments, want 1", len(v.Attachments))
		}
		if _, ok := c.cloud.GuestSize(server, id); !ok {
			t.Error("after a failed detachment: the guest has no disk")
		}
	})
	t.Run("stays listed in Nova", func(t *testing.T) {
		c, server, id := setUp(t, fakecloud.StaysListed(2))
		c.awaitStatus(id, "available")
		for range 2 {
			if _, err := volumeattach.Get(t.Context(), c.nova, server, id).Extract(); err != nil {
				t.Fatal(err)
			}
		}
		_, err := volumeattach.Get(t.Context(), c.nova, server, id).Extract()
		c.wantStatus(err, http.StatusNotFound)
	})
}

func TestCreateAndDeleteFaults(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	on := fakecloud.Match{Call: fakecloud.CreateVolume}
	c.cloud.On(on, fakecloud.Fails())
	c.cloud.On(on, fakecloud.Refused())
	for _, event := range []string{"VOLUME_VOLUME_008_012", "VOLUME_VOLUME_001_003"} {
		id := c.create(volumes.CreateOpts{Size: 1})
		c.awaitStatus(id, "error")
		if m := c.messages(id); len(m) != 1 || m[0].EventID != event {
			t.Errorf("got the messages %+v, want one of the event %s", m, event)
		}
	}
	id := c.createAvailable(1)
	c.cloud.On(fakecloud.Match{Method: http.MethodDelete, Path: regexp.MustCompile(`/volumes/` + id + `$`)},
		fakecloud.Fails())
	if err := volumes.Delete(t.Context(), c.cinder, id, nil).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	c.awaitStatus(id, "error_deleting")
	c.wantStatus(volumes.Delete(t.Context(), c.cinder, id, nil).ExtractErr(), http.StatusBadRequest)
}

func TestDeliveredLateExecutesOnDelivery(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	delivery := make(chan struct{})
	c.cloud.On(fakecloud.Match{Call: fakecloud.CreateVolume}, fakecloud.DeliveredLate(delivery))
	o := volumes.CreateOpts{Name: "delivered", Size: 1}
	_, err := volumes.Create(t.Context(), c.cinder, o, nil).Extract()
	var refused gophercloud.ErrUnexpectedResponseCode
	if !errors.As(err, &refused) || refused.Actual != http.StatusGatewayTimeout ||
		!strings.Contains(string(refused.Body), "<html>") {
		t.Errorf("got %v, want an HTML page with 504", err)
	}
	if all := c.cloud.Volumes(); len(all) != 0 {
		t.Errorf("before the delivery: got the volumes %+v, want none", all)
	}
	c.createAvailable(1)
	close(delivery)
	await(t, func() bool {
		all := c.cloud.Volumes()
		return len(all) == 2 && lastRequest(c.cloud, fakecloud.CreateVolume).Status != 0
	})
	for _, v := range c.cloud.Volumes() {
		if v.Name == "delivered" {
			c.awaitStatus(v.ID, "available")
			return
		}
	}
	t.Error("the delivered request created no volume")
}

func TestRefusedRetypeKeepsType(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.createAvailable(1)
	rule := c.cloud.On(fakecloud.Match{Action: "os-retype"}, fakecloud.Refused())
	retype := volumes.ChangeTypeOpts{NewType: "rbd-gold", MigrationPolicy: volumes.MigrationPolicyNever}
	for _, want := range []string{"rbd", "rbd-gold"} {
		if err := volumes.ChangeType(t.Context(), c.cinder, id, retype).ExtractErr(); err != nil {
			t.Fatal(err)
		}
		if v := c.awaitStatus(id, "available"); v.VolumeType != want {
			t.Errorf("got the type %s, want %s", v.VolumeType, want)
		}
	}
	if rule.Hits() != 1 {
		t.Errorf("the rule acted %d times, want 1", rule.Hits())
	}
}
