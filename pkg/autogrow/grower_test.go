package autogrow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/claimcache"
	"github.com/growvol/growvol/pkg/claimreadings"
	"github.com/growvol/growvol/pkg/readings"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/must"
)

// rig is a grower over a fake cluster with the claims app/data and app/other, both as newSubject
// makes them. Tests change the time, the objects and what the node reports.
type rig struct {
	*Grower
	t        *testing.T
	now      time.Time
	cluster  client.WithWatch
	recorder *events.FakeRecorder
	registry *prometheus.Registry
	free     volume.Size
	size     volume.Size // of the filesystem
}

func newRig(t *testing.T, hooks interceptor.Funcs) *rig {
	t.Helper()
	s := newSubject()
	other := s.claim.DeepCopy()
	other.Name, other.UID = "other", "other-uid"
	r := &rig{t: t, now: testTime, free: 500 * volume.MiB, size: 10 * gib}
	r.cluster = fake.NewClientBuilder().WithObjects(s.claim, other, s.class).WithStatusSubresource(s.claim).
		WithInterceptorFuncs(hooks).WithIndex(&corev1.Pod{}, claimcache.IndexAutoresizer, claimcache.AutoresizersOf).Build()
	r.restart(func(*Options) {})
	return r
}

// restart replaces the grower by one with changed options.
func (r *rig) restart(change func(*Options)) {
	r.recorder, r.registry = events.NewFakeRecorder(100), prometheus.NewRegistry()
	o := Options{
		Client: r.cluster, Live: r.cluster, Events: r.recorder, Metrics: r.registry, Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return r.now }, Pause: 10 * time.Second,
	}
	change(&o)
	r.Grower = New(o)
}

func (r *rig) claim(name string) *corev1.PersistentVolumeClaim {
	r.t.Helper()
	var c corev1.PersistentVolumeClaim
	must.Succeed(r.t, r.cluster.Get(r.t.Context(), types.NamespacedName{Namespace: "app", Name: name}, &c))
	return &c
}

// observe passes a reading of the claim on, one second after the last one, and returns when the
// next one is needed.
func (r *rig) observe(name string) time.Duration {
	r.t.Helper()
	r.now = r.now.Add(time.Second)
	v := newReading(r.free, r.now.Sub(testTime))
	v.size.Size, v.usage.Total = r.size, r.size-64*volume.MiB
	return r.Observe(r.t.Context(), claimreadings.Reading{
		Claim: r.claim(name), Node: "node1",
		Volume: &readings.Volume{ID: "vol", Layers: []readings.Layer{v.size}, Usage: &v.usage},
	})
}

// finishGrowth gives the claim the requested size.
func (r *rig) finishGrowth(name string) {
	r.t.Helper()
	c := r.claim(name)
	r.size = claim.Request(c)
	c.Status.Capacity = c.Spec.Resources.Requests
	must.Succeed(r.t, r.cluster.Status().Update(r.t.Context(), c))
}

// wantRequest fails the test unless the claim requests so many GiB.
func (r *rig) wantRequest(name string, want int) {
	r.t.Helper()
	if got := claim.Request(r.claim(name)); got != gib*volume.Size(want) {
		r.t.Errorf("claim %s: got a request of %s, want %d GiB", name, got, want)
	}
}

// wantEvent fails the test unless the only new event has all these parts; without parts, there must
// be none.
func (r *rig) wantEvent(parts ...string) {
	r.t.Helper()
	var all []string
	for len(r.recorder.Events) > 0 {
		all = append(all, <-r.recorder.Events)
	}
	if len(all) != min(len(parts), 1) {
		r.t.Fatalf("got the events %q, want %q", all, parts)
	}
	for _, part := range parts {
		if !strings.Contains(all[0], part) {
			r.t.Errorf("got the event %q, want %q in it", all[0], part)
		}
	}
}

