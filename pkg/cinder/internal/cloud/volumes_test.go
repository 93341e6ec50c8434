package cloud

import (
	"maps"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/fakecloud"
)

const absentID = "00000000-0000-4000-8000-000000000000"

func TestVolumeLifecycle(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	ctx := t.Context()
	made, err := r.CreateVolume(ctx, NewVolume{
		Name: "pvc-1", Description: "for a test", Size: 2, VolumeType: "rbd-gold", AvailabilityZone: "nova",
		Metadata: map[string]string{"owner": "me"},
	})
	must(t, err)
	v := r.await(t, made.ID, "available")
	if v.Name != "pvc-1" || SizeOf(v) != 2*volume.GiB || v.VolumeType != "rbd-gold" || v.AvailabilityZone != "nova" ||
		v.Metadata["owner"] != "me" || v.CreatedAt.IsZero() {
		t.Errorf("the volume reads %+v", v)
	}
	must(t, r.SetVolumeMetadata(ctx, v.ID, map[string]string{"pod": "p"}))
	must(t, r.ExtendVolume(ctx, v.ID, 3, false))
	must(t, r.Retype(ctx, r.await(t, v.ID, "available").ID, "rbd", "never"))
	v = r.await(t, v.ID, "available")
	if v.Size != 3 || v.VolumeType != "rbd" || !maps.Equal(v.Metadata, map[string]string{"owner": "me", "pod": "p"}) {
		t.Errorf("after extend, retype and metadata the volume reads %+v", v)
	}
	clone, err := r.CreateVolume(ctx, NewVolume{
		Name: "clone", Size: 3, SourceVolID: v.ID,
		SameHost: []string{v.ID},
	})
	must(t, err)
	if got := r.await(t, clone.ID, "available"); got.SourceVolID != v.ID {
		t.Errorf("the clone reads %+v", got)
	}
	must(t, r.DeleteVolume(ctx, v.ID))
	for range 100 {
		if _, err = r.Volume(ctx, v.ID); err != nil {
			break
		}
	}
	volumetest.WantKind(t, err, volume.KindNotFound, "reading volume "+v.ID, "404", "could not be found", "req-")
	volumetest.WantKind(t, r.DeleteVolume(ctx, v.ID), volume.KindNotFound, "deleting volume")
}

func TestIDsThatCannotExistMakeNoRequest(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	r.fake.ClearRequests()
	for _, id := range []string{"", "..", "a/b", "a?b", "a%2e", "ü"} {
		ctx := t.Context()
		_, err := r.Volume(ctx, id)
		volumetest.WantKind(t, err, volume.KindNotFound, "cannot exist")
		_, errSnapshot := r.Snapshot(ctx, id)
		_, errBackup := r.Backup(ctx, id)
		_, errServer := r.Server(ctx, id)
		_, errMessages := r.Messages(ctx, id)
		_, errTake := r.CreateSnapshot(ctx, NewSnapshot{VolumeID: id})
		_, errSave := r.CreateBackup(ctx, NewBackup{VolumeID: id})
		for _, err := range []error{
			errSnapshot, errBackup, errServer, errMessages, errTake, errSave,
			r.DeleteVolume(ctx, id), r.ExtendVolume(ctx, id, 2, false), r.Retype(ctx, id, "t", "never"),
			r.SetVolumeMetadata(ctx, id, nil),
			r.DeleteSnapshot(ctx, id), r.DeleteBackup(ctx, id), r.Attach(ctx, id, absentID, false),
			r.Attach(ctx, absentID, id, false),
			r.Detach(ctx, id, absentID), r.Detach(ctx, absentID, id), r.NotifyExtended(ctx, id, absentID),
		} {
			volumetest.WantKind(t, err, volume.KindNotFound, "cannot exist")
		}
		if found, err := r.ServerAttachment(ctx, id, absentID); found || err != nil {
			t.Errorf("attachment to %q: %v, %v", id, found, err)
		}
	}
	if n := len(r.fake.Requests()); n != 0 {
		t.Errorf("%d requests were made: %+v", n, r.fake.Requests())
	}
}

func TestExtendRefusals(t *testing.T) {
	quota := fakecloud.UnlimitedQuota()
	quota.Gigabytes, quota.PerVolumeGigabytes = 20, 15
	r := newRig(t, fakecloud.Options{Quota: &quota})
	ctx := t.Context()
	v := r.volume(t, "pvc-1", 4)
	volumetest.WantKind(t, r.ExtendVolume(ctx, v.ID, 4, false), volume.KindInvalid, "extending volume "+v.ID+" to 4 GiB",
		"greater than current size", "req-")
	volumetest.WantKind(t, r.ExtendVolume(ctx, v.ID, 16, false), volume.KindOutOfRange, "413", "maximum allowed limit 15G",
		"next step: request less")
	other := r.volume(t, "pvc-2", 10)
	volumetest.WantKind(t, r.ExtendVolume(ctx, v.ID, 12, false), volume.KindOutOfRange, "quota", "next step: request less")
	volumetest.WantKind(t, r.ExtendVolume(ctx, absentID, 12, false), volume.KindNotFound, "404")
	_ = other
	server := r.fake.AddServer("")
	must(t, r.Attach(ctx, server, v.ID, false))
	r.await(t, v.ID, "in-use")
	volumetest.WantKind(t, r.ExtendVolume(ctx, v.ID, 5, false), volume.KindInProgress, "400", "status must be")
	must(t, r.ExtendVolume(ctx, v.ID, 5, true))
	volumetest.WantKind(t, r.DeleteVolume(ctx, v.ID), volume.KindPrecondition, "400", "must not be")
	small, err := r.CreateVolume(ctx, NewVolume{Name: "s", Size: 1, VolumeType: "rbd-small"})
	volumetest.WantKind(t, err, volume.KindOutOfRange, "less than the minimum required size",
		"next step: request a size that the volume type allows")
	if small.ID != "" {
		t.Errorf("a volume was made: %+v", small)
	}
	r.fake.On(fakecloud.Match{Call: fakecloud.ExtendVolume}, fakecloud.Stuck())
	must(t, r.ExtendVolume(ctx, other.ID, 11, false))
	volumetest.WantKind(t, r.ExtendVolume(ctx, other.ID, 12, false), volume.KindInProgress, "extending")
}

func TestOnlineExtendNeedsItsMicroversion(t *testing.T) {
	r := newRig(t, fakecloud.Options{CinderMax: "3.41"})
	v := r.volume(t, "pvc-1", 1)
	r.fake.ClearRequests()
	err := r.ExtendVolume(t.Context(), v.ID, 2, true)
	volumetest.WantKind(t, err, volume.KindUnsupported, "needs microversion 3.42 of cinder, which offers 3.0 to 3.41",
		"next step: detach the volume")
	volumetest.WantKind(t, r.CheckFeature(t.Context(), FeatureOnlineExtend), volume.KindUnsupported, "3.42", "3.41")
	if n := r.fake.Count(fakecloud.ExtendVolume); n != 0 {
		t.Errorf("%d requests were made for what the cloud cannot do", n)
	}
	must(t, r.CheckFeature(t.Context(), FeatureMessages))
}
