package cloud

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/fakecloud"
)

// No format of a time fails a call; what users have stored under the same names stays as it is.
func TestTimesOfAnyFormatFailNoCall(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	want := time.Date(2026, 11, 28, 12, 30, 0, 500_000_000, time.UTC)
	for text, want := range map[string]time.Time{
		"2026-11-28T12:30:00.500000": want, "2026-11-28T12:30:00.5Z": want, "2026-11-28T13:30:00.5+01:00": want,
		"yesterday": {}, "": {},
	} {
		body := `{"id": "` + absentID + `", "created_at": "` + text + `", "attachments": [{"attached_at": "` + text + `"}],
			"metadata": {"created_at": "yesterday"}}`
		r.fake.On(fakecloud.Match{Call: fakecloud.GetVolume},
			fakecloud.ForeignAnswer(http.StatusOK, "application/json", `{"volume": `+body+`}`))
		v, err := r.Volume(t.Context(), absentID)
		must(t, err)
		r.fake.On(fakecloud.Match{Call: fakecloud.ListVolumeDetail},
			fakecloud.ForeignAnswer(http.StatusOK, "application/json", `{"volumes": [`+body+`]}`))
		listed, _, err := r.Volumes(t.Context(), VolumePage{})
		must(t, err)
		for _, got := range append(listed, v) {
			if !got.CreatedAt.Equal(want) || !got.Attachments[0].AttachedAt.Equal(want) {
				t.Errorf("%q reads as %s and %s, want %s", text, got.CreatedAt, got.Attachments[0].AttachedAt, want)
			}
			if got.Metadata["created_at"] != "yesterday" {
				t.Errorf("the metadata reads %v", got.Metadata)
			}
		}
	}
}

// Some services answer 200 to any path, with an empty list named after the end of the path (seen
// at Neutron).
func TestForeign200IsNoAnswer(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	v, node := r.volume(t, "pvc-1", 1), r.fake.AddServer("")
	ctx := t.Context()
	for _, body := range []string{`{"x": []}`, `{}`, `{"volume": null}`, otherObject} {
		for call, run := range map[fakecloud.Call]func() error{
			fakecloud.GetVolume:             func() error { _, err := r.Volume(ctx, v.ID); return err },
			fakecloud.GetSnapshot:           func() error { _, err := r.Snapshot(ctx, noSnapshot); return err },
			fakecloud.GetBackup:             func() error { _, err := r.Backup(ctx, noBackup); return err },
			fakecloud.GetServer:             func() error { _, err := r.Server(ctx, node); return err },
			fakecloud.GetAttachment:         func() error { _, err := r.ServerAttachment(ctx, node, v.ID); return err },
			fakecloud.ListVolumeDetail:      func() error { _, err := r.VolumesNamed(ctx, "pvc-1"); return err },
			fakecloud.ListAttachmentRecords: func() error { _, err := r.AttachmentRecords(ctx, v.ID); return err },
		} {
			if body == otherObject && strings.HasPrefix(string(call), "list") {
				continue
			}
			r.fake.On(fakecloud.Match{Call: call}, fakecloud.ForeignAnswer(http.StatusOK, "application/json", body))
			volumetest.WantKind(t, run(), volume.KindUnavailable)
		}
	}
	r.fake.On(fakecloud.Match{Call: fakecloud.GetVolume},
		fakecloud.ForeignAnswer(http.StatusOK, "application/json", `{"volume": {"id": "`+v.ID+`", "status": "available"}}`))
	if _, err := r.Volume(ctx, strings.ToUpper(v.ID)); err != nil {
		t.Errorf("an id in other case is the same: %v", err)
	}
}

// A creation whose answer has no object may be done: it is no success without an id.
func TestCreationWithAForeignAnswerIsUnavailable(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	v := r.volume(t, "pvc-1", 1)
	ctx := t.Context()
	for call, run := range map[fakecloud.Call]func() error{
		fakecloud.CreateVolume:   func() error { _, err := r.CreateVolume(ctx, NewVolume{Name: "x", Size: 1}); return err },
		fakecloud.CreateSnapshot: func() error { _, err := r.CreateSnapshot(ctx, NewSnapshot{VolumeID: v.ID}); return err },
		fakecloud.CreateBackup:   func() error { _, err := r.CreateBackup(ctx, NewBackup{VolumeID: v.ID}); return err },
	} {
		for _, body := range []string{`{}`, `{"volume": null}`, `{"x": {}}`, ``, `[]`} {
			r.fake.On(fakecloud.Match{Call: call}, fakecloud.ForeignAnswer(http.StatusAccepted, "application/json", body))
			err := run()
			volumetest.WantKind(t, err, volume.KindUnavailable, "cannot be used")
			if !MayBeDone(err) {
				t.Errorf("%s: %v is taken for not done", call, err)
			}
		}
	}
}

// otherObject is an answer about other objects than those that were asked for.
const otherObject = `{"volume": {"id": "99999999-9999-4999-8999-999999999999"}, "snapshot": {"id": "9"},
	"backup": {"id": "9"}, "server": {"id": "9"}, "volumeAttachment": {"volumeId": "9"}}`
