package cinder

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/class"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/controller"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

func TestCreate(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	near := r.cloud.Add(fakecloud.Volume{Name: "pvc-near"})
	req := request("pvc-1", 2*volume.GiB, map[string]string{
		class.ParamType: "rbd-gold", class.ParamZone: "nova", class.ParamAffinity: "pvc-near",
		class.ParamAntiAffinity:       near + " , ",
		"csi.storage.k8s.io/pvc/name": "data", "csi.storage.k8s.io/pvc/namespace": "shop",
		"csi.storage.k8s.io/pv/name": "pvc-1",
		"csi.storage.k8s.io/fstype":  "xfs", "mkfsOptions": "-K",
	})
	v := r.create(t, req)
	if v.Name != "pvc-1" || v.Size != 2*volume.GiB || v.VolumeContext["mkfsOptions"] != "-K" ||
		len(v.VolumeContext) != 1 || v.Topology[0][cindercsi.TopologyKey] != "nova" || !v.Source.IsEmpty() {
		t.Errorf("volume %+v, want pvc-1 of 2 GiB in the zone nova, with mkfsOptions only", v)
	}
	got, _ := r.cloud.Volume(v.ID)
	want := map[string]string{
		"cinder.csi.openstack.org/cluster": cindertest.ClusterID, "csi.storage.k8s.io/pvc/name": "data",
		"csi.storage.k8s.io/pvc/namespace": "shop", "csi.storage.k8s.io/pv/name": "pvc-1",
	}
	if got.Type != "rbd-gold" || got.Description != "Created by OpenStack Cinder CSI driver" ||
		!maps.Equal(got.Metadata, want) || got.Status != state.Available {
		t.Errorf("Cinder has %+v, want the type rbd-gold and the metadata %v", got, want)
	}
	for _, hint := range []string{"same_host", "different_host"} {
		ids, _ := got.Hints[hint].([]any)
		if len(ids) != 1 || ids[0] != near {
			t.Errorf("hint %s is %v, want %s", hint, got.Hints[hint], near)
		}
	}
	again := r.create(t, req)
	if again.ID != v.ID || again.VolumeContext["mkfsOptions"] != "-K" {
		t.Errorf("the repetition made %+v, not %s", again, v.ID)
	}
	if got, err := r.Get(t.Context(), v.ID); err != nil || len(got.VolumeContext) != 0 {
		t.Errorf("%+v, %v: only the PersistentVolume has the context", got, err)
	}
	r.cloud.CheckCalls(t, fakecloud.CreateVolume, 1)
}

// The controller calls Find and then Create: the cloud is asked for the name once.
func TestCreationsTakeFewCalls(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	server := controller.New(r.Backend, controller.Options{})
	req := &csi.CreateVolumeRequest{Name: "pvc-1", VolumeCapabilities: []*csi.VolumeCapability{{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}}}
	made, err := server.CreateVolume(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	r.cloud.CheckCalls(t, fakecloud.ListVolumeDetail, 1)
	r.cloud.CheckCalls(t, fakecloud.CreateVolume, 1)
	// The next call looks again.
	r.cloud.RemoveVolume(made.GetVolume().GetVolumeId())
	again, err := server.CreateVolume(t.Context(), req)
	if err != nil || again.GetVolume().GetVolumeId() == made.GetVolume().GetVolumeId() {
		t.Errorf("%v, %v", again, err)
	}
	if len(r.recentFinds) != 0 {
		t.Errorf("%d lookups are kept", len(r.recentFinds))
	}
}

// cinder-csi-plugin answers with a volume in any state.
func TestCreateNeverAnswersWithAVolumeThatIsNotUsable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		r.cloud.SetDuration(fakecloud.CreateVolume, 2500*time.Millisecond)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := r.Create(short, request("pvc-1", volume.GiB, nil))
		cindertest.CheckKind(t, err, volume.KindDeadline, "pvc-1", "creating")
		v := r.create(t, request("pvc-1", volume.GiB, nil))
		if got, _ := r.cloud.Volume(v.ID); got.Status != state.Available {
			t.Errorf("answered with a volume that is %s", got.Status)
		}
		r.cloud.CheckCalls(t, fakecloud.CreateVolume, 1)
	})
}

func TestFailedCreationIsExplainedAndLeavesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	r.cloud.SetCapacity(5)
	_, err := r.Create(t.Context(), request("pvc-1", 10*volume.GiB, nil))
	cindertest.CheckKind(t, err, volume.KindOutOfRange, "pvc-1", "Cinder says", "request a smaller volume")
	if left := r.cloud.Volumes(); len(left) != 0 {
		t.Errorf("left behind: %+v", left)
	}
	r.cloud.OnCall(fakecloud.CreateVolume, fakecloud.Fails())
	_, err = r.Create(t.Context(), request("pvc-1", 2*volume.GiB, nil))
	cindertest.CheckKind(t, err, volume.KindInternal, "error")
	r.create(t, request("pvc-1", 2*volume.GiB, nil))
	if left := r.cloud.Volumes(); len(left) != 1 {
		t.Errorf("left behind: %+v", left)
	}
}

// A controller may end before it removes a failed volume.
func TestLeftoverOfAnEarlierCallIsReplaced(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	failed := r.cloud.Add(fakecloud.Volume{Name: "pvc-1", Status: state.Error})
	if _, found, err := r.Find(t.Context(), request("pvc-1", volume.GiB, nil)); found || err != nil {
		t.Errorf("a failed creation was found: %v", err)
	}
	v := r.create(t, request("pvc-1", volume.GiB, nil))
	if _, there := r.cloud.Volume(failed); there || v.ID == failed {
		t.Errorf("the leftover %s is still there, %+v", failed, v)
	}
	// A failed volume without this cluster's metadata is kept.
	static := r.cloud.Add(fakecloud.Volume{Name: "pvc-2", Status: state.Error, Metadata: map[string]string{"owner": "me"}})
	_, err := r.Create(t.Context(), request("pvc-2", volume.GiB, nil))
	cindertest.CheckKind(t, err, volume.KindUnavailable, static, "error") // not final: it is there
	if _, there := r.cloud.Volume(static); !there {
		t.Error("a volume without this cluster's metadata was deleted")
	}
	r.cloud.OnCall(fakecloud.DeleteVolume, fakecloud.Fails())
	r.cloud.Add(fakecloud.Volume{Name: "pvc-3", Status: state.Error})
	_, err = r.Create(t.Context(), request("pvc-3", volume.GiB, nil))
	cindertest.CheckKind(t, err, volume.KindUnavailable, "error_deleting")
	r.create(t, request("pvc-3", volume.GiB, nil)) // it is dead weight now, but does not block
}

// There is one volume, whatever happens to the answer of POST /volumes.
func TestLostReplyToCreateMakesOneVolume(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]fakecloud.Fault{
		"lost": fakecloud.LostReply(), "a page": fakecloud.WrongContentType(), "half": fakecloud.Truncated(),
		"cut off": fakecloud.CutOff(), "500": cindertest.Broken(), "503": fakecloud.Status(http.StatusServiceUnavailable, ""),
		"token": fakecloud.TokenExpires(), "throttled": fakecloud.Throttled(http.StatusTooManyRequests, 1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, fakecloud.Options{})
			r.cloud.OnCall(fakecloud.CreateVolume, fault)
			v, err := r.Create(t.Context(), request("pvc-1", volume.GiB, nil))
			if err != nil {
				cindertest.CheckKind(t, err, volume.KindUnavailable)
				if name == "lost" || name == "a page" || name == "half" {
					t.Errorf("the volume was made, and the call did not find it: %v", err)
				}
				v = r.create(t, request("pvc-1", volume.GiB, nil))
			}
			if all := r.cloud.Volumes(); len(all) != 1 || all[0].ID != v.ID {
				t.Errorf("%+v, answered with %s", all, v.ID)
			}
		})
	}
}

// The cloud does not answer the lookups either before the call ends.
func TestCreateFailsWhenTheReplyIsLostAndNothingWasMade(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		r.cloud.OnCall(fakecloud.CreateVolume, fakecloud.LostReply())
		rule := r.cloud.OnCall(fakecloud.ListVolumeDetail, cindertest.Broken()).After(1).Always()
		short, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := r.Create(short, request("pvc-1", volume.GiB, nil))
		cindertest.CheckKind(t, err, volume.KindUnavailable)
		rule.Remove()
		r.create(t, request("pvc-1", volume.GiB, nil))
		if all := r.cloud.Volumes(); len(all) != 1 {
			t.Errorf("%d volumes", len(all))
		}
	})
}

