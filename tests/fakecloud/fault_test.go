package fakecloud_test

import (
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/volumeattach"

	"github.com/growvol/growvol/tests/fakecloud"
)

// message is a user message of Cinder.
type userMessage struct {
	EventID     string `json:"event_id"`
	UserMessage string `json:"user_message"`
	RequestID   string `json:"request_id"`
}

func (c client) messages(id string) []userMessage {
	c.Helper()
	var body struct{ Messages []userMessage }
	resp, err := c.cinder.Get(c.Context(), c.cinder.ServiceURL("messages")+"?resource_uuid="+id, &body, nil)
	if err != nil {
		c.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		c.Fatal(err)
	}
	return body.Messages
}

func (c client) extendErr(id string, gib int) error {
	return volumes.ExtendSize(c.Context(), c.cinder, id, volumes.ExtendSizeOpts{NewSize: gib}).ExtractErr()
}

func extendCall(c *fakecloud.Cloud, f ...fakecloud.Fault) *fakecloud.Rule {
	return c.On(fakecloud.Match{Call: fakecloud.ExtendVolume}, f...)
}

func TestRefusedExtendKeepsSizeAndLeavesMessage(t *testing.T) {
	for name, refuse := range map[string]func(c *fakecloud.Cloud){
		"by a rule":            func(c *fakecloud.Cloud) { extendCall(c, fakecloud.Refused()) },
		"by a backend's bound": func(c *fakecloud.Cloud) { c.SetCapacity(3) },
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, fakecloud.Options{})
			id := c.available(1)
			refuse(c.cloud)
			c.extend(id, 4)
			eventually(t, func() bool { return len(c.messages(id)) == 1 })
			if v := c.settled(id, "available"); v.Size != 1 {
				t.Errorf("%d GiB after a refused extend", v.Size)
			}
			m := c.messages(id)[0]
			if m.EventID != "VOLUME_VOLUME_007_003" || m.UserMessage != "extend volume:Could not find any available weighted backend." {
				t.Errorf("message %+v", m)
			}
			if last := lastOf(c.cloud, fakecloud.ExtendVolume); m.RequestID != last.RequestID {
				t.Errorf("the message is of request %s, the extend was %s", m.RequestID, last.RequestID)
			}
		})
	}
}

func lastOf(c *fakecloud.Cloud, call fakecloud.Call) (last fakecloud.Request) {
	for _, r := range c.Requests() {
		if r.Call == call {
			last = r
		}
	}
	return last
}

func TestFailedExtendNeedsAdministrator(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.available(1)
	extendCall(c.cloud, fakecloud.Fails())
	c.extend(id, 2)
	if v := c.settled(id, "error_extending"); v.Size != 1 {
		t.Errorf("%d GiB", v.Size)
	}
	if m := c.messages(id); len(m) != 1 || m[0].EventID != "VOLUME_VOLUME_007_010" {
		t.Errorf("messages %+v", m)
	}
	c.refused(c.extendErr(id, 2), http.StatusBadRequest)
	reset := volumes.ResetStatusOpts{Status: "available"}
	c.refused(volumes.ResetStatus(t.Context(), c.cinder, id, reset).ExtractErr(), http.StatusForbidden)
	admin := login(t, c.cloud, "admin", fakecloud.Password)
	if err := volumes.ResetStatus(t.Context(), admin.cinder, id, reset).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	c.extend(id, 2)
	if v := c.settled(id, "available"); v.Size != 2 {
		t.Errorf("%d GiB after the reset and another extend", v.Size)
	}
}

func TestStuckExtendUntilReleased(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.available(1)
	extendCall(c.cloud, fakecloud.Stuck())
	c.extend(id, 2)
	pause(t.Context(), 20*time.Millisecond)
	if v, _ := c.cloud.Volume(id); v.Status != "extending" || v.Size != 1 {
		t.Fatalf("%s, %d GiB", v.Status, v.Size)
	}
	c.refused(c.extendErr(id, 3), http.StatusBadRequest)
	if !c.cloud.Release(id) {
		t.Fatal("nothing was stuck")
	}
	if v := c.settled(id, "available"); v.Size != 2 {
		t.Errorf("%d GiB after the release", v.Size)
	}
	if c.cloud.Release(id) {
		t.Error("released twice")
	}
}

func TestSlowExtend(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.available(1)
	extendCall(c.cloud, fakecloud.Slow(80*time.Millisecond))
	begun := time.Now()
	c.extend(id, 2)
	c.settled(id, "available")
	if took := time.Since(begun); took < 80*time.Millisecond {
		t.Errorf("done after %v", took)
	}
}

func TestExtendThatEndsShort(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	server, id := c.cloud.AddServer(""), c.available(1)
	c.attach(server, id)
	extendCall(c.cloud, fakecloud.EndsWithSize(3))
	c.extend(id, 5)
	if v := c.settled(id, "in-use"); v.Size != 3 {
		t.Errorf("%d GiB", v.Size)
	}
}

