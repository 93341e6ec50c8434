package rbd

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/fakeceph"
	"github.com/growvol/growvol/pkg/rbd/internal/metadata"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/must"
)

func TestCreateMakesAnImageThatTheHandleNames(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("pvc-1", "mapOptions", "krbd:rxbounce", "mkfsOptions", "-m0"))
	if v.ID != "a/volumes/csi-vol-pvc-1" || v.Name != "pvc-1" || v.Size != volume.GiB || len(v.Topology) != 0 {
		t.Errorf("got %+v", v)
	}
	wantContext := map[string]string{
		"clusterID": "a", "pool": "volumes", "imageName": "csi-vol-pvc-1", "mapOptions": "krbd:rxbounce",
		"mkfsOptions": "-m0",
	}
	if !maps.Equal(v.VolumeContext, wantContext) {
		t.Errorf("got the context %v, want %v", v.VolumeContext, wantContext)
	}
	if got, want := r.server.Contents(), []string{"volumes//csi-vol-pvc-1"}; !slices.Equal(got, want) {
		t.Errorf("the cluster has %v, want %v", got, want)
	}
	read, err := r.Get(t.Context(), v.ID)
	if err != nil || read.Name != "pvc-1" || read.Size != volume.GiB || read.Encrypted {
		t.Errorf("got %+v, %v", read, err)
	}
}

// The figures are of calls; an open image costs about ten operations.
func TestCallsOfACreation(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for i, want := range []map[string]int{
		{
			"Connect": 1, "Cluster.Pool": 3, "Cluster.PoolUsage": 1, "Pool.ImageID": 2, "Pool.Create": 1, "Pool.Metadata": 1,
			"Pool.SetMetadata": 1, "Pool.OpenID": 1, "Image.Info": 1, "Pool.OmapValues": 1, "Image.Close": 1,
		},
		{
			"Cluster.Pool": 1, "Pool.ImageID": 1, "Pool.Metadata": 1, "Pool.OpenID": 1, "Image.Info": 1, "Pool.OmapValues": 1,
			"Image.Close": 1,
		},
	} {
		r.server.ResetCalls()
		r.create(t, request("pvc-1"))
		if got := r.server.Calls(); !maps.Equal(got, want) {
			t.Errorf("call %d: got %v, want %v", i, got, want)
		}
	}
}

func TestCreateIsRepeatedAfterARestart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first := r.create(t, request("pvc-1"))
	second, err := r.newBackend(t).Create(t.Context(), request("pvc-1"))
	if err != nil || second.ID != first.ID || !maps.Equal(second.VolumeContext, first.VolumeContext) {
		t.Errorf("got %+v, %v", second, err)
	}
	if got := len(r.server.Contents()); got != 1 {
		t.Errorf("the cluster has %d images, want 1", got)
	}
}

// Whatever call fails, at whichever place, whether it took effect or not: the error lets
// external-provisioner repeat the request, and the next call succeeds.
func TestCreateConvergesAfterEveryFailure(t *testing.T) {
	t.Parallel()
	counted := newRig(t)
	counted.create(t, request("pvc-1"))
	for call, n := range counted.server.Calls() {
		for nth := 1; nth <= n; nth++ {
			for _, isLate := range []bool{false, true} {
				for _, errno := range []unix.Errno{unix.ETIMEDOUT, unix.ESHUTDOWN, unix.EPERM} {
					r := newRig(t)
					r.server.Inject(fakeceph.Fault{Call: call, Nth: nth, IsLast: true, Errno: errno, IsLate: isLate})
					checkConverges(t, r, call)
				}
			}
		}
	}
}

func checkConverges(t *testing.T, r *rig, call string) {
	t.Helper()
	req := request("pvc-1")
	_, _, err := r.Find(t.Context(), req)
	if err == nil {
		_, err = r.Create(t.Context(), req)
	}
	if err != nil && volume.KindOf(err).IsFinal() && len(r.server.Contents()) > 0 {
		t.Errorf("%s: a final error leaves %v behind: %v", call, r.server.Contents(), err)
	}
	r.server.ClearFaults()
	v := r.create(t, req)
	if read, err := r.Get(t.Context(), v.ID); err != nil || read.Name != "pvc-1" || read.Size != volume.GiB {
		t.Errorf("%s: got %+v, %v", call, read, err)
	}
	if got := len(r.server.Contents()); got != 1 {
		t.Errorf("%s: the cluster has %v", call, r.server.Contents())
	}
}

