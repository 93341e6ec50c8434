package growthreport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/claimcache"
	"github.com/growvol/growvol/tests/must"
)

const driver = "loop.growvol.io"

// rig is a reconciler over a fake cluster: the claim app/data of 1 GiB grows to 2 GiB, and the pod
// writer runs with it on node1, which has the driver. Tests change the time and the objects.
type rig struct {
	*Reconciler
	t        *testing.T
	now      time.Time
	recorder *events.FakeRecorder
	registry *prometheus.Registry
}

func newRig(t *testing.T, hooks interceptor.Funcs) *rig {
	t.Helper()
	size := func(s string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(s)}
	}
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "data", UID: "claim-uid"},
		Spec: corev1.PersistentVolumeClaimSpec{
			VolumeName: "pv", Resources: corev1.VolumeResourceRequirements{Requests: size("2Gi")},
		},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: size("1Gi")},
	}
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pv"},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: size("2Gi"), ClaimRef: &corev1.ObjectReference{Namespace: "app", Name: "data", UID: "claim-uid"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				CSI: &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: "vol-1"},
			},
		},
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "writer"},
		Spec: corev1.PodSpec{
			NodeName:   "node1",
			Containers: []corev1.Container{{Name: "app", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/data"}}}},
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"},
			}}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	node := &storagev1.CSINode{
		ObjectMeta: metav1.ObjectMeta{Name: "node1"},
		Spec:       storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{Name: driver, NodeID: "node1"}}},
	}
	r := &rig{
		t: t, now: time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC), recorder: events.NewFakeRecorder(100),
		registry: prometheus.NewRegistry(),
	}
	cluster := fake.NewClientBuilder().WithObjects(c, pv, pod, node).WithInterceptorFuncs(hooks).
		WithIndex(&corev1.Pod{}, claimcache.IndexClaims, claimcache.ClaimsOf).Build()
	r.Reconciler = NewReconciler(Options{
		Drivers: []string{driver}, Client: cluster, Live: cluster, Events: r.recorder, Metrics: r.registry,
		Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return r.now },
	})
	return r
}

// setStep sets the claim's step and one condition, which begins now.
func (r *rig) setStep(step corev1.ClaimResourceStatus, kind corev1.PersistentVolumeClaimConditionType, message string) {
	r.t.Helper()
	var c corev1.PersistentVolumeClaim
	must.Succeed(r.t, r.Client.Get(r.t.Context(), types.NamespacedName{Namespace: "app", Name: "data"}, &c))
	c.Status.AllocatedResourceStatuses = map[corev1.ResourceName]corev1.ClaimResourceStatus{corev1.ResourceStorage: step}
	c.Status.Conditions = []corev1.PersistentVolumeClaimCondition{{
		Type: kind, Status: corev1.ConditionTrue, Message: message, LastTransitionTime: metav1.NewTime(r.now),
	}}
	must.Succeed(r.t, r.Client.Status().Update(r.t.Context(), &c))
}

func (r *rig) reconcile() reconcile.Result {
	r.t.Helper()
	return must.Value(r.Reconcile(r.t.Context(), reconcile.Request{
		NamespacedName: types.NamespacedName{Namespace: "app", Name: "data"},
	}))(r.t)
}

// want reconciles, and checks the state in the metric, after which time the claim is read again,
// and the event: its reason and parts of its text, or none.
func (r *rig) want(current state, again time.Duration, event ...string) {
	r.t.Helper()
	if result := r.reconcile(); result.RequeueAfter != again {
		r.t.Errorf("got a repetition after %s, want %s", result.RequeueAfter, again)
	}
	var metric strings.Builder
	metric.WriteString("# HELP growvol_operator_growths Claims that do not have the requested size, by the state of the " +
		"growth: running, unused (waits for a pod), delayed, stuck (a person has to act).\n" +
		"# TYPE growvol_operator_growths gauge\n")
	for _, s := range states() {
		count := 0
		if s == current {
			count = 1
		}
		fmt.Fprintf(&metric, "growvol_operator_growths{state=%q} %d\n", s, count)
	}
	must.Succeed(r.t, testutil.GatherAndCompare(r.registry, strings.NewReader(metric.String())))
	var got string
	select {
	case got = <-r.recorder.Events:
	default:
	}
	if (got != "") != (len(event) > 0) {
		r.t.Errorf("got the event %q, want %q", got, event)
	}
	for _, text := range event {
		if !strings.Contains(got, text) {
			r.t.Errorf("got the event %q, want %q in it", got, text)
		}
	}
}

func TestRefusalOfTheNodeIsReportedAtOnce(t *testing.T) {
	r := newRig(t, interceptor.Funcs{})
	r.setStep(corev1.PersistentVolumeClaimNodeResizeInProgress, "NodeResizeError",
		"rpc error: code = FailedPrecondition desc = cannot grow: needs CAP_SYS_RESOURCE (next step: run it privileged)")
	r.want(stateStuck, 0, "Warning GrowthStuck", "CAP_SYS_RESOURCE", "next step: run it privileged")
	r.now = r.now.Add(time.Hour)
	r.want(stateStuck, 0) // once
}

func TestErrorThatMayPassIsReportedWhenItLasts(t *testing.T) {
	r := newRig(t, interceptor.Funcs{})
	r.setStep(corev1.PersistentVolumeClaimNodeResizeInProgress, "NodeResizeError",
		"rpc error: code = Unavailable desc = the cluster does not answer")
	r.want(stateRunning, stuckAfter)
	r.now = r.now.Add(stuckAfter - time.Second)
	r.want(stateRunning, time.Second)
	r.now = r.now.Add(time.Second)
	r.want(stateStuck, 0, "Warning GrowthStuck", "the cluster does not answer")
}

