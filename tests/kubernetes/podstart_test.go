package kubernetes_test

import (
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// A pod that uses a raw block volume read-only starts and reads the volume, but
// cannot write to it: kubelet restricts the container's device permissions.
func TestReadOnlyBlockVolumeRefusesWrites(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi", block: true})
	s.startWriter("writer", "data", true)
	s.wantData("writer")
	s.kubectl("delete", "pod", "writer", "--wait")

	manifest := s.podManifest("reader", "data", true, "pause")
	s.apply(strings.Replace(manifest, "claimName: data", "claimName: data, readOnly: true", 1))
	s.awaitReady("reader")
	if a := s.runApp("reader", "size", devicePath); a.Device != volume.GiB.Bytes() {
		t.Errorf("got a device of %d bytes in the pod, want %d", a.Device, volume.GiB.Bytes())
	}
	out, err := s.exec("reader", "/app", "use", devicePath, "1048576")
	if err == nil {
		t.Errorf("a write to the read-only volume succeeded: %s", out)
	}
}

// A PersistentVolume may be larger than its volume, as static ones are. The pod
// starts within seconds, and the claim keeps the real size.
func TestPodStartsWhenThePersistentVolumeIsLargerThanItsVolume(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi"})
	s.kubectl("patch", "pv", s.pvc("data").Spec.VolumeName, "--patch", `{"spec":{"capacity":{"storage":"2Gi"}}}`)
	start := time.Now()
	s.startWriter("writer", "data", false)
	took := time.Since(start)
	t.Logf("the pod is ready after %.1f s", took.Seconds())
	if maxTime := time.Minute; took > maxTime { // kubelet waits 2 min for the call
		t.Errorf("the pod took %s to start, want %s at most", took, maxTime)
	}
	s.wantSize("writer", mountPath, volume.GiB)
	if got := s.pvc("data").Status.Capacity.Storage; got != "1Gi" {
		t.Errorf("got a claim of %s, want the volume's 1Gi", got)
	}
	s.wantData("writer")
}
