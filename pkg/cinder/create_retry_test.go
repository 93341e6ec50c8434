package cinder

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/cinder/internal/catalog"
	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/class"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/controller"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// A final error makes external-provisioner forget the claim, or have the pod scheduled elsewhere.
// So no error is final while a volume may exist.
func TestNoKindIsFinalWhileAVolumeMayExist(t *testing.T) {
	t.Parallel()
	b := new(Backend)
	b.attempts.AddLost("lost")
	known := &creation{Backend: b, known: map[string]bool{"vol-1": true}, req: volume.CreateRequest{Name: "known"}}
	lost := &creation{Backend: b, req: volume.CreateRequest{Name: "lost"}}
	fresh := &creation{Backend: b, req: volume.CreateRequest{Name: "fresh"}}
	for kind := volume.KindInternal; kind <= volume.KindStale; kind++ {
		for name, test := range map[string]struct {
			creation *creation
			word     string
		}{"a volume": {known, "vol-1"}, "a lost request": {lost, "may still be carried out"}} {
			got := test.creation.answer(volume.Errorf(kind, "refused"))
			if k := volume.KindOf(got); k.IsFinal() && k != volume.KindAlreadyExists {
				t.Errorf("%s: %s was answered as %s, which is final", name, kind, k)
			}
			if changed := !volume.IsKind(got, kind); changed != strings.Contains(got.Error(), test.word) {
				t.Errorf("%s: %s became %v, want it to name %q if it was changed", name, kind, got, test.word)
			}
		}
		if got := fresh.answer(volume.Errorf(kind, "refused")); !volume.IsKind(got, kind) {
			t.Errorf("%s was answered as %v although there is nothing", kind, got)
		}
	}
}

func TestCreateFindsTheVolumeOfARequestThatIsNotPossibleAnyMore(t *testing.T) {
	t.Parallel()
	deny := func(call fakecloud.Call) func(*rig, *volume.CreateRequest) {
		return func(r *rig, _ *volume.CreateRequest) {
			r.cloud.OnCall(call, cindertest.Denied()).Always()
		}
	}
	parameter := func(key, value string) func(*rig, *volume.CreateRequest) {
		return func(_ *rig, q *volume.CreateRequest) { q.Parameters = map[string]string{key: value} }
	}
	for name, test := range map[string]struct {
		change func(*rig, *volume.CreateRequest)
		words  []string // of the error, which is not final; none: the volume is the answer
	}{
		"zones cannot be listed": {change: deny(fakecloud.ListZones)},
		"types cannot be listed": {change: deny(fakecloud.ListTypes)},
		"nothing can be made":    {change: deny(fakecloud.CreateVolume)},
		"types cannot be listed, and the class names another": {func(r *rig, q *volume.CreateRequest) {
			deny(fakecloud.ListTypes)(r, q)
			parameter(class.ParamType, "0c1b6d1c-0000-4000-8000-000000000000")(r, q)
		}, []string{"rbd-gold", "Policy doesn't allow it"}},
		"the type has another name": {parameter(class.ParamType, "golden"), []string{"rbd-gold", "golden"}},
		"an unknown parameter":      {parameter("tpye", "rbd"), []string{"tpye"}},
		"an unknown mutable one": {
			func(_ *rig, q *volume.CreateRequest) { q.MutableParameters = map[string]string{"iops": "7"} }, []string{"iops"},
		},
		"the class demands a zone": {change: parameter(class.ParamZone, "nova")},
		"neighbors that have gone": {change: parameter(class.ParamAffinity, "pvc-gone")},
		"no zone of Cinder's": {
			func(_ *rig, q *volume.CreateRequest) { q.Requisite = []volume.Topology{zone("mars")} },
			[]string{"zone west", "mars", "selected-node"},
		},
		"another zone of Cinder's": {
			func(_ *rig, q *volume.CreateRequest) { q.Requisite = []volume.Topology{zone("nova")} },
			[]string{"zone west", "nova", "selected-node", "openstack volume delete"},
		},
		"a zone that is not allowed": {
			func(_ *rig, q *volume.CreateRequest) { q.Requisite = []volume.Topology{zone("nova"), zone("west")} }, nil,
		},
		"it may not be written to its metadata": {func(r *rig, q *volume.CreateRequest) {
			deny(fakecloud.AnyCall)(r, q)
		}, []string{"Policy doesn't allow it"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, fakecloud.Options{Zones: []string{"nova", "west"}})
			req := request("pvc-1", volume.GiB, map[string]string{class.ParamType: "rbd-gold"})
			req.Requisite = []volume.Topology{zone("west")}
			v := r.create(t, req)
			r.catalog = catalog.Catalog{} // as after a restart
			req.Parameters = nil
			test.change(r, &req)
			if _, found, err := r.Find(t.Context(), req); !found && err == nil {
				t.Error("the volume was not found")
			}
			again, err := r.Create(t.Context(), req)
			if test.words == nil {
				if err != nil || again.ID != v.ID {
					t.Errorf("%+v, %v, want %s", again, err, v.ID)
				}
			} else {
				cindertest.CheckKind(t, err, volume.KindUnavailable, test.words...)
			}
			if _, there := r.cloud.Volume(v.ID); !there || len(r.cloud.Volumes()) != 1 {
				t.Errorf("the volumes are %+v, want %s", r.cloud.Volumes(), v.ID)
			}
		})
	}
}