func TestGrowthWithoutAnErrorIsReportedLate(t *testing.T) {
	r := newRig(t, interceptor.Funcs{})
	r.setStep(corev1.PersistentVolumeClaimNodeResizePending, corev1.PersistentVolumeClaimFileSystemResizePending, "")
	r.want(stateRunning, delayedAfter)
	r.now = r.now.Add(delayedAfter)
	r.want(stateDelayed, 0, "Warning GrowthDelayed", "kubelet has not noticed")
}

// The time of a step that no condition dates counts from the first look, and begins again with
// another step.
func TestTimeBeginsWithTheStep(t *testing.T) {
	r := newRig(t, interceptor.Funcs{})
	r.want(stateRunning, delayedAfter) // no component has seen the request
	r.now = r.now.Add(delayedAfter - time.Minute)
	r.want(stateRunning, time.Minute)
	r.setStep(corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimResizing, "")
	r.want(stateRunning, delayedAfter)
}

func TestClaimWithoutAPodIsCountedOnly(t *testing.T) {
	r := newRig(t, interceptor.Funcs{})
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "writer"}}
	must.Succeed(t, r.Client.Delete(t.Context(), pod))
	r.setStep(corev1.PersistentVolumeClaimNodeResizePending, corev1.PersistentVolumeClaimFileSystemResizePending, "")
	r.now = r.now.Add(time.Hour)
	r.want(stateUnused, 0)
}

func TestNodeWithoutTheDriverIsReported(t *testing.T) {
	r := newRig(t, interceptor.Funcs{})
	must.Succeed(t, r.Client.Delete(t.Context(), &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}))
	r.setStep(corev1.PersistentVolumeClaimNodeResizePending, corev1.PersistentVolumeClaimFileSystemResizePending, "")
	r.now = r.now.Add(stuckAfter)
	r.want(stateStuck, 0, "Warning GrowthStuck", "kubelet of node1 does not have the driver "+driver)
}

// A claim that has grown, is deleted, or is of another driver is no growth.
func TestWhatIsNoGrowth(t *testing.T) {
	for name, change := range map[string]func(*rig, *corev1.PersistentVolumeClaim){
		"grown": func(r *rig, c *corev1.PersistentVolumeClaim) {
			c.Status.AllocatedResourceStatuses, c.Status.Conditions = nil, nil
			c.Status.Capacity = c.Spec.Resources.Requests
			must.Succeed(r.t, r.Client.Status().Update(r.t.Context(), c))
		},
		"deleted": func(r *rig, c *corev1.PersistentVolumeClaim) {
			must.Succeed(r.t, r.Client.Delete(r.t.Context(), c))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, interceptor.Funcs{})
			r.setStep(corev1.PersistentVolumeClaimControllerResizeInfeasible, "ControllerResizeError",
				"rpc error: code = OutOfRange desc = the quota is used up")
			r.want(stateStuck, 0, "GrowthStuck", "the quota is used up")
			var c corev1.PersistentVolumeClaim
			must.Succeed(t, r.Client.Get(t.Context(), types.NamespacedName{Namespace: "app", Name: "data"}, &c))
			change(r, &c)
			r.want("none", 0)
		})
	}
	t.Run("other driver", func(t *testing.T) {
		r := newRig(t, interceptor.Funcs{})
		r.Drivers = []string{"ebs.csi.aws.com"}
		r.setStep(corev1.PersistentVolumeClaimControllerResizeInfeasible, "ControllerResizeError", "x")
		r.want("none", 0)
	})
}

func TestErrorsOfReadingAreReturned(t *testing.T) {
	for _, kind := range []string{"PersistentVolumeClaim", "PersistentVolume", "CSINode", "PodList"} {
		fail := func(o any) error {
			if strings.HasSuffix(fmt.Sprintf("%T", o), "."+kind) {
				return errors.New("the API server is down")
			}
			return nil
		}
		isDown := false
		r := newRig(t, interceptor.Funcs{
			Get: func(
				ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, options ...client.GetOption,
			) error {
				if err := fail(o); err != nil && isDown {
					return err
				}
				return c.Get(ctx, key, o, options...)
			},
			List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, options ...client.ListOption) error {
				return errors.Join(fail(l), c.List(ctx, l, options...))
			},
		})
		r.setStep(corev1.PersistentVolumeClaimNodeResizePending, corev1.PersistentVolumeClaimFileSystemResizePending, "")
		isDown = true
		_, err := r.Reconcile(t.Context(), reconcile.Request{
			NamespacedName: types.NamespacedName{Namespace: "app", Name: "data"},
		})
		if err == nil || !strings.Contains(err.Error(), "the API server is down") {
			t.Errorf("%s: got the error %v, want that of the API server", kind, err)
		}
	}
}

// The API server refuses longer texts.
func TestNoteIsShortEnough(t *testing.T) {
	note := noteOf(claim.Diagnosis{Subject: "s", Problem: strings.Repeat("€", 500)})
	if len(note) > maxNote || len(note) < maxNote-4 || !utf8.ValidString(note) {
		t.Errorf("got a text of %d bytes, valid: %t; want %d at most", len(note), utf8.ValidString(note), maxNote)
	}
}
