package kubernetes_test

import (
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// A raw block volume that a pod asks for read-only. kubelet enforces that by
// the container's device permissions; the pod starts, reads, and cannot write.
func TestRawBlockReadOnly(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.claim(claim{name: "data", class: xfs, size: "1Gi", block: true})
	s.pod("writer", "data", true)
	s.wantData("writer")
	s.kubectl("delete", "pod", "writer", "--wait")

	readOnly := strings.Replace(s.podManifest("reader", "data", true, "pause"), "claimName: data", "claimName: data, readOnly: true", 1)
	s.apply(readOnly)
	s.ready("reader")
	if a := s.ask("reader", "size", device); a.Device != volume.GiB.Bytes() {
		t.Errorf("the pod sees a device of %d bytes, want %d", a.Device, volume.GiB.Bytes())
	}
	if out, err := kubectl(t.Context(), "--namespace", s.name, "exec", "reader", "--", "/app", "use", device, "1048576"); err == nil {
		t.Errorf("the pod has written to a volume that it has read-only: %s", out)
	}
}

// A PersistentVolume that says more than the volume has, as static ones do:
// the pod has its data within seconds, and nobody claims a growth.
func TestPersistentVolumeThatSaysTooMuch(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.claim(claim{name: "data", class: xfs, size: "1Gi"})
	s.kubectl("patch", "pv", s.pvc("data").Spec.VolumeName, "--patch", `{"spec":{"capacity":{"storage":"2Gi"}}}`)
	begin := time.Now()
	s.pod("writer", "data", false)
	took := time.Since(begin)
	t.Logf("the pod is ready %.1f s after it was made", took.Seconds())
	if limit := time.Minute; took > limit { // kubelet's own limit for the call is 2 min
		t.Errorf("the pod took %s to start, want %s at most", took, limit)
	}
	s.wantSize("writer", mounted, volume.GiB)
	if got := s.pvc("data").Status.Capacity.Storage; got != "1Gi" {
		t.Errorf("the claim says %s, the volume has 1Gi", got)
	}
	s.wantData("writer")
}