// cutShort creates a volume with a call that ends before the volume is usable.
func (r *rig) cutShort(t *testing.T, req volume.CreateRequest) (id string) {
	t.Helper()
	before := r.cloud.Volumes()
	_, err := r.Create(cindertest.Within(t, 700*time.Millisecond), req)
	cindertest.CheckKind(t, err, volume.KindDeadline)
	for _, v := range r.cloud.Volumes() {
		if !slices.ContainsFunc(before, func(o fakecloud.Volume) bool { return o.ID == v.ID }) {
			return v.ID
		}
	}
	t.Fatal("no volume was made")
	return ""
}

// The node that a volume is created for can vanish before the volume is ready; then the pod is
// scheduled elsewhere. The volume must neither prevent the start of the pod nor stay behind.
func TestVolumeInAZoneThatIsNotAllowedAnyMoreIsReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{Zones: []string{"nova", "west"}})
		r.cloud.SetDuration(fakecloud.CreateVolume, time.Second)
		req := request("pvc-1", volume.GiB, nil)
		req.Requisite = []volume.Topology{zone("west")}
		first := r.cutShort(t, req)
		req.Requisite = []volume.Topology{zone("nova")}
		_, err := r.Create(t.Context(), req)
		cindertest.CheckKind(t, err, volume.KindExhausted, first, "west", "nova")
		if _, there := r.cloud.Volume(first); there {
			t.Errorf("%s stays behind, and the claim may be forgotten", first)
		}
		if v := r.create(t, req); v.Topology[0][cindercsi.TopologyKey] != "nova" || len(r.cloud.Volumes()) != 1 {
			t.Errorf("%+v of %+v", v, r.cloud.Volumes())
		}
	})
}

// The driver removes neither a volume that a pod may have used nor a copy whose source is gone.
func TestVolumeInAnotherZoneIsKeptIfItMayBeInUse(t *testing.T) {
	t.Parallel()
	for name, restart := range map[string]bool{"this process has made it": false, "an earlier one has": true} {
		for _, source := range []string{"none", "there", "gone"} {
			t.Run(name+", source "+source, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t, fakecloud.Options{Zones: []string{"nova", "west"}})
					r.cloud.SetDuration(fakecloud.CreateVolume, time.Second)
					req := request("pvc-1", volume.GiB, nil)
					req.Requisite = []volume.Topology{zone("west")}
					if source != "none" {
						req.Source.VolumeID = r.cloud.Add(fakecloud.Volume{Zone: "west"})
					}
					id := r.cutShort(t, req)
					if source == "gone" {
						r.cloud.RemoveVolume(req.Source.VolumeID)
					}
					if restart {
						r = newRigOver(t, r.cloud.Cloud)
					}
					req.Requisite = []volume.Topology{zone("nova")}
					_, err := r.Create(t.Context(), req)
					_, there := r.cloud.Volume(id)
					if restart || source == "gone" {
						cindertest.CheckKind(t, err, volume.KindUnavailable, id, "west", "nova")
					} else {
						cindertest.CheckKind(t, err, volume.KindExhausted, id, "west", "nova")
					}
					if there != (restart || source == "gone") {
						t.Errorf("after %v the volume is there: %t", err, there)
					}
				})
			})
		}
	}
}

