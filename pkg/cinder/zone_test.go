package cinder

import (
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/class"
	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

func zone(name string) volume.Topology { return volume.Topology{cindercsi.TopologyKey: name} }

func TestZones(t *testing.T) {
	t.Parallel()
	all := []volume.Topology{zone("north"), zone("west"), zone("south-side")}
	for name, test := range map[string]struct {
		parameters           map[string]string
		requisite, preferred []volume.Topology
		want                 string
		kind                 volume.Kind // if want is empty
	}{
		"nothing asked": {want: "nova"},
		"preferred first": {
			requisite: all, preferred: []volume.Topology{zone("west"), zone("north")}, want: "west",
		},
		"requisite": {requisite: []volume.Topology{zone("west")}, want: "west"},
		"a preferred zone Cinder has not": {
			requisite: all, preferred: []volume.Topology{zone("north"), zone("west")}, want: "west",
		},
		"the class comes first": {
			parameters: map[string]string{class.ParamZone: "nova"}, preferred: all, want: "nova",
		},
		"the class against the topology": {
			parameters: map[string]string{class.ParamZone: "nova"}, requisite: all, kind: volume.KindExhausted,
		},
		"no zone of Cinder's":    {requisite: []volume.Topology{zone("north")}, kind: volume.KindExhausted},
		"a label of an odd name": {requisite: []volume.Topology{zone("south-side")}, want: "south side"},
		"a preference that is not allowed": {
			requisite: []volume.Topology{zone("west")}, preferred: []volume.Topology{zone("nova")}, want: "west",
		},
		"other segments only": {requisite: []volume.Topology{{"rack": "7"}}, want: "nova"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, fakecloud.Options{Zones: []string{"nova", "west", "south side"}})
			req := request("pvc-1", volume.GiB, test.parameters)
			req.Requisite, req.Preferred = test.requisite, test.preferred
			v, err := r.Create(t.Context(), req)
			if test.want == "" {
				cindertest.CheckKind(t, err, test.kind)
				r.cloud.CheckCalls(t, fakecloud.CreateVolume, 0)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, _ := r.cloud.Volume(v.ID)
			if got.Zone != test.want || v.Topology[0][cindercsi.TopologyKey] != strings.ReplaceAll(test.want, " ", "-") {
				t.Errorf("in zone %q with topology %v, want %q", got.Zone, v.Topology, test.want)
			}
		})
	}
}

func TestZonesAreIgnoredOnDemand(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{}, func(o *Options) { o.IgnoreVolumeAZ = true })
	req := request("pvc-1", volume.GiB, nil)
	req.Requisite, req.Preferred = []volume.Topology{zone("rack-7"), zone("rack-8")}, []volume.Topology{zone("rack-7")}
	v := r.create(t, req)
	if len(v.Topology) != 0 {
		t.Errorf("topology %v of a volume that every node can reach, want none", v.Topology)
	}
	if got, err := r.Get(t.Context(), v.ID); err != nil || len(got.Topology) != 0 {
		t.Errorf("topology %v and error %v, want none", got.Topology, err)
	}
}

// The error makes the scheduler of Kubernetes find another zone.
func TestCreateFailsWhenNoZoneHasSpace(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{Zones: []string{"nova", "west"}})
	r.cloud.SetCapacity(5)
	req := request("pvc-1", 10*volume.GiB, nil)
	req.Requisite = []volume.Topology{zone("west")}
	_, err := r.Create(t.Context(), req)
	cindertest.CheckKind(t, err, volume.KindExhausted, "west", "Cinder says", "another zone")
	r.cloud.SetQuota(fakecloud.Quota{Gigabytes: 1, Volumes: -1, Snapshots: -1, PerVolumeGigabytes: -1})
	req.Requisite = []volume.Topology{zone("west"), zone("nova")}
	r.cloud.ClearRequests()
	_, err = r.Create(t.Context(), req)
	cindertest.CheckKind(t, err, volume.KindOutOfRange, "uota")
	r.cloud.CheckCalls(t, fakecloud.CreateVolume, 1)
	if left := r.cloud.Volumes(); len(left) != 0 {
		t.Errorf("left behind: %+v", left)
	}
}

// Create does not fail because one zone is full.
func TestCreateTriesTheNextZoneWhenOneIsFull(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{Zones: []string{"nova", "west"}})
	r.cloud.OnCall(fakecloud.CreateVolume, fakecloud.Refused())
	req := request("pvc-1", volume.GiB, nil)
	req.Requisite = []volume.Topology{zone("nova"), zone("west")}
	v := r.create(t, req)
	if v.Topology[0][cindercsi.TopologyKey] != "west" || len(r.cloud.Volumes()) != 1 {
		t.Errorf("%+v of %+v", v, r.cloud.Volumes())
	}
}
