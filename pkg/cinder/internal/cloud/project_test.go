package cloud

import (
	"net/http"
	"slices"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/fakecloud"
)

func TestVolumeTypes(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	admin, err := r.clouds.Cloud(t.Context(), "admin") // sees all extra specs
	must(t, err)
	types, err := admin.VolumeTypes(t.Context())
	must(t, err)
	find := func(name string) VolumeType {
		i := slices.IndexFunc(types, func(v VolumeType) bool { return v.Name == name })
		if i < 0 {
			t.Fatalf("no type %s in %+v", name, types)
		}
		return types[i]
	}
	if !find("rbd-multi").Multiattach || find("rbd").Multiattach {
		t.Errorf("which types are shareable is wrong: %+v", types)
	}
	if small := find("rbd-small"); small.MinGiB != 2 || small.MaxGiB != 8 || find("rbd").MaxGiB != 0 {
		t.Errorf("the bounds of sizes are wrong: %+v", types)
	}
	standard, err := r.DefaultVolumeType(t.Context())
	must(t, err)
	if standard.Name != "rbd" || standard.ID == "" {
		t.Errorf("the default type reads %+v", standard)
	}
}

func TestMessages(t *testing.T) {
	for _, newest := range []string{"3.70", "3.4"} { // 3.4 cannot select messages
		r := newRig(t, fakecloud.Options{CinderMax: newest})
		other, v := r.volume(t, "other", 1), r.volume(t, "pvc-1", 1)
		for _, id := range []string{other.ID, v.ID, v.ID} {
			r.fake.On(fakecloud.Match{Call: fakecloud.ExtendVolume}, fakecloud.Refused())
			must(t, r.ExtendVolume(t.Context(), id, 5, false))
			if got := r.await(t, id, "available"); got.Size != 1 {
				t.Fatalf("the refused extension had an effect: %+v", got)
			}
		}
		ms, err := r.Messages(t.Context(), v.ID)
		must(t, err)
		if len(ms) != 2 || ms[0].Detail != "003" || ms[0].Text == "" || ms[0].Created.Before(ms[1].Created) {
			t.Errorf("Cinder %s: the messages read %+v", newest, ms)
		}
	}
	old := newRig(t, fakecloud.Options{CinderMax: "3.2"})
	_, err := old.Messages(t.Context(), absentID)
	volumetest.WantKind(t, err, volume.KindUnsupported, "3.3", "3.0 to 3.2")
}

func TestLimits(t *testing.T) {
	quota := fakecloud.UnlimitedQuota()
	quota.Gigabytes, quota.Volumes, quota.PerVolumeGigabytes = 100, 10, 40
	r := newRig(t, fakecloud.Options{Quota: &quota})
	r.volume(t, "pvc-1", 3)
	got, err := r.Limits(t.Context())
	must(t, err)
	want := Limits{MaxVolumes: 10, Volumes: 1, MaxGiB: 100, GiB: 3, MaxVolumeGiB: 40}
	if got != want {
		t.Errorf("the limits read %+v, want %+v", got, want)
	}
	r.fake.On(fakecloud.Match{Call: fakecloud.GetQuota},
		fakecloud.Status(403, "Policy doesn't allow volume_extension:quotas:show to be performed."))
	if got, err = r.Limits(t.Context()); err != nil || got.MaxVolumeGiB != -1 || got.MaxGiB != 100 {
		t.Errorf("with a hidden quota set: %+v, %v", got, err)
	}
}

func TestZones(t *testing.T) {
	r := newRig(t, fakecloud.Options{Zones: []string{"z2", "z1"}})
	zones, err := r.Zones(t.Context())
	must(t, err)
	if !slices.Equal(zones, []string{"z1", "z2"}) {
		t.Errorf("zones %v", zones)
	}
	r.fake.On(fakecloud.Match{Call: fakecloud.ListZones}, fakecloud.ForeignAnswer(http.StatusOK, "application/json",
		`{"availabilityZoneInfo": [{"zoneName": "z1", "zoneState": {"available": true}},
			{"zoneName": "z2", "zoneState": {"available": false}}, {"zoneName": "z3"}]}`))
	zones, err = r.Zones(t.Context())
	must(t, err)
	if !slices.Equal(zones, []string{"z1"}) {
		t.Errorf("zones %v, want only the one in service, z1", zones)
	}
}

func TestLimitsThatAreLeftOutAreNotKnown(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	for _, body := range []string{
		`{}`, `{"absolute": {}}`, `{"absolute": null}`, `{"absolute": {"maxTotalVolumes": null, "MaxVolumeGiB": 3}}`,
	} {
		for call, key := range map[fakecloud.Call]string{fakecloud.GetLimits: "limits", fakecloud.GetQuota: "quota_set"} {
			r.fake.On(fakecloud.Match{Call: call},
				fakecloud.ForeignAnswer(http.StatusOK, "application/json", `{"`+key+`": `+body+`}`))
		}
		got, err := r.Limits(t.Context())
		must(t, err)
		if want := (Limits{-1, -1, -1, -1, -1}); got != want {
			t.Errorf("the limits of %s read %+v, want %+v", body, got, want)
		}
	}
}