// A filesystem that stays nearly full, whatever the claim says, makes the claim grow only after
// each growth has made it larger.
func TestClaimGrowsOnceForEachGrowth(t *testing.T) {
	r := newRig(t, interceptor.Funcs{})
	if next := r.observe("data"); next != fastInterval {
		t.Errorf("got the next reading after %s, want %s", next, fastInterval)
	}
	r.wantRequest("data", 10)
	r.observe("data")
	r.wantRequest("data", 11)
	r.wantEvent("Normal GrowthRequested", "from 10 GiB to 11 GiB", "node1")
	for range 10 { // the growth is under way
		r.observe("data")
	}
	r.wantRequest("data", 11)
	r.finishGrowth("data")
	r.size = 10 * gib // Kubernetes says that it has grown, but the filesystem has not
	for range 10 {
		r.observe("data")
	}
	r.wantRequest("data", 11)
	r.finishGrowth("data")
	r.observe("data")
	r.wantRequest("data", 11)
	r.observe("data")
	r.wantRequest("data", 13) // 11 GiB and 10 %
	r.wantEvent("GrowthRequested", "from 11 GiB to 13 GiB")
	want := `
# HELP growvol_operator_grow_requested_bytes_total Bytes by which the operator has raised requests.
# TYPE growvol_operator_grow_requested_bytes_total counter
growvol_operator_grow_requested_bytes_total 3.221225472e+09
`
	must.Succeed(
		t,
		testutil.GatherAndCompare(r.registry, strings.NewReader(want), "growvol_operator_grow_requested_bytes_total"),
	)
}

// The cache has the claim from before the last growth, which the API server and the node have.
func TestStaleCacheDoesNotGrowAgain(t *testing.T) {
	patches := 0
	r := newRig(t, interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, _ ...client.PatchOption) error {
			patches++
			return c.Patch(ctx, o, p)
		},
	})
	stale := r.claim("data")
	r.observe("data")
	r.observe("data")
	r.finishGrowth("data")
	r.size, r.free = 11*gib, 100*volume.MiB
	r.restart(func(*Options) {})
	for range 3 {
		r.now = r.now.Add(time.Second)
		v := newReading(r.free, r.now.Sub(testTime))
		r.Observe(t.Context(), claimreadings.Reading{Claim: stale, Node: "node1", Volume: &readings.Volume{
			Layers: []readings.Layer{v.size}, Usage: &v.usage, // of 10 GiB: before the growth
		}})
	}
	if r.wantRequest("data", 11); patches != 1 {
		t.Errorf("got %d patches, want only that of the growth", patches)
	}
}

func TestCooldownSurvivesARestart(t *testing.T) {
	r := newRig(t, interceptor.Funcs{})
	cooldown := func(o *Options) { o.Cooldown = time.Hour }
	r.restart(cooldown)
	r.observe("data")
	r.observe("data")
	r.wantEvent("GrowthRequested")
	r.finishGrowth("data")
	r.restart(cooldown)
	r.observe("data")
	next := r.observe("data")
	r.wantRequest("data", 11)
	r.wantEvent("Normal GrowthPostponed", "grows again after 1h0m0s")
	if next < 59*time.Minute || next > time.Hour {
		t.Errorf("got the next reading after %s, want it at the end of the cooldown", next)
	}
	r.now = r.now.Add(time.Hour)
	r.observe("data")
	r.observe("data")
	r.wantRequest("data", 13)
}

func TestFleetLimitsSurviveARestart(t *testing.T) {
	for name, row := range map[string]struct {
		fleet Fleet
		event string
	}{
		"bytes":  {Fleet{MaxBytes: gib}, "have grown by 1 GiB within an hour, of at most 1 GiB"},
		"growth": {Fleet{MaxAtOnce: 1}, "1 growths are under way, of at most 1"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, interceptor.Funcs{})
			limit := func(o *Options) { o.Fleet = row.fleet }
			r.restart(limit)
			r.observe("data")
			r.observe("data")
			r.wantRequest("data", 11)
			r.wantEvent("GrowthRequested")
			r.restart(limit)
			for range 3 {
				r.observe("other")
			}
			r.wantRequest("other", 10)
			r.wantEvent("Warning GrowthPostponed", row.event)
			r.now = r.now.Add(time.Hour)
			r.observe("other")
			r.observe("other")
			r.wantRequest("other", 11)
		})
	}
}

// The cache may not have the last patch yet when the next claim is decided on.
func TestFleetLimitsCountWhatTheCacheLacks(t *testing.T) {
	r := newRig(t, interceptor.Funcs{})
	stale := fake.NewClientBuilder().WithObjects(r.claim("data"), r.claim("other"), newSubject().class).
		WithIndex(&corev1.Pod{}, claimcache.IndexAutoresizer, claimcache.AutoresizersOf).
		WithInterceptorFuncs(interceptor.Funcs{
			Patch: func(
				ctx context.Context, _ client.WithWatch, o client.Object, p client.Patch, _ ...client.PatchOption,
			) error {
				return r.cluster.Patch(ctx, o, p)
			},
		}).Build()
	r.restart(func(o *Options) { o.Fleet, o.Client = Fleet{MaxBytes: gib}, stale })
	for range 2 {
		r.observe("data")
		r.observe("other")
	}
	r.wantRequest("data", 11)
	r.wantRequest("other", 10)
}

