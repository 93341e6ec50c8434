package cinder

import (
	"testing"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

func TestCapacity(t *testing.T) {
	t.Parallel()
	quota := func(gib, volumes, one int) *fakecloud.Quota {
		return &fakecloud.Quota{Gigabytes: gib, Volumes: volumes, Snapshots: -1, PerVolumeGigabytes: one}
	}
	many := []volume.Access{{Mode: volume.MultiNodeMultiWriter, Block: true}}
	for name, test := range map[string]struct {
		quota     *fakecloud.Quota
		ask       volume.CapacityRequest
		available volume.Size
		most      volume.Size
	}{
		"no quota is not no room": {nil, volume.CapacityRequest{}, unlimited, 0},
		"what the quota leaves":   {quota(100, -1, 40), volume.CapacityRequest{}, 97 * volume.GiB, 40 * volume.GiB},
		"nothing left":            {quota(3, -1, -1), volume.CapacityRequest{}, 0, 0},
		"overcommitted":           {quota(1, -1, -1), volume.CapacityRequest{}, 0, 0},
		"no volume left":          {quota(100, 1, -1), volume.CapacityRequest{}, 0, 0},
		"the zone":                {quota(100, -1, -1), volume.CapacityRequest{Topology: zone("west")}, 97 * volume.GiB, 0},
		"no such zone":            {quota(100, -1, -1), volume.CapacityRequest{Topology: zone("moon")}, 0, 0},
		"another zone of the class": {
			quota(100, -1, -1), volume.CapacityRequest{Topology: zone("west"), Parameters: map[string]string{paramZone: "nova"}}, 0, 0,
		},
		"not shareable": {quota(100, -1, -1), volume.CapacityRequest{Accesses: many}, 0, 0},
		"shareable": {
			quota(100, -1, -1), volume.CapacityRequest{Accesses: many, Parameters: map[string]string{paramType: "rbd-multi"}}, 97 * volume.GiB, 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, fakecloud.Options{Quota: test.quota, Zones: []string{"nova", "west"}})
			r.add(fakecloud.Volume{Size: 3})
			got, err := r.Capacity(t.Context(), test.ask)
			if err != nil || got.Available != test.available || got.Max != test.most || got.Min != volume.GiB {
				t.Errorf("%+v, %v; want %s, at most %s", got, err, test.available, test.most)
			}
		})
	}
	r := newRig(t, fakecloud.Options{})
	for _, parameters := range []map[string]string{{"tpye": "x"}, {paramType: "moon"}, {paramCloud: "moon"}} {
		_, err := r.Capacity(t.Context(), volume.CapacityRequest{Parameters: parameters})
		wantKind(t, err, volume.Invalid)
	}
}
