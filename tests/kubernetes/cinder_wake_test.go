package kubernetes_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/kubeletwake"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/vm"
)

// maxWokenCinder is the longest time of a growth of a Cinder volume with the operator. kubelet
// alone needs more: it synchronizes the pod a minute after the pod has started.
const maxWokenCinder = 30 * time.Second

// testWoken grows two volumes of a pod's node whose kubelet has the default syncFrequency: one with
// growvol-operator, and one that is excluded. The filesystems of both grow when the instance
// announces the larger device; the operator brings forward what the claim shows.
func (c cloudCluster) testWoken(t *testing.T) {
	s := c.newNamespace(t)
	s.installOperator(1)
	s.setInstanceSyncFrequency(defaultSyncFrequency)
	for _, name := range []string{"excluded", "data"} {
		s.createClaim(claim{name: name, class: className("ext4"), size: "1Gi"})
	}
	s.kubectl("annotate", "pvc", "excluded", kubeletwake.AnnotationEnabled+"=false")
	s.apply(s.podManifest("reader", "excluded", false, "pause"))
	s.startWriter("writer", "data", false)
	s.awaitReady("reader")
	wantSamePods := s.recordPods()

	finishExcluded := s.startGrowth("reader", "excluded", 2*volume.GiB)
	woken := s.startGrowth("writer", "data", 2*volume.GiB)()
	t.Logf("kubelet's syncFrequency %s, volume of Cinder, with the operator: %s", defaultSyncFrequency, woken)
	if woken.inClaim > maxWokenCinder {
		t.Errorf("the claim has the size after %s, want %s at most", woken.inClaim, maxWokenCinder)
	}
	s.wantExpanded("data", "writer", mountPath, 2)
	s.wantAnnotation("writer", fmt.Sprintf(`{"data":%d}`, 2*volume.GiB))
	s.wantEvent("PersistentVolumeClaim", "data", "KubeletWoken", "2 GiB", "pod writer", instanceName)
	t.Logf("kubelet's syncFrequency %s, volume of Cinder, without: %s", defaultSyncFrequency, finishExcluded())
	s.wantAnnotation("reader", "")
	wantSamePods()
	s.wantData("writer")
}

// setInstanceSyncFrequency is setSyncFrequency for the kubelet of the instance.
func (s cloudNamespace) setInstanceSyncFrequency(pause string) {
	s.Helper()
	const rigPause = "1s"
	file := filepath.Join(os.Getenv(clusterVariable), "etc", "kubelet-"+instanceName+".yaml")
	restart := func(ctx context.Context, pause string) {
		s.Helper()
		script := `busybox sed -i "s/^syncFrequency: .*/syncFrequency: $2/" "$1" && busybox killall -KILL kubelet`
		must.Value(s.c.instance.Run(ctx, vm.Command{Argv: []string{"busybox", "sh", "-c", script, "sh", file, pause}}))(s.T)
		must.Succeed(s.T, awaitSyncFrequency(ctx, instanceName, pause))
	}
	s.Cleanup(func() { restart(context.WithoutCancel(s.Context()), rigPause) })
	restart(s.Context(), pause)
}