func TestDryRunChangesNothing(t *testing.T) {
	r := newRig(t, interceptor.Funcs{})
	r.restart(func(o *Options) { o.IsDryRun = true })
	before := r.claim("data").ResourceVersion
	for range 5 {
		r.observe("data")
	}
	if after := r.claim("data").ResourceVersion; after != before {
		t.Errorf("a dry run has changed the claim: version %s, then %s", before, after)
	}
	r.wantEvent("Normal GrowthNotRequested", "dry run: ", "from 10 GiB to 11 GiB")
}

func TestLimitIsReportedOnce(t *testing.T) {
	r := newRig(t, interceptor.Funcs{})
	c := r.claim("data")
	c.Annotations[AnnotationLimit] = "10Gi"
	must.Succeed(t, r.cluster.Update(t.Context(), c))
	for range 5 {
		r.observe("data")
	}
	r.wantEvent("Warning GrowthLimitReached", "reached its limit of 10 GiB", "next step")
	want := `
# HELP growvol_operator_grow_blocked 1 for a claim that should grow by itself and cannot, by the cause.
# TYPE growvol_operator_grow_blocked gauge
growvol_operator_grow_blocked{cause="limit",claim="data",claim_namespace="app"} 1
`
	must.Succeed(t, testutil.GatherAndCompare(r.registry, strings.NewReader(want), "growvol_operator_grow_blocked"))
	r.free = 5 * gib // data is deleted, and comes back
	r.observe("data")
	must.Succeed(t, testutil.GatherAndCompare(r.registry, strings.NewReader(""), "growvol_operator_grow_blocked"))
	r.free = 500 * volume.MiB
	r.observe("data")
	r.wantEvent()
	r.free = 5 * gib
	r.observe("data")
	r.now, r.free = r.now.Add(repeatAfter), 500*volume.MiB
	r.observe("data")
	r.wantEvent("GrowthLimitReached")
	r.Retain(nil)
	must.Succeed(t, testutil.GatherAndCompare(r.registry, strings.NewReader(""), "growvol_operator_grow_blocked"))
}

// The API server refuses, for example because of a ResourceQuota: once a minute, one event.
func TestRefusalOfTheAPIServer(t *testing.T) {
	requests := 0
	r := newRig(t, interceptor.Funcs{
		Patch: func(context.Context, client.WithWatch, client.Object, client.Patch, ...client.PatchOption) error {
			requests++
			return apierrors.NewForbidden(schema.GroupResource{Resource: "persistentvolumeclaims"}, "data",
				errors.New("exceeded quota: storage"))
		},
	})
	for range 30 {
		r.observe("data")
	}
	r.wantEvent("Warning GrowthNotPossible", "exceeded quota: storage", "from 10 GiB to 11 GiB")
	if requests != 1 {
		t.Errorf("got %d requests in 30 s, want 1", requests)
	}
	r.now = r.now.Add(refusedPause)
	r.observe("data")
	if r.wantEvent(); requests != 2 {
		t.Errorf("got %d requests, want 2", requests)
	}
}

// A person changes the claim between the reading and the patch: nothing is done, and the next
// reading decides again.
func TestClaimThatChangesMeanwhile(t *testing.T) {
	isChanged := false
	r := newRig(t, interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, _ ...client.PatchOption) error {
			if !isChanged {
				isChanged = true
				var live corev1.PersistentVolumeClaim
				must.Succeed(t, c.Get(ctx, client.ObjectKeyFromObject(o), &live))
				live.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("10752Mi")
				must.Succeed(t, c.Update(ctx, &live))
			}
			if err := c.Patch(ctx, o, p); err != nil { // as the API server answers a failed test
				return apierrors.NewInvalid(schema.GroupKind{}, o.GetName(), nil)
			}
			return nil
		},
	})
	r.observe("data")
	r.observe("data")
	r.wantEvent()
	if got := r.claim("data").Spec.Resources.Requests.Storage().String(); got != "10752Mi" {
		t.Errorf("got the request %s, want that of the person", got)
	}
}

// An error of the connection may hide a success: it is counted, and the next reading decides.
func TestAnswerThatIsLost(t *testing.T) {
	r := newRig(t, interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, _ ...client.PatchOption) error {
			must.Succeed(t, c.Patch(ctx, o, p))
			return errors.New("the connection is lost")
		},
	})
	r.restart(func(o *Options) { o.Fleet = Fleet{MaxBytes: gib} })
	for range 5 {
		r.observe("data")
		r.observe("other")
	}
	r.wantRequest("data", 11)
	r.wantRequest("other", 10)
}

