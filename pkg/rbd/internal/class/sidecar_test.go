package class

import (
	"testing"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestParametersOfTheSidecarsAreAccepted(t *testing.T) {
	parameters := map[string]string{
		"clusterID": "a", "pool": "volumes", "csi.storage.k8s.io/pv/name": "pvc-1", "csi.storage.k8s.io/pvc/name": "data",
	}
	if _, err := ParseStorage(parameters); err != nil {
		t.Errorf("got %v, want the parameters of external-provisioner accepted", err)
	}
	parameters["pol"] = "volumes"
	_, err := ParseStorage(parameters)
	volumetest.WantKind(t, err, volume.KindInvalid, `"pol"`, "clusterID")
}