func TestNamesAreScopedToTheCluster(t *testing.T) {
	t.Parallel()
	log := new(cindertest.Text)
	r := newRig(t, fakecloud.Options{}, withLog(log))
	otherID := r.cloud.Add(fakecloud.Volume{Name: "pvc-1", Metadata: map[string]string{metadata.Cluster: "other"}})
	if _, found, err := r.Find(t.Context(), request("pvc-1", volume.GiB, nil)); found || err != nil {
		t.Errorf("another cluster's volume was found: %v", err)
	}
	own := r.create(t, request("pvc-1", volume.GiB, nil))
	if own.ID == otherID {
		t.Error("another cluster's volume was taken")
	}
	// A volume without a cluster is used, but one of this cluster is preferred.
	old := r.cloud.Add(fakecloud.Volume{Name: "pvc-2", Metadata: map[string]string{}})
	if v := r.create(t, request("pvc-2", volume.GiB, nil)); v.ID != old {
		t.Errorf("got %s, not the volume of that name, %s", v.ID, old)
	}
	ownID := r.cloud.Add(fakecloud.Volume{Name: "pvc-2"})
	second := r.cloud.Add(fakecloud.Volume{Name: "pvc-2"})
	for range 3 {
		v := r.create(t, request("pvc-2", volume.GiB, nil))
		if v.ID != ownID && v.ID != second || !strings.Contains(log.String(), old) {
			t.Errorf("got %s, want %s; log %s", v.ID, ownID, log)
		}
		ownID, second = v.ID, v.ID // the same each time
	}
	r.cloud.CheckCalls(t, fakecloud.CreateVolume, 1)
}

func TestCreateRefusesAnExistingVolumeThatDiffers(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{Zones: []string{"nova", "west"}})
	r.create(t, request("pvc-1", 2*volume.GiB, map[string]string{class.ParamType: "rbd"}))
	for name, test := range map[string]struct {
		change func(*volume.CreateRequest)
		word   string
	}{
		"larger": {func(q *volume.CreateRequest) { q.Range.Required = 3 * volume.GiB }, "3 GiB"},
		"limit":  {func(q *volume.CreateRequest) { q.Range = volume.Range{Limit: volume.GiB} }, "1 GiB"},
		"another type": {
			func(q *volume.CreateRequest) { q.Parameters = map[string]string{class.ParamType: "rbd-gold"} }, "rbd-gold",
		},
		"another source": {func(q *volume.CreateRequest) { q.Source.VolumeID = "x" }, "source"},
		"another mutable type": {func(q *volume.CreateRequest) {
			q.MutableParameters = map[string]string{class.ParamType: "rbd-gold"}
		}, "rbd-gold"},
	} {
		req := request("pvc-1", 2*volume.GiB, nil)
		test.change(&req)
		_, err := r.Create(t.Context(), req)
		if !volume.IsKind(err, volume.KindAlreadyExists) || !strings.Contains(err.Error(), test.word) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.cloud.CheckCalls(t, fakecloud.CreateVolume, 1)
}

func TestCreateRefusesParameters(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	for name, test := range map[string]struct {
		parameters map[string]string
		words      []string
	}{
		"unknown key":        {map[string]string{"tpye": "x"}, []string{"tpye", "type", "availability", "affinity"}},
		"unknown type":       {map[string]string{class.ParamType: "gold"}, []string{"gold", "rbd-gold"}},
		"unknown cloud":      {map[string]string{class.ParamCloud: "moon"}, []string{"moon", "Global"}},
		"unknown zone":       {map[string]string{class.ParamZone: "mars"}, []string{"mars"}},
		"unknown neighbor":   {map[string]string{class.ParamAffinity: "pvc-9"}, []string{"pvc-9"}},
		"unknown antagonist": {map[string]string{class.ParamAntiAffinity: "pvc-9"}, []string{"pvc-9"}},
	} {
		_, err := r.Create(t.Context(), request("pvc-1", volume.GiB, test.parameters))
		if !volume.IsKind(err, volume.KindInvalid) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		cindertest.CheckKind(t, err, volume.KindInvalid, test.words...)
	}
	if left := r.cloud.Volumes(); len(left) != 0 {
		t.Errorf("left behind: %+v", left)
	}
	r.cloud.SetQuota(fakecloud.Quota{Gigabytes: 1, Volumes: -1, Snapshots: -1, PerVolumeGigabytes: -1})
	_, err := r.Create(t.Context(), request("pvc-1", 2*volume.GiB, nil))
	cindertest.CheckKind(t, err, volume.KindOutOfRange, "uota")
}

func access(mode volume.AccessMode, block bool) func(*volume.CreateRequest) {
	return func(q *volume.CreateRequest) { q.Accesses = []volume.Access{{Mode: mode, Block: block}} }
}

