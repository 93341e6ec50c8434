package krbd

import (
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestParseTarget(t *testing.T) {
	const cephCSI = "0001-0001-b-0000000000000003-a6bf0a0b-4f4b-4f39-9c02-5f1c3a1f6f33"
	for name, c := range map[string]struct {
		req  volume.ConnectRequest
		want string // cluster and image; empty: an error of kind Invalid
	}{
		"handle":               {volume.ConnectRequest{ID: "a/rbd/tenant/img@monday"}, "a rbd/tenant/img@monday"},
		"publish context":      {published(), "a rbd/img"},
		"handle of ceph-csi":   {cephCSIRequest(cephCSI, "pool", "rbd", "imageName", "v"), "b rbd/v"},
		"static, of ceph-csi":  {cephCSIRequest("v", "staticVolume", "true", "clusterID", "c", "pool", "p"), "c p/v"},
		"namespace":            {cephCSIRequest(cephCSI, "pool", "p", "imageName", "v", "radosNamespace", "n"), "b p/n/v"},
		"no image":             {cephCSIRequest(cephCSI, "pool", "rbd"), ""},
		"no pool":              {cephCSIRequest(cephCSI, "imageName", "v"), ""},
		"unknown handle":       {volume.ConnectRequest{ID: "v"}, ""},
		"blank in the image":   {volume.ConnectRequest{ID: "a/rbd/img force"}, ""},
		"line break":           {volume.ConnectRequest{ID: "a/rbd/img\n"}, ""},
		"comma in a namespace": {volume.ConnectRequest{ID: "a/rbd/n,name=admin/img"}, ""},
		"snapshot -":           {volume.ConnectRequest{ID: "a/rbd/img@-"}, ""},
	} {
		got, err := parseTarget(c.req)
		if c.want == "" {
			volumetest.WantKind(t, err, volume.KindInvalid)
			continue
		}
		if err != nil || got.cluster+" "+got.String() != c.want {
			t.Errorf("%s: %s %s, %v; want %s", name, got.cluster, got, err, c.want)
		}
	}
	for _, key := range []string{rbdcsi.ContextPoolID, rbdcsi.ContextSize} {
		req := published()
		req.PublishContext[key] = "-1"
		_, err := parseTarget(req)
		volumetest.WantKind(t, err, volume.KindInvalid)
	}
}

// cephCSIRequest returns a request with a volume context of keys and values.
func cephCSIRequest(id string, pairs ...string) volume.ConnectRequest {
	req := volume.ConnectRequest{ID: id, VolumeContext: map[string]string{}}
	for pair := range slices.Chunk(pairs, 2) {
		req.VolumeContext[pair[0]] = pair[1]
	}
	return req
}

func TestParseMapOptions(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "lock_on_read,queue_depth=1024": "lock_on_read,queue_depth=1024",
		"krbd:ms_mode=secure,noshare;nbd:timeout=5": "ms_mode=secure,noshare",
		"nbd:timeout=5":                        "",
		" crush_location=host:a|zone:b , krbd": "crush_location=host:a|zone:b,krbd",
	} {
		got, err := parseMapOptions(text)
		if err != nil || strings.Join(got, ",") != want {
			t.Errorf("%q: got %v, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{
		"exclusive", "krbd:exclusive", "key=x", "secret=x", "name=admin", "_pool_ns=x", "ro", "rw", "fsid=x", "read_only",
		"a=b c", "a=\nb", "A B", "queue_depth=", "=x", "krbd:lock_on_read exclusive",
	} {
		_, err := parseMapOptions(text)
		if err == nil {
			t.Errorf("%q: got success, want an error", text)
			continue
		}
		volumetest.WantKind(t, err, volume.KindInvalid)
	}
}

func TestMapOptionsOfARequest(t *testing.T) {
	plain := mapRequest{
		target: target{pool: "p", image: "i"}, keyName: "k",
		cluster: cluster.Cluster{Monitors: []string{"m"}, User: "u"},
	}
	for name, c := range map[string]struct {
		change  func(*mapRequest)
		noShare bool
		want    string
	}{
		"plain": {func(*mapRequest) {}, false, "m:6789 mount_timeout=20,lock_timeout=60,name=u,key=k p i -"},
		"snapshot in a namespace, with its own client": {func(r *mapRequest) {
			r.target.snapshot, r.target.namespace = "s", "n"
		}, true, "m:6789 mount_timeout=20,lock_timeout=60,noshare,ro,_pool_ns=n,name=u,key=k p i s"},
		"options of the class": {func(r *mapRequest) {
			r.options, r.readOnly = []string{"mount_timeout=5", "lock_timeout=7", "notrim"}, true
		}, false, "m:6789 mount_timeout=5,lock_timeout=7,notrim,ro,name=u,key=k p i -"},
		"CRUSH location": {func(r *mapRequest) {
			r.crushLocation = "host:a"
		}, false, "m:6789 mount_timeout=20,lock_timeout=60," +
			"read_from_replica=localize,crush_location=host:a,name=u,key=k p i -"},
		"CRUSH location, decided by the class": {func(r *mapRequest) {
			r.crushLocation, r.options = "host:a", []string{"read_from_replica=balance"}
		}, false, "m:6789 read_from_replica=balance,mount_timeout=20,lock_timeout=60,name=u,key=k p i -"},
		"second version of the protocol": {func(r *mapRequest) {
			r.options = []string{"ms_mode=secure"}
		}, false, "m:3300 ms_mode=secure,mount_timeout=20,lock_timeout=60,name=u,key=k p i -"},
		"only the second version": {func(r *mapRequest) {
			r.cluster.Monitors = []string{"m:3300"}
		}, false, "m:3300 ms_mode=prefer-crc,mount_timeout=20,lock_timeout=60,name=u,key=k p i -"},
	} {
		r := plain
		c.change(&r)
		if got, err := r.text(c.noShare); err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
	}
	for _, change := range []func(*mapRequest){
		func(r *mapRequest) { r.cluster.User = "a b" }, func(r *mapRequest) { r.cluster.User = "a,secret=x" },
		func(r *mapRequest) { r.cluster.Monitors = []string{"a b"} }, func(r *mapRequest) { r.target.image = "" },
	} {
		r := plain
		change(&r)
		_, err := r.text(false)
		volumetest.WantKind(t, err, volume.KindInvalid)
	}
}

func TestCrushLocation(t *testing.T) {
	for text, isValid := range map[string]bool{
		"host:a": true, "host:a.b-c|zone:z_1": true, "host": false, "host:": false, "host:a|": false, "host:a,ro": false,
	} {
		if err := checkCrushLocation(text); (err == nil) != isValid {
			t.Errorf("%q: %v, want valid %t", text, err, isValid)
		}
	}
}