func mountRequest(name string, source volume.Source) *csi.CreateVolumeRequest {
	req := &csi.CreateVolumeRequest{Name: name, VolumeCapabilities: []*csi.VolumeCapability{{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}}}
	if source.VolumeID != "" {
		req.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: source.VolumeID},
		}}
	}
	return req
}

// A proxy may deliver a request after the next call has looked for the volume.
func TestRefusalsAreNotFinalWhileALostRequestMayBeCarriedOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		deliver := make(chan struct{})
		r.cloud.OnCall(fakecloud.CreateVolume, fakecloud.DeliveredLate(deliver))
		_, err := r.Create(t.Context(), request("pvc-1", volume.GiB, nil))
		cindertest.CheckKind(t, err, volume.KindUnavailable, "504")
		for name, change := range map[string]func(*volume.CreateRequest){
			"parameter": func(q *volume.CreateRequest) { q.Parameters = map[string]string{"tpye": "x"} },
			"cloud":     func(q *volume.CreateRequest) { q.Parameters = map[string]string{class.ParamCloud: "moon"} },
			"zone":      func(q *volume.CreateRequest) { q.Requisite = []volume.Topology{zone("mars")} },
			"type":      func(q *volume.CreateRequest) { q.Parameters = map[string]string{class.ParamType: "golden"} },
		} {
			req := request("pvc-1", volume.GiB, nil)
			change(&req)
			if _, err := r.Create(t.Context(), req); !volume.IsKind(err, volume.KindUnavailable) {
				t.Errorf("%s: %v, want it not final", name, err)
			}
			req.Name = "pvc-2" // of which nothing was asked for yet
			if _, err := r.Create(t.Context(), req); err == nil || !volume.KindOf(err).IsFinal() {
				t.Errorf("%s: %v, want it final", name, err)
			}
		}
		server := controller.New(r.Backend, controller.Options{})
		_, err = server.CreateVolume(t.Context(), mountRequest("pvc-1", volume.Source{VolumeID: "gone"}))
		cindertest.CheckKind(t, err, volume.KindUnavailable, "gone", "may still be carried out")
		_, err = server.CreateVolume(t.Context(), mountRequest("pvc-2", volume.Source{VolumeID: "gone"}))
		cindertest.CheckKind(t, err, volume.KindNotFound, "gone")

		close(deliver)
		cindertest.Eventually(t, "the late request is carried out", func() bool { return len(r.cloud.Volumes()) == 1 })
		if v := r.create(t, request("pvc-1", volume.GiB, nil)); v.ID != r.cloud.Volumes()[0].ID {
			t.Errorf("Create returns %s, want the volume of the late request", v.ID)
		}
		for _, name := range []string{"pvc-1", "pvc-2"} {
			if r.attempts.Has(name) {
				t.Errorf("the attempt of %s is still known", name)
			}
		}
	})
}

