package metadata

import (
	"testing"

	"github.com/growvol/growvol/pkg/volume"
)

func TestRecordNamesTheClaim(t *testing.T) {
	r := New("1022", "a", volume.CreateRequest{Name: "pvc-1", Parameters: map[string]string{
		"csi.storage.k8s.io/pv/name": "pvc-1", "csi.storage.k8s.io/pvc/name": "data",
		"csi.storage.k8s.io/pvc/namespace": "shop",
	}})
	if r.PersistentVolume != "pvc-1" || r.Claim != "shop/data" {
		t.Errorf("got %q and %q, want pvc-1 and shop/data", r.PersistentVolume, r.Claim)
	}
	if r := New("1022", "a", volume.CreateRequest{Name: "v"}); r.Claim != "" {
		t.Errorf("got the claim %q without the parameters of the sidecar, want none", r.Claim)
	}
}
