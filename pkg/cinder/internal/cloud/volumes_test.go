package cloud

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"

	"github.com/growvol/growvol/pkg/volume"
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
		Hints: &Hints{SameHost: []string{v.ID}},
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
	wantKind(t, err, volume.KindNotFound, "reading volume "+v.ID, "404", "could not be found", "req-")
	wantKind(t, r.DeleteVolume(ctx, v.ID), volume.KindNotFound, "deleting volume")
}

func TestIDsThatCannotExistMakeNoRequest(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	r.fake.ClearRequests()
	for _, id := range []string{"", "..", "a/b", "a?b", "a%2e", "ü"} {
		ctx := t.Context()
		_, err := r.Volume(ctx, id)
		wantKind(t, err, volume.KindNotFound, "cannot exist")
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
			wantKind(t, err, volume.KindNotFound, "cannot exist")
		}
		if found, err := r.ServerAttachment(ctx, id, absentID); found || err != nil {
			t.Errorf("attachment to %q: %v, %v", id, found, err)
		}
	}
	if n := len(r.fake.Requests()); n != 0 {
		t.Errorf("%d requests were made: %+v", n, r.fake.Requests())
	}
}

func TestVolumesInPages(t *testing.T) {
	r := newRig(t, fakecloud.Options{ListLimit: 3})
	ctx := t.Context()
	ownMetadata := map[string]string{"cluster": "one", "other": "x"}
	var want []string
	for i := range 8 {
		v := NewVolume{Name: "pvc-" + string(rune('a'+i)), Size: 1}
		if i%2 == 0 {
			v.Metadata = ownMetadata
		}
		made, err := r.CreateVolume(ctx, v)
		must(t, err)
		r.await(t, made.ID, "available")
		if i%2 == 0 {
			want = append(want, made.ID)
		}
	}
	all := func(p VolumePage) (ids []string, pages int) {
		for {
			vs, next, err := r.Volumes(ctx, p)
			must(t, err)
			pages++
			for _, v := range vs {
				ids = append(ids, v.ID)
			}
			if next == "" {
				return ids, pages
			}
			p.Marker = next
		}
	}
	if ids, pages := all(VolumePage{}); len(ids) != 8 || pages != 3 {
		t.Errorf("8 volumes in pages of 3: %d volumes in %d pages", len(ids), pages)
	}
	if ids, pages := all(VolumePage{Limit: 2}); len(ids) != 8 || pages < 4 {
		t.Errorf("8 volumes in pages of 2: %d volumes in %d pages", len(ids), pages)
	}
	ids, _ := all(VolumePage{Metadata: map[string]string{"cluster": ownMetadata["cluster"]}})
	slices.Sort(ids)
	slices.Sort(want)
	if !slices.Equal(ids, want) {
		t.Errorf("by metadata: %v, want %v", ids, want)
	}
	newest, _, err := r.Volumes(ctx, VolumePage{NewestChangeFirst: true, Limit: 8})
	must(t, err)
	if !slices.IsSortedFunc(newest, func(a, b Volume) int { return b.UpdatedAt.Compare(a.UpdatedAt) }) {
		t.Errorf("the newest change is not first: %+v", newest)
	}
	_, _, err = r.Volumes(ctx, VolumePage{Marker: absentID})
	wantKind(t, err, volume.KindStale, absentID)
}

func TestVolumesNamed(t *testing.T) {
	r := newRig(t, fakecloud.Options{ListLimit: 2})
	for _, name := range []string{"twin", "twin", "twin", "twins", "other"} {
		r.volume(t, name, 1)
	}
	vs, err := r.VolumesNamed(t.Context(), "twin")
	must(t, err)
	if len(vs) != 3 {
		t.Errorf("%d volumes of that name, want 3: %+v", len(vs), vs)
	}
	if vs, err = r.VolumesNamed(t.Context(), "a&b=c d/ü'"); err != nil || len(vs) != 0 {
		t.Errorf("a strange name finds %v, %v", vs, err)
	}
}