func TestCreateCompletesAnImageWithoutRecord(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.server.Inject(fakeceph.Fault{Call: "Pool.SetMetadata", Errno: unix.ETIMEDOUT, IsLast: true})
	req := request("pvc-1")
	req.Encrypted = true
	_, err := r.Create(t.Context(), req)
	volumetest.WantKind(t, err, volume.KindUnavailable, "a/volumes/csi-vol-pvc-1")
	if v := r.find(t, req); v.Size != volume.GiB || !v.Encrypted || v.Name != "pvc-1" {
		t.Errorf("found %+v", v)
	}
	if v, err := r.Create(t.Context(), req); err != nil || !v.Encrypted {
		t.Errorf("got %+v, %v", v, err)
	}
	if v, err := r.Get(t.Context(), "a/volumes/csi-vol-pvc-1"); err != nil || !v.Encrypted {
		t.Errorf("got %+v, %v", v, err)
	}
}

// An image with data belongs to another program: no interrupted creation has left it. The test
// creates the volume with and without a search before.
func TestCreateDoesNotTakeAnImageWithData(t *testing.T) {
	t.Parallel()
	for _, withFind := range []bool{true, false} {
		r := newRig(t)
		check(t, r.testPool(t, "volumes", "").Create("csi-vol-pvc-1", 1<<30, ceph.ImageOptions{}))
		r.server.Write("volumes", "", "csi-vol-pvc-1", 0, 1, 7)
		if withFind {
			_, _, err := r.Find(t.Context(), request("pvc-1"))
			check(t, err)
		} else {
			location := rbdcsi.Location{Cluster: "a", Pool: "volumes"}
			r.finds.store("pvc-1", rbdcsi.VolumeHandle{Location: location, Image: "csi-vol-pvc-1"}, nil)
		}
		_, err := r.Create(t.Context(), request("pvc-1"))
		volumetest.WantKind(t, err, volume.KindAlreadyExists, "a/volumes/csi-vol-pvc-1", "has data")
		if v := must.Value(r.Get(t.Context(), "a/volumes/csi-vol-pvc-1"))(t); v.Name != "" {
			t.Errorf("the image was taken for the volume %s", v.Name)
		}
	}
}

// A controller that was killed in the middle of a call of librbd leaves a name without an image.
func TestCreateReplacesANameWithoutImage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	check(t, r.testPool(t, "volumes", "").Create("csi-vol-pvc-1", 1<<20, ceph.ImageOptions{}))
	r.server.LoseHeader("volumes", "", "csi-vol-pvc-1")
	v := r.create(t, request("pvc-1"))
	r.wantSize(t, v.ID, volume.GiB)
	if got := r.server.Contents(); len(got) != 1 {
		t.Errorf("the cluster has %v", got)
	}
}

func TestCreateRefusesAnExistingVolumeThatDiffers(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*volume.CreateRequest){
		"less than the requested 2 GiB": func(r *volume.CreateRequest) { r.Range.Required = 2 * volume.GiB },
		"above the requested limit":     func(r *volume.CreateRequest) { r.Range = volume.Range{Limit: volume.MiB} },
		"encryption":                    func(r *volume.CreateRequest) { r.Encrypted = true },
		"was created from another source": func(r *volume.CreateRequest) {
			r.Source.SnapshotID = "a/volumes/id:1022@4"
		},
	} {
		r := newRig(t)
		r.create(t, request("pvc-1"))
		req := request("pvc-1")
		change(&req)
		_, err := r.Create(t.Context(), req)
		volumetest.WantKind(t, err, volume.KindAlreadyExists, name)
	}
}

func TestCreateRefusesTheImageOfAnotherVolume(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.create(t, request("b", "volumeNamePrefix", "x-a"))
	_, err := r.Create(t.Context(), request("ab", "volumeNamePrefix", "x-"))
	volumetest.WantKind(t, err, volume.KindAlreadyExists, "a/volumes/x-ab", `belongs to the volume "b"`)
}

func TestCreateRefusesACloneOfTheName(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	source := r.create(t, request("source"))
	pool := r.testPool(t, "volumes", "")
	im, err := pool.Open("csi-vol-source", false)
	check(t, err)
	check(t, im.CreateSnapshot("s"))
	check(t, im.Close())
	check(t, pool.Clone(pool, "csi-vol-source", "s", "csi-vol-pvc-1", ceph.ImageOptions{}))
	// librbd has copied the metadata of the source: they are not those of the clone.
	if v := r.find(t, request("pvc-1")); v.Name != "pvc-1" {
		t.Errorf("found %+v", v)
	}
	_, err = r.Create(t.Context(), request("pvc-1"))
	volumetest.WantKind(t, err, volume.KindAlreadyExists, "is a clone of volumes/csi-vol-source")
	r.wantSize(t, source.ID, volume.GiB)
}

