package cinder

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/class"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

func TestCapacity(t *testing.T) {
	t.Parallel()
	quota := func(gib, volumes, one int) *fakecloud.Quota {
		return &fakecloud.Quota{Gigabytes: gib, Volumes: volumes, Snapshots: -1, PerVolumeGigabytes: one}
	}
	many := []volume.Access{{Mode: volume.AccessMultiNodeMultiWriter, Block: true}}
	for name, test := range map[string]struct {
		quota     *fakecloud.Quota
		ask       volume.CapacityRequest
		available volume.Size
		maxSize   volume.Size
	}{
		"no quota is not no space": {nil, volume.CapacityRequest{}, unlimited, 0},
		"what the quota leaves":    {quota(100, -1, 40), volume.CapacityRequest{}, 97 * volume.GiB, 40 * volume.GiB},
		"nothing left":             {quota(3, -1, -1), volume.CapacityRequest{}, 0, 0},
		"overcommitted":            {quota(1, -1, -1), volume.CapacityRequest{}, 0, 0},
		"no volume left":           {quota(100, 1, -1), volume.CapacityRequest{}, 0, 0},
		"the zone":                 {quota(100, -1, -1), volume.CapacityRequest{Topology: zone("west")}, 97 * volume.GiB, 0},
		"no such zone":             {quota(100, -1, -1), volume.CapacityRequest{Topology: zone("moon")}, 0, 0},
		"another zone of the class": {
			quota(100, -1, -1),
			volume.CapacityRequest{Topology: zone("west"), Parameters: map[string]string{class.ParamZone: "nova"}},
			0, 0,
		},
		"not shareable": {quota(100, -1, -1), volume.CapacityRequest{Accesses: many}, 0, 0},
		"shareable": {
			quota(100, -1, -1),
			volume.CapacityRequest{Accesses: many, Parameters: map[string]string{class.ParamType: "rbd-multi"}},
			97 * volume.GiB,
			0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, fakecloud.Options{Quota: test.quota, Zones: []string{"nova", "west"}})
			r.cloud.Add(fakecloud.Volume{Size: 3})
			got, err := r.Capacity(t.Context(), test.ask)
			if err != nil || got.Available != test.available || got.MaxVolumeSize != test.maxSize ||
				got.MinVolumeSize != volume.GiB {
				t.Errorf("%+v, %v; want %s, at most %s", got, err, test.available, test.maxSize)
			}
		})
	}
	r := newRig(t, fakecloud.Options{})
	for _, parameters := range []map[string]string{{"tpye": "x"}, {class.ParamType: "moon"}, {class.ParamCloud: "moon"}} {
		_, err := r.Capacity(t.Context(), volume.CapacityRequest{Parameters: parameters})
		cindertest.CheckKind(t, err, volume.KindInvalid)
	}
}

func TestCapacityAsksForTheLimitsOnce(t *testing.T) {
	t.Parallel()
	quota := fakecloud.UnlimitedQuota()
	quota.Gigabytes = 100
	r := newRig(t, fakecloud.Options{Quota: &quota})
	for _, name := range []string{"an error is not remembered", "nor is it when the next call succeeds"} {
		rule := r.cloud.OnCall(fakecloud.GetLimits, fakecloud.Status(http.StatusForbidden, "no")).Always()
		_, err := r.Capacity(t.Context(), volume.CapacityRequest{})
		cindertest.CheckKind(t, err, volume.KindDenied)
		if rule.Hits() != 1 {
			t.Errorf("%s: %d calls, want 1", name, rule.Hits())
		}
		rule.Remove()
	}
	r.cloud.ClearRequests()
	r.cloud.SetLatency(fakecloud.GetLimits, fakecloud.Latency{Answer: fakecloud.Fixed(100 * time.Millisecond)})
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			parameters := map[string]string{class.ParamType: []string{"rbd", "rbd-gold"}[i%2]}
			if got, err := r.Capacity(t.Context(), volume.CapacityRequest{Parameters: parameters}); err != nil ||
				got.Available != 100*volume.GiB {
				t.Errorf("capacity %+v and error %v, want 100 GiB available", got, err)
			}
		})
	}
	wg.Wait()
	r.cloud.CheckCalls(t, fakecloud.GetLimits, 1)
}
