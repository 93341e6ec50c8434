package rbd

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/fakeceph"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestHealthNamesTheDefectAndTheNextStep(t *testing.T) {
	t.Parallel()
	for reason, test := range map[string]struct {
		prepare func(*rig)
		word    string
	}{
		"ObjectMapInvalid": {
			func(r *rig) { r.server.SetObjectMapInvalid("volumes", "", "csi-vol-x", true) },
			"rbd object-map rebuild volumes/csi-vol-x",
		},
		"PoolFull":     {func(r *rig) { r.server.SetFull("ecdata", "full") }, "pool ecdata is full (full)"},
		"PoolNearFull": {setNearFull, "pool volumes is nearly full: 3 MiB left"},
	} {
		r := newRig(t)
		v := r.create(t, request("x", "dataPool", "ecdata"))
		test.prepare(r)
		got, err := r.Health(t.Context(), v.ID)
		if err != nil || len(got) != 1 || got[0].Reason != reason || !strings.Contains(got[0].Message, test.word) ||
			!strings.Contains(got[0].Message, "next step") || got[0].Impairment != volume.ImpairmentDegraded {
			t.Errorf("%s: got %+v, %v", reason, got, err)
		}
	}
}

// setNearFull sets a flag that does not stop writes.
func setNearFull(r *rig) {
	r.server.SetUsage("volumes", 0, 3<<20, 0)
	r.server.SetFlags("volumes", "nearfull")
}

func TestHealthOfWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	_, err := r.Health(t.Context(), "a/volumes/none")
	volumetest.WantKind(t, err, volume.KindNotFound)
	v := r.create(t, request("x"))
	r.server.SetPaused(true)
	_, err = r.Health(t.Context(), v.ID)
	volumetest.WantKind(t, err, volume.KindUnavailable)
}

func TestHealthDoesNotWaitForAnExpansion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		v := r.create(t, request("x"))
		hang := make(chan struct{})
		r.server.Inject(fakeceph.Fault{Call: "Image.Grow", IsLast: true, Wait: hang})
		_, err := r.Expand(shortContext(t), v.ID, 2*volume.GiB)
		volumetest.WantKind(t, err, volume.KindDeadline)
		if _, err := r.Health(t.Context(), v.ID); err != nil {
			t.Error(err)
		}
		close(hang)
	})
}

func TestCheckHealthNeedsOneClusterOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.server.Inject(fakeceph.Fault{Call: "Connect", Errno: unix.ETIMEDOUT})
	err := r.CheckHealth(t.Context())
	volumetest.WantKind(t, err, volume.KindInProgress, "cluster a", "10.77.0.1:6789")
	r.server.ClearFaults()
	check(t, r.CheckHealth(t.Context()))
	r.server.SetPaused(true)
	r.server.ResetCalls()
	if err := r.CheckHealth(t.Context()); err != nil || r.server.CountCalls() != 0 {
		t.Errorf("%v after %v", err, r.server.Calls())
	}
}

func TestCheckHealthEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		hang := make(chan struct{})
		r.server.Inject(fakeceph.Fault{Call: "Connect", Wait: hang})
		began := time.Now()
		for range 3 {
			volumetest.WantKind(t, r.CheckHealth(shortContext(t)), volume.KindInProgress)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("the answers took %s", took)
		}
		if got := r.server.Calls()["Connect"]; got != 1 {
			t.Errorf("%d attempts hang, want 1", got)
		}
		close(hang)
	})
}

func TestCapacityIsWhatThePoolsLeave(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.server.SetUsage("volumes", 6<<30, 10<<30+5, 0)
	r.server.SetUsage("other", 6<<30, 10<<30, 0)
	r.server.SetUsage("ecdata", 6<<30, 10<<30, 8<<30)
	for name, test := range map[string]struct {
		request  volume.CreateRequest
		topology volume.Topology
		want     volume.Capacity
	}{
		"pool": {request(""), nil, volume.Capacity{Available: 10 * volume.GiB}},
		"data pool": {
			request("", "dataPool", "ecdata"), nil, volume.Capacity{Available: 2 * volume.GiB, MaxVolumeSize: 8 * volume.GiB},
		},
		"both zones": {
			request("", "topologyConstrainedPools", twoZones), nil, volume.Capacity{Available: 12 * volume.GiB},
		},
		"one zone": {
			request("", "topologyConstrainedPools", twoZones), zone("z1"), volume.Capacity{Available: 10 * volume.GiB},
		},
		"no zone":       {request("", "topologyConstrainedPools", twoZones), zone("z3"), volume.Capacity{}},
		"no parameters": {volume.CreateRequest{}, nil, volume.Capacity{}},
	} {
		test.want.MinVolumeSize = volume.MiB
		req := volume.CapacityRequest{Parameters: test.request.Parameters, Topology: test.topology}
		got, err := r.Capacity(t.Context(), req)
		if err != nil || got != test.want {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, test.want)
		}
	}
	r.server.SetFull("volumes", "full")
	got, err := r.Capacity(t.Context(), volume.CapacityRequest{Parameters: request("").Parameters})
	if err != nil || got.Available != 0 {
		t.Errorf("a full pool: got %+v, %v", got, err)
	}
	_, err = r.Capacity(t.Context(), volume.CapacityRequest{Parameters: map[string]string{"pool": "volumes"}})
	volumetest.WantKind(t, err, volume.KindInvalid, "clusterID")
	_, err = r.Capacity(t.Context(), volume.CapacityRequest{Parameters: request("", "pool", "none").Parameters})
	volumetest.WantKind(t, err, volume.KindUnavailable, "no pool none")
}

func TestModifyRefusesUnknownParameters(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("x"))
	err := r.Modify(t.Context(), v.ID, map[string]string{"speed": "9"})
	volumetest.WantKind(t, err, volume.KindInvalid, `"speed"`)
	check(t, r.Modify(t.Context(), v.ID, nil))
	volumetest.WantKind(t, r.Modify(t.Context(), "a/volumes/none", nil), volume.KindNotFound)
	req := request("y")
	req.MutableParameters = map[string]string{"speed": "9"}
	_, err = r.Create(t.Context(), req)
	volumetest.WantKind(t, err, volume.KindInvalid, `"speed"`)
}

func TestAccessModesAndLimits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if len(r.AccessModes()) != 7 || !r.HasTopology() {
		t.Errorf("got %v, topology %t", r.AccessModes(), r.HasTopology())
	}
	size, err := volume.Range{Required: volume.GiB + 1}.Resolve(r.Limits())
	if err != nil || size != volume.GiB+volume.MiB {
		t.Errorf("1 GiB + 1 B became %s, %v", size, err)
	}
}
