package cloud

import (
	"testing"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/fakecloud"
)

func TestAttachAndDetach(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	ctx := t.Context()
	v, node := r.volume(t, "pvc-1", 1), r.fake.AddServer("")
	other := r.fake.AddServer("")
	s, err := r.Server(ctx, node)
	must(t, err)
	if s.ID != node || s.Status != "ACTIVE" {
		t.Errorf("the server reads %+v", s)
	}
	if found, err := r.ServerAttachment(ctx, node, v.ID); found || err != nil {
		t.Errorf("before the attachment: %v, %v", found, err)
	}
	must(t, r.Attach(ctx, node, v.ID, false))
	got := r.await(t, v.ID, "in-use")
	if len(got.Attachments) != 1 || got.Attachments[0].ServerID != node || got.Attachments[0].AttachmentID == "" {
		t.Errorf("the attached volume reads %+v", got)
	}
	if found, err := r.ServerAttachment(ctx, node, v.ID); !found || err != nil {
		t.Errorf("the attachment is not found: %v", err)
	}
	volumetest.WantKind(t, r.Attach(ctx, node, v.ID, false), volume.KindAlreadyExists, "attaching volume "+v.ID+
		" to server "+node)
	volumetest.WantKind(t, r.Attach(ctx, other, v.ID, false), volume.KindPrecondition)
	volumetest.WantKind(t, r.Attach(ctx, absentID, v.ID, false), volume.KindNotFound, "Instance "+absentID)
	volumetest.WantKind(t, r.Attach(ctx, node, absentID, false), volume.KindNotFound, "Volume "+absentID)
	must(t, r.Detach(ctx, node, v.ID))
	r.await(t, v.ID, "available")
	volumetest.WantKind(t, r.Detach(ctx, node, v.ID), volume.KindNotFound, "404")
	volumetest.WantKind(t, r.Detach(ctx, absentID, v.ID), volume.KindNotFound, absentID)
	if found, err := r.ServerAttachment(ctx, absentID, v.ID); found || err != nil {
		t.Errorf("a server that does not exist: %v, %v", found, err)
	}
}

func TestMultiattach(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	ctx := t.Context()
	made, err := r.CreateVolume(ctx, NewVolume{Name: "shared", Size: 1, VolumeType: "rbd-multi"})
	must(t, err)
	v := r.await(t, made.ID, "available")
	if !v.Multiattach {
		t.Errorf("the volume is not shareable: %+v", v)
	}
	for range 2 {
		must(t, r.Attach(ctx, r.fake.AddServer(""), v.ID, true))
		r.await(t, v.ID, "in-use")
	}
	if v = r.await(t, v.ID, "in-use"); len(v.Attachments) == 0 {
		t.Errorf("the attached volume reads %+v", v)
	}
	old := newRig(t, fakecloud.Options{NovaMax: "2.59"})
	volumetest.WantKind(t, old.Attach(ctx, absentID, absentID, true), volume.KindUnsupported,
		"needs microversion 2.60 of nova, which offers 2.1 to 2.59")
}

func TestAttachWithoutAFreeSlot(t *testing.T) {
	r := newRig(t, fakecloud.Options{MaxDisks: 1})
	node := r.fake.AddServer("")
	must(t, r.Attach(t.Context(), node, r.volume(t, "a", 1).ID, false))
	volumetest.WantKind(t, r.Attach(t.Context(), node, r.volume(t, "b", 1).ID, false), volume.KindExhausted, "403",
		"maximum allowed number of disk devices")
}

func TestNotifyExtended(t *testing.T) {
	r := newRig(t, fakecloud.Options{ServiceRole: true})
	ctx := t.Context()
	v, node := r.volume(t, "pvc-1", 1), r.fake.AddServer("")
	must(t, r.Attach(ctx, node, v.ID, false))
	r.await(t, v.ID, "in-use")
	r.fake.On(fakecloud.Match{Call: fakecloud.ExtendVolume}, fakecloud.EventLost())
	must(t, r.ExtendVolume(ctx, v.ID, 2, true))
	for r.await(t, v.ID, "in-use").Size != 2 {
		must(t, operation.Sleep(ctx, 1e6))
	}
	if size, _ := r.fake.GuestSize(node, v.ID); size != 1 {
		t.Errorf("the guest sees %d GiB although the event was lost", size)
	}
	must(t, r.NotifyExtended(ctx, node, v.ID))
	for i := 0; ; i++ {
		if size, _ := r.fake.GuestSize(node, v.ID); size == 2 {
			break
		}
		if i == 200 {
			t.Fatal("the guest does not see the growth")
		}
		must(t, operation.Sleep(ctx, 2e6))
	}
	volumetest.WantKind(t, r.NotifyExtended(ctx, absentID, v.ID), volume.KindNotFound, "on server "+absentID)
	// The event of another server says nothing about this one.
	k := call{
		service: compute, name: "notify_extended", what: "telling", method: "POST",
		objects: []object{{"server", node}},
	}
	volumetest.WantKind(t, eventRefusal(k, absentID, 404, "failed"), volume.KindUnavailable, "does not say that "+node+
		" does not exist")
	volumetest.WantKind(t, eventRefusal(k, node, 404, "failed"), volume.KindNotFound)
	plain := newRig(t, fakecloud.Options{})
	volumetest.WantKind(t, plain.NotifyExtended(ctx, plain.fake.AddServer(""), v.ID), volume.KindDenied, "403")
}
