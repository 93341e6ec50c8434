package cinder

import (
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/class"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

const billing = `{"billing": "team-a", "x/y z": ""}`

// hasMetadata fails the test unless the metadata are exactly those.
func hasMetadata(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("%s has the metadata %v, want %v", what, got, want)
	}
}

// The metadata of the classes are on what is made: volumes, snapshots and backups,
// beside those by which they are recognized.
func TestMetadataOfClassesAreSet(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	req := volume.CreateRequest{
		Name: "v", Size: volume.GiB,
		Parameters:        map[string]string{class.ParamMetadata: billing, metadata.PersistentVolume: "v"},
		MutableParameters: map[string]string{class.ParamMetadata: `{"x/y z": "by the attributes class"}`},
	}
	v, err := r.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	made, _ := r.cloud.Volume(v.ID)
	hasMetadata(t, "the volume", made.Metadata, map[string]string{
		metadata.Cluster: cindertest.ClusterID, metadata.PersistentVolume: "v", "billing": "team-a",
		"x/y z": "by the attributes class",
	})
	want := map[string]string{metadata.Cluster: cindertest.ClusterID, "billing": "team-a", "x/y z": ""}
	s, _ := r.cloud.Snapshot(r.ready(t, cindertest.SnapshotRequest("s", v.ID, class.ParamMetadata, billing)).ID)
	hasMetadata(t, "the snapshot", s.Metadata, want)
	ofBackup := cindertest.SnapshotRequest("b", v.ID, class.ParamType, class.TypeBackup, class.ParamMetadata, billing)
	backup := r.ready(t, ofBackup).ID
	b, _ := r.cloud.Backup(backup)
	hasMetadata(t, "the backup", b.Metadata, want)
	// Cinder gives a restored volume the metadata of the backup's volume.
	req = volume.CreateRequest{
		Name: "restored", Size: volume.GiB, Source: volume.Source{SnapshotID: backup},
		Parameters: map[string]string{class.ParamMetadata: `{"billing": "team-b"}`, metadata.PersistentVolume: "restored"},
	}
	if v, err = r.Restore(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	made, _ = r.cloud.Volume(v.ID)
	hasMetadata(t, "the restored volume", made.Metadata, map[string]string{
		metadata.Cluster: cindertest.ClusterID, metadata.PersistentVolume: "restored", metadata.RestoredFrom: backup,
		"billing": "team-b", "x/y z": "by the attributes class",
	})
}

// No message may contain a value, because values may be secret.
func TestBadMetadataAreRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.cloud.Add(fakecloud.Volume{Type: "rbd"})
	long := strings.Repeat("s3cr3t", 50)
	for text, word := range map[string]string{
		"s3cr3t":                     "JSON object",
		`["s3cr3t"]`:                 "JSON object",
		`"s3cr3t"`:                   "JSON object",
		"null":                       "JSON object",
		`{"a": 1, "b": "s3cr3t"}`:    "JSON object",
		`{"a": {"b": "s3cr3t"}}`:     "JSON object",
		`{"a": "s3cr3t"} s3cr3t`:     "JSON object",
		`{"a": null, "b": "s3cr3t"}`: `no string for the key "a"`,
		`{"": "s3cr3t"}`:             `the key ""`,
		`{"a*": "s3cr3t"}`:           `the key "a*"`,
		`{"ä": "s3cr3t"}`:            `the key "ä"`,
		`{"` + strings.Repeat("k", 256) + `": ""}`:       "1 to 255",
		`{"a": "` + long + `"}`:                          `more than 255 characters for the key "a"`,
		`{"cinder.csi.openstack.org/cluster": "s3cr3t"}`: "which this driver or Cinder sets",
		`{"Cinder.CSI.openstack.org/CLUSTER": "s3cr3t"}`: "which this driver or Cinder sets",
		`{"csi.storage.k8s.io/pv/name": "s3cr3t"}`:       "csi.storage.k8s.io/pv/name",
		`{"growvol.io/encrypted": "s3cr3t"}`:             "growvol.io/encrypted",
		`{"growvol.io/else": ""}`:                        "growvol.io/else",
		`{"src_backup_id": "s3cr3t"}`:                    "src_backup_id",
		`{"readonly": "s3cr3t"}`:                         "readonly",
		`{"Attached_Mode": "s3cr3t"}`:                    "Attached_Mode",
	} {
		parameters := map[string]string{class.ParamMetadata: text}
		_, errCreate := r.Create(t.Context(), volume.CreateRequest{Name: "v", Size: volume.GiB, Parameters: parameters})
		_, errWith := r.Create(t.Context(), volume.CreateRequest{Name: "v", Size: volume.GiB, MutableParameters: parameters})
		_, errSnapshot := r.CreateSnapshot(
			t.Context(), volume.SnapshotRequest{Name: "s", VolumeID: id, Parameters: parameters},
		)
		for _, err := range []error{errCreate, errWith, errSnapshot, r.Modify(t.Context(), id, parameters)} {
			cindertest.CheckKind(t, err, volume.KindInvalid, class.ParamMetadata, word, "next step")
			if err != nil && strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("%s: %v", text, err)
			}
		}
	}
	r.cloud.CheckCalls(t, fakecloud.CreateVolume, 0)
	r.cloud.CheckCalls(t, fakecloud.CreateSnapshot, 0)
	r.cloud.CheckCalls(t, fakecloud.SetMetadata, 0)
	for _, text := range []string{"", "  ", "{}"} {
		if err := r.Modify(t.Context(), id, map[string]string{class.ParamMetadata: text}); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// The driver allows the same lengths as Cinder.
func TestLongMetadataAreSet(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.cloud.Add(fakecloud.Volume{})
	key, value := strings.Repeat("k", 255), strings.Repeat("ü", 255)
	parameters := map[string]string{class.ParamMetadata: `{"` + key + `": "` + value + `", "A-z_:. /9": "x"}`}
	if err := r.Modify(t.Context(), id, parameters); err != nil {
		t.Fatal(err)
	}
	v, _ := r.cloud.Volume(id)
	hasMetadata(
		t, "the volume", v.Metadata, map[string]string{metadata.Cluster: cindertest.ClusterID, key: value, "A-z_:. /9": "x"},
	)
}

func TestModifyAddsMetadata(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.cloud.Add(fakecloud.Volume{
		Type: "rbd", Metadata: map[string]string{metadata.Cluster: cindertest.ClusterID, "kept": "1", "billing": "team-b"},
	})
	// the last is of --extra-modify-metadata
	class := map[string]string{
		class.ParamType: "rbd-gold", class.ParamMetadata: billing, "csi.storage.k8s.io/pvc/name": "c",
	}
	// the second time there is nothing to do
	for range 2 {
		if err := r.Modify(t.Context(), id, class); err != nil {
			t.Fatal(err)
		}
	}
	v, _ := r.cloud.Volume(id)
	hasMetadata(
		t, "the volume", v.Metadata,
		map[string]string{metadata.Cluster: cindertest.ClusterID, "kept": "1", "billing": "team-a", "x/y z": ""},
	)
	if v.Type != "rbd-gold" {
		t.Errorf("type %s", v.Type)
	}
	r.cloud.CheckCalls(t, fakecloud.SetMetadata, 1)
	r.cloud.CheckCalls(t, fakecloud.RetypeVolume, 1)
}

// A refused type is no reason to change anything else.
func TestRefusedRetypeLeavesTheMetadata(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.cloud.Add(fakecloud.Volume{Type: "rbd"})
	r.cloud.OnCall(fakecloud.RetypeVolume, fakecloud.Refused())
	cindertest.CheckKind(
		t, r.Modify(t.Context(), id, map[string]string{class.ParamType: "rbd-gold", class.ParamMetadata: billing}),
		volume.KindInvalid,
	)
	v, _ := r.cloud.Volume(id)
	hasMetadata(t, "the volume", v.Metadata, cindertest.Own())
}

func TestModifyOfMetadataThroughFaults(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]fakecloud.Fault{
		"lost": fakecloud.LostReply(), "cut off": fakecloud.CutOff(), "500": cindertest.Broken(),
		"token": fakecloud.TokenExpires(), "a page": fakecloud.WrongContentType(), "truncated": fakecloud.Truncated(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, fakecloud.Options{})
			id := r.cloud.Add(fakecloud.Volume{})
			r.cloud.OnCall(fakecloud.SetMetadata, fault)
			class := map[string]string{class.ParamMetadata: billing}
			err := r.Modify(t.Context(), id, class)
			if err != nil {
				cindertest.CheckKind(t, err, volume.KindUnavailable)
				err = r.Modify(t.Context(), id, class)
			}
			if err != nil {
				t.Error(err)
			}
			v, _ := r.cloud.Volume(id)
			hasMetadata(
				t, "the volume", v.Metadata,
				map[string]string{metadata.Cluster: cindertest.ClusterID, "billing": "team-a", "x/y z": ""},
			)
		})
	}
}

// Success needs the metadata read back, whatever the answer was.
func TestModifyFailsWhenCinderDropsTheMetadata(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.cloud.Add(fakecloud.Volume{})
	class := map[string]string{class.ParamMetadata: billing}
	r.cloud.OnCall(fakecloud.SetMetadata, fakecloud.Status(http.StatusOK, ""))
	cindertest.CheckKind(
		t, r.Modify(t.Context(), id, class), volume.KindUnavailable, id, "still lacks billing, x/y z", "next step",
	)
	if err := r.Modify(t.Context(), id, class); err != nil {
		t.Error(err)
	}
	busy := r.cloud.Add(fakecloud.Volume{Status: "maintenance"})
	cindertest.CheckKind(t, r.Modify(t.Context(), busy, class), volume.KindInProgress, "maintenance")
	cindertest.CheckKind(t, r.Modify(t.Context(), "no-such-volume", class), volume.KindNotFound)
}