func TestExtendRefusals(t *testing.T) {
	quota := fakecloud.UnlimitedQuota()
	quota.Gigabytes, quota.PerVolumeGigabytes = 20, 15
	r := newRig(t, fakecloud.Options{Quota: &quota})
	ctx := t.Context()
	v := r.volume(t, "pvc-1", 4)
	wantKind(t, r.ExtendVolume(ctx, v.ID, 4, false), volume.KindInvalid, "extending volume "+v.ID+" to 4 GiB",
		"greater than current size", "req-")
	wantKind(t, r.ExtendVolume(ctx, v.ID, 16, false), volume.KindOutOfRange, "413", "maximum allowed limit 15G",
		"next step: ask for less")
	other := r.volume(t, "pvc-2", 10)
	wantKind(t, r.ExtendVolume(ctx, v.ID, 12, false), volume.KindOutOfRange, "quota", "next step: ask for less")
	wantKind(t, r.ExtendVolume(ctx, absentID, 12, false), volume.KindNotFound, "404")
	_ = other
	server := r.fake.AddServer("")
	must(t, r.Attach(ctx, server, v.ID, false))
	r.await(t, v.ID, "in-use")
	wantKind(t, r.ExtendVolume(ctx, v.ID, 5, false), volume.KindInProgress, "400", "status must be")
	must(t, r.ExtendVolume(ctx, v.ID, 5, true))
	wantKind(t, r.DeleteVolume(ctx, v.ID), volume.KindPrecondition, "400", "must not be")
	small, err := r.CreateVolume(ctx, NewVolume{Name: "s", Size: 1, VolumeType: "rbd-small"})
	wantKind(t, err, volume.KindOutOfRange, "less than the minimum required size",
		"next step: ask for a size that the volume type allows")
	if small.ID != "" {
		t.Errorf("a volume was made: %+v", small)
	}
	r.fake.On(fakecloud.Match{Call: fakecloud.ExtendVolume}, fakecloud.Stuck())
	must(t, r.ExtendVolume(ctx, other.ID, 11, false))
	wantKind(t, r.ExtendVolume(ctx, other.ID, 12, false), volume.KindInProgress, "extending")
}

func TestOnlineExtendNeedsItsMicroversion(t *testing.T) {
	r := newRig(t, fakecloud.Options{CinderMax: "3.41"})
	v := r.volume(t, "pvc-1", 1)
	r.fake.ClearRequests()
	err := r.ExtendVolume(t.Context(), v.ID, 2, true)
	wantKind(t, err, volume.KindUnsupported, "needs microversion 3.42 of cinder, which offers 3.0 to 3.41",
		"next step: detach the volume")
	wantKind(t, r.CheckFeature(t.Context(), FeatureOnlineExtend), volume.KindUnsupported, "3.42", "3.41")
	if n := r.fake.Count(fakecloud.ExtendVolume); n != 0 {
		t.Errorf("%d requests were made for what the cloud cannot do", n)
	}
	must(t, r.CheckFeature(t.Context(), FeatureMessages))
}

func TestMetadataFilterIsAPythonLiteral(t *testing.T) {
	for key, test := range map[string]struct{ value, want string }{
		"a": {"it's", `{'a':'it\'s'}`}, "b": {`back\slash`, `{'b':'back\\slash'}`}, "c": {"two\nlines", `{'c':'two\nlines'}`},
	} {
		query, err := volumes.ListOpts{Metadata: escapePython(map[string]string{key: test.value})}.ToVolumeListQuery()
		must(t, err)
		got, err := url.ParseQuery(strings.TrimPrefix(query, "?"))
		must(t, err)
		if got.Get("metadata") != test.want {
			t.Errorf("metadata=%s, want %s", got.Get("metadata"), test.want)
		}
	}
}

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