func TestLostEventLeavesGuestBehind(t *testing.T) {
	for name, lose := range map[string]func(c *fakecloud.Cloud){
		"to Nova":      func(c *fakecloud.Cloud) { extendCall(c, fakecloud.EventLost()) },
		"in Nova":      func(c *fakecloud.Cloud) { c.On(fakecloud.Match{Call: fakecloud.GuestResize}, fakecloud.EventLost()) },
		"to a shutoff": nil,
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, fakecloud.Options{ServiceRole: true})
			server, id := c.cloud.AddServer(""), c.available(1)
			c.attach(server, id)
			if lose == nil {
				c.cloud.PutServer(fakecloud.Server{ID: server, Status: "SHUTOFF"})
			} else {
				lose(c.cloud)
			}
			c.extend(id, 2)
			c.settled(id, "in-use")
			pause(t.Context(), 30*time.Millisecond)
			if gib, _ := c.cloud.GuestSize(server, id); gib != 1 {
				t.Fatalf("the guest sees %d GiB", gib)
			}
			if name == "to Nova" {
				eventually(t, func() bool { m := c.messages(id); return len(m) == 1 && m[0].EventID == "VOLUME_VOLUME_007_009" })
			}
			if lose == nil {
				c.cloud.PutServer(fakecloud.Server{ID: server, Status: "ACTIVE"})
			} else if code := c.event(server, id); code != http.StatusOK {
				t.Fatalf("the event was answered with %d", code)
			}
			eventually(t, func() bool { gib, _ := c.cloud.GuestSize(server, id); return gib == 2 })
		})
	}
}

// event tells Nova that a volume has grown and returns the code of the event.
func (c client) event(server, id string) int {
	c.Helper()
	var out struct{ Events []struct{ Code int } }
	body := map[string]any{"events": []any{map[string]any{"name": "volume-extended", "server_uuid": server, "tag": id}}}
	resp, err := c.nova.Post(c.Context(), c.nova.ServiceURL("os-server-external-events"), body, &out, &gophercloud.RequestOpts{OkCodes: []int{200, 207}})
	if err != nil {
		c.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		c.Fatal(err)
	}
	return out.Events[0].Code
}

func TestForbiddenEventsOfCinder(t *testing.T) {
	c := connect(t, fakecloud.Options{ForbidEvents: true})
	server, id := c.cloud.AddServer(""), c.available(1)
	c.attach(server, id)
	c.extend(id, 2)
	eventually(t, func() bool { return len(c.messages(id)) == 1 })
	if gib, _ := c.cloud.GuestSize(server, id); gib != 1 {
		t.Errorf("the guest sees %d GiB", gib)
	}
}

func TestAttachFaults(t *testing.T) {
	on := fakecloud.Match{Call: fakecloud.AttachVolume}
	t.Run("falls back", func(t *testing.T) {
		c := connect(t, fakecloud.Options{})
		server, id := c.cloud.AddServer(""), c.available(1)
		c.cloud.On(on, fakecloud.Fails(), fakecloud.Slow(time.Second))
		if _, err := volumeattach.Create(t.Context(), c.nova, server, volumeattach.CreateOpts{VolumeID: id}).Extract(); err != nil {
			t.Fatal(err)
		}
		if v, _ := c.cloud.Volume(id); v.Status != "reserved" || len(v.Attachments) != 1 {
			t.Errorf("right after the answer it is %s with %d attachments", v.Status, len(v.Attachments))
		}
		c.settled(id, "available")
		_, err := volumeattach.Get(t.Context(), c.nova, server, id).Extract()
		c.refused(err, http.StatusNotFound)
	})
	for status, f := range map[string]fakecloud.Fault{"attaching": fakecloud.Stuck(), "reserved": fakecloud.StaysReserved()} {
		t.Run("stays "+status, func(t *testing.T) {
			c := connect(t, fakecloud.Options{})
			server, id := c.cloud.AddServer(""), c.available(1)
			c.cloud.On(on, f)
			if _, err := volumeattach.Create(t.Context(), c.nova, server, volumeattach.CreateOpts{VolumeID: id}).Extract(); err != nil {
				t.Fatal(err)
			}
			v := c.settled(id, status)
			if len(v.Attachments) != 0 {
				t.Error("Cinder shows an attachment that is not attached")
			}
			if _, err := volumeattach.Get(t.Context(), c.nova, server, id).Extract(); err != nil {
				t.Errorf("Nova does not show it: %v", err)
			}
			c.refused(volumeattach.Delete(t.Context(), c.nova, server, id).ExtractErr(), http.StatusBadRequest)
			c.cloud.Release(id)
			c.settled(id, "in-use")
		})
	}
	t.Run("reply lost", func(t *testing.T) {
		c := connect(t, fakecloud.Options{})
		server, id := c.cloud.AddServer(""), c.available(1)
		c.cloud.On(on, fakecloud.LostReply())
		_, err := volumeattach.Create(t.Context(), c.nova, server, volumeattach.CreateOpts{VolumeID: id}).Extract()
		c.cutOff(err)
		c.settled(id, "in-use")
	})
}