// The leftovers of earlier calls are removed before an error lets external-provisioner forget the
// claim.
func TestRefusalsRemoveTheLeftoversOfFailedCreations(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]func(*rig) error{
		"by the backend": func(r *rig) error {
			req := request("pvc-1", volume.GiB, nil)
			req.Requisite = []volume.Topology{zone("mars")}
			_, err := r.Create(t.Context(), req)
			return err
		},
		"by the controller": func(r *rig) error {
			server := controller.New(r.Backend, controller.Options{})
			_, err := server.CreateVolume(t.Context(), mountRequest("pvc-1", volume.Source{VolumeID: "gone"}))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, fakecloud.Options{})
			left := r.cloud.Add(fakecloud.Volume{Name: "pvc-1", Status: state.Error})
			rule := r.cloud.OnCall(fakecloud.DeleteVolume, cindertest.Denied()).Always()
			cindertest.CheckKind(t, refuse(r), volume.KindUnavailable, left)
			rule.Remove()
			if err := refuse(r); err == nil || !volume.KindOf(err).IsFinal() {
				t.Errorf("%v, want it final: nothing is left", err)
			}
			if all := r.cloud.Volumes(); len(all) != 0 {
				t.Errorf("left behind: %+v", all)
			}
		})
	}
}

// A clone is in the cloud of its source, which may be gone at the retry.
func TestCloneIsFoundAfterItsSourceIsGone(t *testing.T) {
	t.Parallel()
	east, west := startTwoClouds(t)
	req := request("pvc-2", volume.GiB, nil)
	req.Source.VolumeID = west.AddVolume(fakecloud.Volume{Size: 1, Metadata: cindertest.Own()})
	v, err := twoClouds(t, east, west).CloneVolume(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	west.RemoveVolume(req.Source.VolumeID)
	b := twoClouds(t, east, west)
	if again, err := b.CloneVolume(t.Context(), req); err != nil || again.ID != v.ID {
		t.Errorf("%+v, %v, want %s", again, err, v.ID)
	}
	req.Name = "pvc-3"
	_, err = b.CloneVolume(t.Context(), req)
	cindertest.CheckKind(t, err, volume.KindNotFound, req.Source.VolumeID)
}

// Create does not return a volume that may not be shared if the request demands that, and does not
// remove it if a pod may use it.
func TestCreateRefusesAnExistingVolumeThatMayNotBeShared(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	v := r.create(t, request("pvc-1", volume.GiB, nil))
	req := request("pvc-1", volume.GiB, nil)
	access(volume.AccessMultiNodeMultiWriter, true)(&req)
	_, err := r.Create(context.WithoutCancel(t.Context()), req)
	cindertest.CheckKind(t, err, volume.KindAlreadyExists, v.ID)
	if _, there := r.cloud.Volume(v.ID); !there {
		t.Error("it was removed")
	}
}

// Between the lookup and the creation the controller may have waited for the cloud.
func TestCreateIgnoresAnOldLookup(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	req := request("pvc-1", volume.GiB, nil)
	if _, found, err := r.Find(t.Context(), req); found || err != nil {
		t.Fatal(found, err)
	}
	for key, l := range r.recentFinds {
		l.at = l.at.Add(-2 * maxFindAge)
		r.recentFinds[key] = l
	}
	made := r.cloud.Add(fakecloud.Volume{Name: "pvc-1"})
	if v := r.create(t, req); v.ID != made {
		t.Errorf("Create returns %s, want %s", v.ID, made)
	}
	r.cloud.CheckCalls(t, fakecloud.CreateVolume, 0)
}

// A volume without a cluster may be an older one of cinder-csi-plugin; a volume of this cluster is
// preferred, whatever its age.
func TestVolumeOfThisClusterIsPreferred(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	c, err := r.clouds.Cloud(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []map[string]string{{"by": "hand"}, {metadata.Cluster: cindertest.ClusterID}, {"by": "hand"}} {
		r.cloud.Add(fakecloud.Volume{Name: "pvc-1", Metadata: m})
	}
	n, err := r.findByName(t.Context(), c, "pvc-1")
	if err != nil || !r.isOwn(n.volume) || len(n.others) != 2 {
		t.Errorf("%+v, %v; want the one with the metadata of this cluster", n, err)
	}
}
