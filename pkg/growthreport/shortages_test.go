package growthreport

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/growvol/growvol/pkg/claimreadings"
	"github.com/growvol/growvol/pkg/readings"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/must"
)

// shortageRig is a Shortages over the cluster of a rig, in which the claim has had 2 GiB since an
// hour ago.
type shortageRig struct {
	*rig
	*Shortages
	grown metav1.Time // when the claim's capacity was written
}

func newShortageRig(t *testing.T) *shortageRig {
	t.Helper()
	r := &shortageRig{}
	r.rig = newRig(t, interceptor.Funcs{Get: func(
		ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, options ...client.GetOption,
	) error {
		err := c.Get(ctx, key, o, options...)
		o.SetManagedFields([]metav1.ManagedFieldsEntry{{
			Subresource: "status", Time: &r.grown,
			FieldsV1: metav1.NewFieldsV1(`{"f:status":{"f:capacity":{"f:storage":{}}}}`),
		}})
		return err
	}})
	r.Shortages = NewShortages(r.rig.Options)
	r.grown = metav1.NewTime(r.now.Add(-time.Hour))
	c := r.claim()
	c.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}
	must.Succeed(t, r.rig.Client.Status().Update(t.Context(), c))
	return r
}

func (r *shortageRig) claim() *corev1.PersistentVolumeClaim {
	r.t.Helper()
	var c corev1.PersistentVolumeClaim
	must.Succeed(r.t, r.Live.Get(r.t.Context(), types.NamespacedName{Namespace: "app", Name: "data"}, &c))
	return &c
}

// observe passes on a reading of the layer, ten seconds after the last one.
func (r *shortageRig) observe(layer readings.LayerName, size volume.Size) time.Duration {
	r.t.Helper()
	r.now = r.now.Add(10 * time.Second)
	return r.Observe(r.t.Context(), claimreadings.Reading{Claim: r.claim(), Node: "node1", Volume: &readings.Volume{
		Layers: []readings.Layer{{Name: layer, Size: size, ReadAt: r.now}},
	}})
}

// wantShortage fails the test unless the metric has the missing bytes, and the only new event has
// these parts; without parts, there must be none.
func (r *shortageRig) wantShortage(missing volume.Size, event ...string) {
	r.t.Helper()
	metric := ""
	if missing > 0 {
		metric = "# HELP growvol_operator_filesystem_missing_bytes Bytes by which the filesystem of a claim in use is " +
			"smaller than the claim says, if it is.\n# TYPE growvol_operator_filesystem_missing_bytes gauge\n" +
			fmt.Sprintf("growvol_operator_filesystem_missing_bytes{claim=\"data\",claim_namespace=\"app\"} %g\n",
				float64(missing))
	}
	must.Succeed(r.t, testutil.GatherAndCompare(r.registry, strings.NewReader(metric),
		"growvol_operator_filesystem_missing_bytes"))
	if got := len(r.recorder.Events); got != min(len(event), 1) {
		r.t.Fatalf("got %d events, want %q", got, event)
	}
	if len(event) == 0 {
		return
	}
	got := <-r.recorder.Events
	for _, part := range event {
		if !strings.Contains(got, part) {
			r.t.Errorf("got the event %q, want %q in it", got, part)
		}
	}
}

func TestShortFilesystemIsReportedOnce(t *testing.T) {
	r := newShortageRig(t)
	if next := r.observe(readings.LayerFilesystem, volume.GiB); next != confirmInterval {
		t.Errorf("got the second reading after %s, want %s", next, confirmInterval)
	}
	r.wantShortage(0)
	r.observe(readings.LayerFilesystem, volume.GiB)
	r.wantShortage(volume.GiB, "Warning FilesystemShort", "the claim has 2 GiB, but its filesystem has 1 GiB",
		"12:00:20 on node1", "1 GiB are missing", "next step: delete the pod")
	r.observe(readings.LayerFilesystem, volume.GiB)
	r.wantShortage(volume.GiB)
	r.observe(readings.LayerFilesystem, 2*volume.GiB)
	r.wantShortage(0)
}

func TestShortDeviceOfARawBlockVolume(t *testing.T) {
	r := newShortageRig(t)
	c, block := r.claim(), corev1.PersistentVolumeBlock
	c.Spec.VolumeMode = &block
	must.Succeed(t, r.rig.Client.Update(t.Context(), c))
	r.observe(readings.LayerDevice, volume.GiB)
	r.observe(readings.LayerDevice, volume.GiB)
	r.wantShortage(volume.GiB, "its device has 1 GiB")
	r.Retain(nil)
	r.wantShortage(0)
}

// What is no shortage: a part that belongs to no filesystem, a growth that runs, readings from
// before the growth, one reading that is repeated, and a layer that was not read.
func TestWhatIsNoShortage(t *testing.T) {
	for name, run := range map[string]func(*shortageRig){
		"unused end": func(r *shortageRig) {
			r.observe(readings.LayerFilesystem, 2*volume.GiB-32*volume.MiB)
			r.observe(readings.LayerFilesystem, 2*volume.GiB-32*volume.MiB)
		},
		"step": func(r *shortageRig) {
			r.setStep(corev1.PersistentVolumeClaimNodeResizePending, corev1.PersistentVolumeClaimFileSystemResizePending, "")
			r.observe(readings.LayerFilesystem, volume.GiB)
			r.observe(readings.LayerFilesystem, volume.GiB)
		},
		"read before the growth": func(r *shortageRig) {
			r.observe(readings.LayerFilesystem, volume.GiB)
			r.grown = metav1.NewTime(r.now.Add(-time.Second)) // within the difference of clocks
			r.observe(readings.LayerFilesystem, volume.GiB)
		},
		"repeated": func(r *shortageRig) {
			r.observe(readings.LayerFilesystem, volume.GiB)
			r.now = r.now.Add(-10 * time.Second)
			r.observe(readings.LayerFilesystem, volume.GiB)
		},
		"grows": func(r *shortageRig) {
			r.observe(readings.LayerFilesystem, volume.GiB)
			r.observe(readings.LayerFilesystem, volume.GiB+512*volume.MiB)
		},
		"other layer": func(r *shortageRig) {
			r.observe(readings.LayerDevice, volume.GiB)
			r.observe(readings.LayerDevice, volume.GiB)
		},
		"not read": func(r *shortageRig) {
			r.Observe(t.Context(), claimreadings.Reading{Claim: r.claim(), Node: "node1", Err: errors.New("no answer")})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newShortageRig(t)
			run(r)
			r.wantShortage(0)
		})
	}
}
