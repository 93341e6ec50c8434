package kubernetes_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/must"
)

// maxWokenCinder is the longest time of a growth of a Cinder volume with the operator. kubelet
// alone needs more: it synchronizes the pod a minute after the pod has started.
const maxWokenCinder = 30 * time.Second

// testWoken grows a volume of a pod whose node's kubelet has the default syncFrequency, with
// growvol-operator, as the rig installs both: it brings forward what the claim shows. wake_test.go
// has growths without it.
func (c cloudCluster) testWoken(t *testing.T) {
	s := c.newNamespace(t)
	must.Succeed(t, awaitSyncFrequency(t.Context(), instanceName, defaultSyncFrequency))
	s.createClaim(claim{name: "data", class: className("ext4"), size: "1Gi"})
	s.startWriter("writer", "data", false)
	wantSamePods := s.recordPods()

	woken := s.startGrowth("writer", "data", 2*volume.GiB)()
	t.Logf("kubelet's syncFrequency %s, volume of Cinder, with the operator: %s", defaultSyncFrequency, woken)
	if woken.inClaim > maxWokenCinder {
		t.Errorf("the claim has the size after %s, want %s at most", woken.inClaim, maxWokenCinder)
	}
	s.wantExpanded("data", "writer", mountPath, 2)
	s.wantAnnotation("writer", fmt.Sprintf(`{"data":%d}`, 2*volume.GiB))
	s.wantEvent("PersistentVolumeClaim", "data", "KubeletWoken", "2 GiB", "pod writer", instanceName)
	wantSamePods()
	s.wantData("writer")
}