func TestFilesystemThatIsNotRead(t *testing.T) {
	r := newRig(t, interceptor.Funcs{})
	unread := func() {
		r.Observe(t.Context(), claimreadings.Reading{Claim: r.claim("data"), Node: "node1", Err: errors.New("no answer")})
	}
	r.observe("data") // low, once
	unread()
	r.now = r.now.Add(unreadAfter - time.Second)
	unread()
	r.wantEvent()
	r.now = r.now.Add(time.Second)
	unread()
	r.wantEvent("Warning FilesystemUnread", "not known for 2m0s", "no answer", "node1")
	unread()
	r.wantEvent()
	r.observe("data") // a reading from before the failure does not confirm
	r.wantRequest("data", 10)
	r.observe("data")
	r.wantRequest("data", 11)
	for _, v := range []*readings.Volume{
		{Layers: []readings.Layer{{Name: readings.LayerFilesystem, Size: gib}}}, {Usage: &readings.Usage{Total: gib}},
	} {
		if _, err := readingOf(claimreadings.Reading{Node: "node1", Volume: v}); err == nil {
			t.Errorf("got no error for a volume without usage, or without the size of the filesystem")
		}
	}
}

func TestStepsAsideForPvcAutoresizer(t *testing.T) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "resizer"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{
			{Image: "registry.example.com/mirror/pvc-autoresizer:0.20.0@sha256:0123"},
		}},
	}
	r := newRig(t, interceptor.Funcs{})
	must.Succeed(t, r.cluster.Create(t.Context(), pod))
	for range 3 {
		r.observe("data")
	}
	r.wantRequest("data", 10)
	r.wantEvent("Normal GrowthPostponed", "pvc-autoresizer runs in pod kube-system/resizer", "next step")
	must.Succeed(t, r.cluster.Delete(t.Context(), pod))

	// It is gone, but has grown the claim an hour ago; or another cluster's has.
	c := r.claim("data")
	c.Annotations[annotationResized] = "1"
	at := metav1.NewTime(testTime.Add(-time.Hour))
	c.ManagedFields = []metav1.ManagedFieldsEntry{
		{
			Manager:    "manager",
			Operation:  metav1.ManagedFieldsOperationUpdate,
			APIVersion: "v1",
			FieldsType: "FieldsV1",
			Time:       &at,
			FieldsV1:   metav1.NewFieldsV1(fmt.Sprintf(`{"f:metadata":{"f:annotations":{"f:%s":{}}}}`, annotationResized)),
		},
	}
	if cause := must.Value(
		r.otherResizer(t.Context(), c),
	)(
		t,
	); !strings.Contains(
		cause,
		"has grown it at 2026-11-28 11:00:00",
	) {
		t.Errorf("got %q for a claim that pvc-autoresizer has grown an hour ago", cause)
	}
	at = metav1.NewTime(testTime.Add(-25 * time.Hour))
	if cause := must.Value(r.otherResizer(t.Context(), c))(t); cause != "" {
		t.Errorf("got %q for a claim that pvc-autoresizer has grown a day ago, want nothing", cause)
	}
}

// A filesystem that is at its threshold within a few intervals is read every second.
func TestFilesystemsThatFillQuicklyAreReadOften(t *testing.T) {
	r := newRig(t, interceptor.Funcs{})
	r.free = 6 * gib
	if next := r.observe("data"); next != fastInterval {
		t.Errorf("got the next reading after %s with one reading, want %s", next, fastInterval)
	}
	r.free -= 10 * volume.MiB // in a second: the threshold is 500 s away
	if next := r.observe("data"); next == fastInterval {
		r.now = r.now.Add(r.Pause)
		next = r.observe("data")
		if next != 0 {
			t.Errorf("got the next reading after %s of a filesystem that fills slowly, want the usual interval", next)
		}
	}
	r.free -= 300 * volume.MiB
	if next := r.observe("data"); next != fastInterval {
		t.Errorf("got the next reading after %s of a filesystem that fills quickly, want %s", next, fastInterval)
	}
}

func TestOnlyClaimsThatHaveOptedInAreRead(t *testing.T) {
	r := newRig(t, interceptor.Funcs{})
	if got := r.Interval(t.Context(), r.claim("data")); got != r.Pause {
		t.Errorf("got the interval %s, want %s", got, r.Pause)
	}
	c := r.claim("data")
	c.Annotations = nil
	if got := r.Interval(t.Context(), c); got != 0 {
		t.Errorf("got the interval %s of a claim that has not opted in, want none", got)
	}
}