// cinder-csi-plugin creates ext4 volumes for several writers.
func TestSharedVolumesNeedASharedType(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		options fakecloud.Options
		volType string
		access  func(*volume.CreateRequest)
		words   []string // of the refusal; none: it is made
	}{
		"block, shareable":   {volType: "rbd-multi", access: access(volume.AccessMultiNodeMultiWriter, true)},
		"readers, shareable": {volType: "rbd-multi", access: access(volume.AccessMultiNodeReaderOnly, false)},
		"block, default type": {
			access: access(volume.AccessMultiNodeMultiWriter, true), words: []string{"rbd", "multiattach"},
		},
		"block, plain": {
			volType: "rbd-gold", access: access(volume.AccessMultiNodeSingleWriter, true),
			words: []string{"rbd-gold", "multiattach"},
		},
		"an old Nova": {
			options: fakecloud.Options{NovaMax: "2.59"}, volType: "rbd-multi",
			access: access(volume.AccessMultiNodeMultiWriter, true), words: []string{"2.60", "2.59"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, test.options)
			req := request("pvc-1", volume.GiB, map[string]string{class.ParamType: test.volType})
			test.access(&req)
			v, err := r.Create(t.Context(), req)
			if test.words == nil {
				if err != nil || !slices.Contains(v.AccessModes, volume.AccessMultiNodeMultiWriter) {
					t.Errorf("access modes %v and error %v, want modes for several nodes", v.AccessModes, err)
				}
				return
			}
			cindertest.CheckKind(t, err, volume.KindInvalid, test.words...)
			r.cloud.CheckCalls(t, fakecloud.CreateVolume, 0)
		})
	}
	r := newRig(t, fakecloud.Options{})
	v := r.create(t, request("pvc-1", volume.GiB, nil))
	if slices.ContainsFunc(v.AccessModes, volume.AccessMode.IsMultiNode) {
		t.Errorf("a plain volume has the modes %v", v.AccessModes)
	}
}

func TestMutableTypeAtCreation(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	req := request("pvc-1", volume.GiB, map[string]string{class.ParamType: "rbd"})
	req.MutableParameters = map[string]string{class.ParamType: "rbd-gold"}
	v := r.create(t, req)
	if got, _ := r.cloud.Volume(v.ID); got.Type != "rbd-gold" {
		t.Errorf("the volume has the type %s, want rbd-gold", got.Type)
	}
	req.Name, req.MutableParameters = "pvc-2", map[string]string{"iops": "7"}
	_, err := r.Create(t.Context(), req)
	cindertest.CheckKind(t, err, volume.KindInvalid, "iops")
}

// After a final error external-provisioner does not retry.
func TestErrorIsNotFinalWhileALeftoverCannotBeRemoved(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	r.cloud.SetCapacity(5)
	rule := r.cloud.OnCall(fakecloud.DeleteVolume, fakecloud.Status(http.StatusInternalServerError, "oops")).Always()
	_, err := r.Create(t.Context(), request("pvc-1", 10*volume.GiB, nil))
	cindertest.CheckKind(
		t, err, volume.KindUnavailable, "Could not find any available weighted backend", "cannot remove", "oops",
	)
	rule.Remove()
	_, err = r.Create(t.Context(), request("pvc-1", 10*volume.GiB, nil))
	cindertest.CheckKind(t, err, volume.KindOutOfRange)
	if left := r.cloud.Volumes(); len(left) != 0 {
		t.Errorf("left behind: %+v", left)
	}
}

// Credentials that end halfway do not prove that there is no volume: a final error would let the
// claim go without the volume.
func TestVolumeIsNotAbsentWhenItCannotBeRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		r.cloud.SetDuration(fakecloud.CreateVolume, 200*time.Millisecond)
		for _, call := range []fakecloud.Call{fakecloud.GetVolume, fakecloud.ListVolumeDetail} {
			rule := r.cloud.OnCall(call, cindertest.Denied()).Always()
			_, err := r.Create(t.Context(), request("pvc-1", volume.GiB, nil))
			cindertest.CheckKind(t, err, volume.KindUnavailable, "Policy doesn't allow it")
			if call == fakecloud.ListVolumeDetail {
				_, _, err = r.Find(t.Context(), request("pvc-1", volume.GiB, nil))
				cindertest.CheckKind(t, err, volume.KindUnavailable, "cannot determine whether")
			}
			rule.Remove()
		}
		r.create(t, request("pvc-1", volume.GiB, nil))
		r.cloud.CheckCalls(t, fakecloud.CreateVolume, 1)
	})
}