func TestNamesThatDoNotFitAreHashed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	long := strings.Repeat("x", 120)
	ids := make(map[string]bool)
	for _, name := range []string{"with blank", "a/b", "ümlaut", "@", long, long + "y"} {
		v := r.create(t, request(name))
		if len(v.ID) > 128 || len(v.ID) != len("a/volumes/csi-vol-")+32 || v.Name != name {
			t.Errorf("%q: got the handle %s of %q", name, v.ID, v.Name)
		}
		ids[v.ID] = true
		if again := r.create(t, request(name)); again.ID != v.ID {
			t.Errorf("%q: got %s, then %s", name, v.ID, again.ID)
		}
	}
	if len(ids) != 6 {
		t.Errorf("got %d handles, want 6", len(ids))
	}
	_, err := r.Create(t.Context(), request("x", "pool", strings.Repeat("p", 120)))
	volumetest.WantKind(t, err, volume.KindInvalid, "128", "shorter")
}

func TestCreateInANamespace(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	_, err := r.Create(t.Context(), request("pvc-1", "radosNamespace", "tenant"))
	volumetest.WantKind(t, err, volume.KindInvalid, `namespace "tenant"`, "rbd namespace create")
	r.server.CreateNamespace("volumes", "tenant")
	v := r.create(t, request("pvc-1", "radosNamespace", "tenant"))
	if v.ID != "a/volumes/tenant/csi-vol-pvc-1" || v.VolumeContext["radosNamespace"] != "tenant" {
		t.Errorf("got %+v", v)
	}
	r.wantSize(t, v.ID, volume.GiB)

	config := r.config["a"]
	config.Namespace = "tenant"
	r.config["a"] = config
	if v := r.create(t, request("pvc-2")); v.ID != "a/volumes/tenant/csi-vol-pvc-2" {
		t.Errorf("got %s in the namespace of the configuration", v.ID)
	}
}

func TestCreateUsesDataPoolAndLayout(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("pvc-1", "dataPool", "ecdata", "objectSize", "8388608",
		"imageFeatures", "layering,exclusive-lock,object-map,fast-diff"))
	im, err := r.testPool(t, "volumes", "").Open("csi-vol-pvc-1", true)
	check(t, err)
	info, err := im.Info()
	check(t, err)
	check(t, im.Close())
	if info.DataPool != "ecdata" || info.ObjectSize != 8<<20 || !slices.Contains(info.Features, "fast-diff") {
		t.Errorf("got %+v", info)
	}
	r.server.SetFull("ecdata", "full")
	_, err = r.Expand(t.Context(), v.ID, 2*volume.GiB)
	volumetest.WantKind(t, err, volume.KindOutOfRange, "ecdata", "full")

	_, err = r.Create(t.Context(), request("pvc-2", "dataPool", "none"))
	volumetest.WantKind(t, err, volume.KindUnavailable, "no pool none")
}

func TestDefaultFeaturesHaveALockAndNoObjectMap(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.create(t, request("pvc-1"))
	im, err := r.testPool(t, "volumes", "").Open("csi-vol-pvc-1", true)
	check(t, err)
	info, err := im.Info()
	check(t, err)
	check(t, im.Close())
	if want := []string{"layering", "exclusive-lock"}; !slices.Equal(info.Features, want) {
		t.Errorf("got the features %v, want %v", info.Features, want)
	}
}

func TestCreateInAFullPoolIsOutOfRange(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.server.SetUsage("volumes", 90<<20, 0, 100<<20)
	_, err := r.Create(t.Context(), request("pvc-1"))
	volumetest.WantKind(t, err, volume.KindOutOfRange, "1 GiB", "the quota 100 MiB", "set-quota volumes")
	r.server.SetFull("volumes", "full_quota")
	_, err = r.Create(t.Context(), request("pvc-1"))
	volumetest.WantKind(t, err, volume.KindOutOfRange, "full_quota", "90 MiB", "100 MiB")
	if got := r.server.Calls()["Pool.Create"]; got != 0 {
		t.Errorf("Ceph was requested %d times to write to a full pool", got)
	}
	r.server.SetFull("volumes")
	r.server.SetUsage("volumes", 0, 1<<40, 0)
	r.server.Inject(fakeceph.Fault{
		Call: "Pool.Create", IsLast: true, Do: func() { r.server.SetFull("volumes", "full_quota") },
	})
	_, err = r.Create(t.Context(), request("pvc-1"))
	volumetest.WantKind(t, err, volume.KindOutOfRange, "full_quota")
	// A volume that exists needs no space.
	r.server.SetFull("volumes")
	r.server.SetUsage("volumes", 0, 0, 0)
	r.create(t, request("pvc-1"))
	r.server.SetFull("volumes", "full")
	r.create(t, request("pvc-1"))
}