// cutOff checks that an error came from the connection, not from the cloud.
func (c client) cutOff(err error) {
	c.Helper()
	var u *url.Error
	if !errors.As(err, &u) {
		c.Fatalf("the connection was not cut: %v", err)
	}
}

func TestDetachFaults(t *testing.T) {
	on := fakecloud.Match{Call: fakecloud.DetachVolume}
	setUp := func(t *testing.T, f fakecloud.Fault) (c client, server, id string) {
		t.Helper()
		c = connect(t, fakecloud.Options{})
		server, id = c.cloud.AddServer(""), c.available(1)
		c.attach(server, id)
		c.cloud.On(on, f)
		if err := volumeattach.Delete(t.Context(), c.nova, server, id).ExtractErr(); err != nil {
			t.Fatal(err)
		}
		return c, server, id
	}
	t.Run("stuck", func(t *testing.T) {
		c, server, id := setUp(t, fakecloud.Stuck())
		pause(t.Context(), 20*time.Millisecond)
		c.settled(id, "detaching")
		c.refused(volumeattach.Delete(t.Context(), c.nova, server, id).ExtractErr(), http.StatusBadRequest)
		c.cloud.Release(id)
		c.settled(id, "available")
	})
	t.Run("falls back", func(t *testing.T) {
		c, server, id := setUp(t, fakecloud.Fails())
		if v := c.settled(id, "in-use"); len(v.Attachments) != 1 {
			t.Errorf("%d attachments", len(v.Attachments))
		}
		if _, ok := c.cloud.GuestSize(server, id); !ok {
			t.Error("the guest lost its disk")
		}
	})
	t.Run("lingers in Nova", func(t *testing.T) {
		c, server, id := setUp(t, fakecloud.Lingers(2))
		c.settled(id, "available")
		for range 2 {
			if _, err := volumeattach.Get(t.Context(), c.nova, server, id).Extract(); err != nil {
				t.Fatal(err)
			}
		}
		_, err := volumeattach.Get(t.Context(), c.nova, server, id).Extract()
		c.refused(err, http.StatusNotFound)
	})
}

func TestCreateAndDeleteFaults(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	on := fakecloud.Match{Call: fakecloud.CreateVolume}
	c.cloud.On(on, fakecloud.Fails())
	c.cloud.On(on, fakecloud.Refused())
	for _, event := range []string{"VOLUME_VOLUME_008_012", "VOLUME_VOLUME_001_003"} {
		id := c.create(volumes.CreateOpts{Size: 1})
		c.settled(id, "error")
		if m := c.messages(id); len(m) != 1 || m[0].EventID != event {
			t.Errorf("messages %+v, want %s", m, event)
		}
	}
	id := c.available(1)
	c.cloud.On(fakecloud.Match{Method: http.MethodDelete, Path: regexp.MustCompile(`/volumes/` + id + `$`)}, fakecloud.Fails())
	if err := volumes.Delete(t.Context(), c.cinder, id, nil).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	c.settled(id, "error_deleting")
	c.refused(volumes.Delete(t.Context(), c.cinder, id, nil).ExtractErr(), http.StatusBadRequest)
}

func TestLateRequestIsExecutedWhenItIsDelivered(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	deliver := make(chan struct{})
	c.cloud.On(fakecloud.Match{Call: fakecloud.CreateVolume}, fakecloud.Late(deliver))
	o := volumes.CreateOpts{Name: "late", Size: 1}
	_, err := volumes.Create(t.Context(), c.cinder, o, nil).Extract()
	var refused gophercloud.ErrUnexpectedResponseCode
	if !errors.As(err, &refused) || refused.Actual != http.StatusGatewayTimeout || !strings.Contains(string(refused.Body), "<html>") {
		t.Errorf("answered with %v, want a page with 504", err)
	}
	if all := c.cloud.Volumes(); len(all) != 0 {
		t.Errorf("executed before it was delivered: %+v", all)
	}
	c.available(1)
	close(deliver)
	eventually(t, func() bool {
		all := c.cloud.Volumes()
		return len(all) == 2 && lastOf(c.cloud, fakecloud.CreateVolume).Status != 0
	})
	for _, v := range c.cloud.Volumes() {
		if v.Name == "late" {
			c.settled(v.ID, "available")
			return
		}
	}
	t.Error("the late request made no volume")
}

func TestRetypeRefusedKeepsType(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.available(1)
	rule := c.cloud.On(fakecloud.Match{Action: "os-retype"}, fakecloud.Refused())
	retype := volumes.ChangeTypeOpts{NewType: "rbd-gold", MigrationPolicy: volumes.MigrationPolicyNever}
	for _, want := range []string{"rbd", "rbd-gold"} {
		if err := volumes.ChangeType(t.Context(), c.cinder, id, retype).ExtractErr(); err != nil {
			t.Fatal(err)
		}
		if v := c.settled(id, "available"); v.VolumeType != want {
			t.Errorf("type %s, want %s", v.VolumeType, want)
		}
	}
	if rule.Hits() != 1 {
		t.Errorf("the rule acted %d times", rule.Hits())
	}
}