func TestCreateRefusesParametersOfNoUse(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for word, changes := range map[string][]string{
		"known are":                {"poool", "x"},
		"no parameter clusterID":   {"clusterID", ""},
		"no parameter pool":        {"pool", ""},
		"online expansion":         {"mapOptions", "krbd:lock_on_read,exclusive"},
		"journaling":               {"imageFeatures", "layering,journaling"},
		"which object-map needs":   {"imageFeatures", "layering,object-map"},
		"power of two":             {"objectSize", "5000000"},
		"no parameter stripeCount": {"stripeUnit", "65536"},
		"a divisor":                {"stripeUnit", "3000000", "stripeCount", "2"},
		"without a slash":          {"pool", "a/b"},
		"kernel's client":          {"mounter", "rbd-nbd"},
		"letters, digits":          {"volumeNamePrefix", "a/b"},
		"JSON list":                {"topologyConstrainedPools", "{"},
		"domainSegments":           {"topologyConstrainedPools", `[{"poolName":"other"}]`},
	} {
		req := request("pvc-1", changes...)
		if _, found, err := r.Find(t.Context(), req); err != nil || found {
			t.Errorf("%v: found %t, %v", changes, found, err)
		}
		_, err := r.Create(t.Context(), req)
		volumetest.WantKind(t, err, volume.KindInvalid, word)
	}
	_, err := r.Create(t.Context(), request("pvc-1", "clusterID", "b"))
	volumetest.WantKind(t, err, volume.KindUnavailable, `"b"`, "configuration")
	_, err = r.Create(t.Context(), request("pvc-1", "pool", "none"))
	volumetest.WantKind(t, err, volume.KindUnavailable, "no pool none")
}

const twoZones = `[{"poolName":"volumes","domainSegments":[{"domainLabel":"zone","value":"z1"}]},
	{"poolName":"other","dataPool":"ecdata","domainSegments":[{"domainLabel":"zone","value":"z2"}]}]`

func zone(name string) volume.Topology {
	return volume.Topology{"topology.rbd.csi.ceph.com/zone": name, "topology.rbd.csi.ceph.com/rack": "r"}
}

func TestCreateChoosesThePoolOfThePreferredZone(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		requisite, preferred []volume.Topology
		pool                 string // empty: refused
	}{
		"no requirement":       {nil, nil, "volumes"},
		"one zone":             {[]volume.Topology{zone("z2")}, nil, "other"},
		"both, none preferred": {[]volume.Topology{zone("z2"), zone("z1")}, nil, "volumes"},
		"preferred":            {[]volume.Topology{zone("z1"), zone("z2")}, []volume.Topology{zone("z2"), zone("z1")}, "other"},
		"no pool":              {[]volume.Topology{zone("z3")}, nil, ""},
	} {
		r := newRig(t)
		req := request("pvc-1", "pool", "", "topologyConstrainedPools", twoZones)
		req.Requisite, req.Preferred = test.requisite, test.preferred
		v, err := r.Create(t.Context(), req)
		if test.pool == "" {
			volumetest.WantKind(t, err, volume.KindExhausted, "z3")
			continue
		}
		if err != nil || v.ID != "a/"+test.pool+"/csi-vol-pvc-1" || v.VolumeContext["pool"] != test.pool ||
			len(v.Topology) != 1 {
			t.Errorf("%s: got %+v, %v", name, v, err)
		}
		if again, err := r.Create(t.Context(), req); err != nil || again.ID != v.ID {
			t.Errorf("%s: repeated: got %+v, %v", name, again, err)
		}
	}
}

func TestCreateTriesTheNextPoolIfOneIsFull(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.server.SetFull("volumes", "full")
	req := request("pvc-1", "topologyConstrainedPools", twoZones)
	req.Requisite = []volume.Topology{zone("z1"), zone("z2")}
	if v, err := r.Create(t.Context(), req); err != nil || v.ID != "a/other/csi-vol-pvc-1" {
		t.Errorf("got %+v, %v", v, err)
	}
	// The volume stays where it is.
	r.server.SetFull("volumes")
	if v := r.create(t, req); v.ID != "a/other/csi-vol-pvc-1" {
		t.Errorf("got %s", v.ID)
	}
	r.server.SetFull("volumes", "full")
	r.server.SetFull("ecdata", "full")
	req.Name = "pvc-2"
	_, err := r.Create(t.Context(), req)
	volumetest.WantKind(t, err, volume.KindExhausted, "no pool", "ecdata")
}

func TestRecordOfAnotherImageDoesNotCount(t *testing.T) {
	t.Parallel()
	record := metadata.New("1022", "a", request("pvc-1"))
	all := map[string]string{metadata.Key: record.Encode()}
	if got, found, err := metadata.Read("1022", all); err != nil || !found || got != record {
		t.Errorf("got %+v, %t, %v", got, found, err)
	}
	if _, found, err := metadata.Read("1023", all); err != nil || found {
		t.Errorf("the record of the parent was found: %v", err)
	}
}
