package kubeletwake

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"

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
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/growvol/growvol/pkg/claimcache"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/must"
)

const driver = "loop.growvol.io"

// state is the content of a fake cluster: a claim of 1 GiB whose volume has grown to 2 GiB, and the
// pod that runs with it. Tests change it before start.
type state struct {
	claim *corev1.PersistentVolumeClaim
	pv    *corev1.PersistentVolume
	pod   *corev1.Pod
	more  []client.Object
	hooks interceptor.Funcs
}

func newState() *state {
	return &state{
		claim: &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "data", UID: "claim-uid"},
			Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: "pv"},
			Status: corev1.PersistentVolumeClaimStatus{
				Phase: corev1.ClaimBound, Capacity: sizeList("1Gi"),
				AllocatedResourceStatuses: map[corev1.ResourceName]corev1.ClaimResourceStatus{
					corev1.ResourceStorage: corev1.PersistentVolumeClaimNodeResizePending,
				},
			},
		},
		pv: &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: "pv"},
			Spec: corev1.PersistentVolumeSpec{
				Capacity: sizeList("2Gi"),
				ClaimRef: &corev1.ObjectReference{Namespace: "app", Name: "data", UID: "claim-uid"},
				PersistentVolumeSource: corev1.PersistentVolumeSource{
					CSI: &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: "vol-1"},
				},
			},
		},
		pod: newPod("writer", "data"),
	}
}

func sizeList(size string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
}

// newPod returns a pod that runs with the claims.
func newPod(name string, claims ...string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: name, UID: types.UID(name + "-uid")},
		Spec:       corev1.PodSpec{NodeName: "node1", Containers: []corev1.Container{{Name: "app"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	for _, c := range claims {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "v-" + c, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c},
		}})
		p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts,
			corev1.VolumeMount{Name: "v-" + c, MountPath: "/" + c})
	}
	return p
}

// rig is a reconciler over a fake cluster that counts the patches.
type rig struct {
	*Reconciler
	t        *testing.T
	patches  map[string]int // by pod
	recorder *events.FakeRecorder
}

func (s *state) start(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, patches: map[string]int{}, recorder: events.NewFakeRecorder(100)}
	before := s.hooks.Patch
	s.hooks.Patch = func(
		ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, options ...client.PatchOption,
	) error {
		if before != nil {
			if err := before(ctx, c, o, p, options...); err != nil {
				return err
			}
		}
		r.patches[o.GetName()]++
		return c.Patch(ctx, o, p, options...)
	}
	objects := s.more
	for _, o := range []client.Object{s.claim, s.pv, s.pod} {
		if o.GetName() != "" {
			objects = append(objects, o)
		}
	}
	c := fake.NewClientBuilder().WithObjects(objects...).WithInterceptorFuncs(s.hooks).
		WithIndex(&corev1.Pod{}, claimcache.IndexClaims, claimcache.ClaimsOf).Build()
	r.Reconciler = NewReconciler(Options{
		Drivers: []string{driver}, Client: c, Live: c, Events: r.recorder,
		Metrics: NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler),
	})
	return r
}

func (r *rig) reconcile(claim string) (reconcile.Result, error) {
	return r.Reconcile(r.t.Context(), reconcile.Request{
		NamespacedName: types.NamespacedName{Namespace: "app", Name: claim},
	})
}

func (r *rig) mustReconcile(claim string) {
	r.t.Helper()
	result := must.Value(r.reconcile(claim))(r.t)
	if result != (reconcile.Result{}) {
		r.t.Errorf("got %+v, want no repetition", result)
	}
}

func (r *rig) wantPatches(want map[string]int) {
	r.t.Helper()
	if !maps.Equal(r.patches, want) {
		r.t.Errorf("got the patches %v, want %v", r.patches, want)
	}
}

func (r *rig) annotation(pod string) string {
	r.t.Helper()
	var p corev1.Pod
	must.Succeed(r.t, r.Client.Get(r.t.Context(), types.NamespacedName{Namespace: "app", Name: pod}, &p))
	return p.Annotations[AnnotationWoken]
}

// grow changes the sizes and the step of the claim.
func (r *rig) grow(claimSize, pvSize string, step corev1.ClaimResourceStatus) {
	r.t.Helper()
	var c corev1.PersistentVolumeClaim
	must.Succeed(r.t, r.Client.Get(r.t.Context(), types.NamespacedName{Namespace: "app", Name: "data"}, &c))
	c.Status.Capacity = sizeList(claimSize)
	c.Status.AllocatedResourceStatuses = nil
	if step != "" {
		c.Status.AllocatedResourceStatuses = map[corev1.ResourceName]corev1.ClaimResourceStatus{
			corev1.ResourceStorage: step,
		}
	}
	must.Succeed(r.t, r.Client.Status().Update(r.t.Context(), &c))
	var pv corev1.PersistentVolume
	must.Succeed(r.t, r.Client.Get(r.t.Context(), types.NamespacedName{Name: "pv"}, &pv))
	pv.Spec.Capacity = sizeList(pvSize)
	must.Succeed(r.t, r.Client.Update(r.t.Context(), &pv))
}

// One change of the cluster decides whether kubelet is woken.
func TestWhichPodsAreWoken(t *testing.T) {
	const fsPending = corev1.PersistentVolumeClaimFileSystemResizePending
	setStep := func(step corev1.ClaimResourceStatus) func(*state) {
		return func(s *state) { s.claim.Status.AllocatedResourceStatuses[corev1.ResourceStorage] = step }
	}
	condition := func(kind corev1.PersistentVolumeClaimConditionType, status corev1.ConditionStatus) func(*state) {
		return func(s *state) {
			s.claim.Status.AllocatedResourceStatuses = nil
			s.claim.Status.Conditions = []corev1.PersistentVolumeClaimCondition{{Type: kind, Status: status}}
		}
	}
	annotateClaim := func(value string) func(*state) {
		return func(s *state) { s.claim.Annotations = map[string]string{AnnotationEnabled: value} }
	}
	annotatePod := func(key, value string) func(*state) {
		return func(s *state) { s.pod.Annotations = map[string]string{key: value} }
	}
	for name, test := range map[string]struct {
		change func(*state)
		want   bool
	}{
		"a growth waits for the node":             {func(*state) {}, true},
		"only the condition shows it":             {condition(fsPending, "True"), true},
		"the condition has ended":                 {condition(fsPending, "False"), false},
		"the controller still resizes":            {condition(corev1.PersistentVolumeClaimResizing, "True"), false},
		"the controller is in progress":           {setStep(corev1.PersistentVolumeClaimControllerResizeInProgress), false},
		"the size is infeasible":                  {setStep(corev1.PersistentVolumeClaimControllerResizeInfeasible), false},
		"kubelet has begun":                       {setStep(corev1.PersistentVolumeClaimNodeResizeInProgress), false},
		"the node has refused":                    {setStep(corev1.PersistentVolumeClaimNodeResizeInfeasible), false},
		"no step":                                 {func(s *state) { s.claim.Status.AllocatedResourceStatuses = nil }, false},
		"the claim has the size":                  {func(s *state) { s.claim.Status.Capacity = sizeList("2Gi") }, false},
		"the claim is not bound":                  {func(s *state) { s.claim.Status.Phase = corev1.ClaimLost }, false},
		"the claim has no volume":                 {func(s *state) { s.claim.Spec.VolumeName = "" }, false},
		"the claim is gone":                       {func(s *state) { s.claim = &corev1.PersistentVolumeClaim{} }, false},
		"the volume is gone":                      {func(s *state) { s.pv = &corev1.PersistentVolume{} }, false},
		"the volume has another claim":            {func(s *state) { s.pv.Spec.ClaimRef.UID = "other" }, false},
		"the volume has no claim":                 {func(s *state) { s.pv.Spec.ClaimRef = nil }, false},
		"the driver is another":                   {func(s *state) { s.pv.Spec.CSI.Driver = "ebs.csi.aws.com" }, false},
		"the volume has no CSI driver":            {func(s *state) { s.pv.Spec.CSI = nil }, false},
		"an in-tree volume of the driver":         {migrate(driver), true},
		"an in-tree volume of another driver":     {migrate("ebs.csi.aws.com"), false},
		"the claim is excluded":                   {annotateClaim("false"), false},
		"the claim is included explicitly":        {annotateClaim("true"), true},
		"the pod is excluded":                     {annotatePod(AnnotationEnabled, "false"), false},
		"the pod is a static pod's copy":          {annotatePod(claimcache.AnnotationMirror, "hash"), false},
		"the pod ends":                            {func(s *state) { deleteObject(s.pod) }, false},
		"the claim is being deleted":              {func(s *state) { deleteObject(s.claim) }, false},
		"the pod does not run yet":                {func(s *state) { s.pod.Status.Phase = corev1.PodPending }, false},
		"the pod has succeeded":                   {func(s *state) { s.pod.Status.Phase = corev1.PodSucceeded }, false},
		"the pod has failed":                      {func(s *state) { s.pod.Status.Phase = corev1.PodFailed }, false},
		"the pod has no node":                     {func(s *state) { s.pod.Spec.NodeName = "" }, false},
		"the pod uses another claim":              {func(s *state) { s.pod = newPod("writer", "logs") }, false},
		"the pod is in another namespace":         {func(s *state) { s.pod.Namespace = "other" }, false},
		"the pod only reads the volume":           {mountReadOnly, false},
		"no container uses the volume":            {func(s *state) { s.pod.Spec.Containers[0].VolumeMounts = nil }, false},
		"a container uses the raw block volume":   {useAsDevice, true},
		"an init container uses the volume":       {useInInitContainer, true},
		"the volume is ephemeral":                 {makeEphemeral, true},
		"kubelet was woken for this size":         {annotatePod(AnnotationWoken, `{"data":2147483648}`), false},
		"kubelet was woken for a larger size":     {annotatePod(AnnotationWoken, `{"data":4294967296}`), false},
		"kubelet was woken for the size before":   {annotatePod(AnnotationWoken, `{"data":1073741824}`), true},
		"kubelet was woken for another claim":     {annotatePod(AnnotationWoken, `{"logs":2147483648}`), true},
		"the annotation is no JSON":               {annotatePod(AnnotationWoken, `yes`), true},
		"the annotation is null":                  {annotatePod(AnnotationWoken, `null`), true},
		"the annotation has a size of wrong type": {annotatePod(AnnotationWoken, `{"data":"2Gi"}`), true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newState()
			test.change(s)
			r := s.start(t)
			r.mustReconcile("data")
			r.mustReconcile("writer-data") // of an ephemeral volume
			want := map[string]int{}
			if test.want {
				want["writer"] = 1
			}
			r.wantPatches(want)
			if woken := testutil.ToFloat64(r.Metrics.wakes); int(woken) != len(want) {
				t.Errorf("got %v wakes in the metric, want %d", woken, len(want))
			}
			if len(r.recorder.Events) != len(want) {
				t.Errorf("got %d events, want %d", len(r.recorder.Events), len(want))
			}
		})
	}
}

func migrate(to string) func(*state) {
	return func(s *state) {
		s.pv.Annotations = map[string]string{"pv.kubernetes.io/migrated-to": to}
		s.pv.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{
			Cinder: &corev1.CinderPersistentVolumeSource{VolumeID: "1"},
		}
	}
}

// deleteObject marks the object as being deleted.
func deleteObject(o client.Object) {
	now := metav1.Now()
	o.SetDeletionTimestamp(&now)
	o.SetFinalizers([]string{"growvol.io/test"})
}

func mountReadOnly(s *state) { s.pod.Spec.Volumes[0].PersistentVolumeClaim.ReadOnly = true }

func useAsDevice(s *state) {
	c := &s.pod.Spec.Containers[0]
	c.VolumeMounts, c.VolumeDevices = nil, []corev1.VolumeDevice{{Name: "v-data", DevicePath: "/dev/volume"}}
}

func useInInitContainer(s *state) {
	s.pod.Spec.InitContainers = []corev1.Container{{VolumeMounts: s.pod.Spec.Containers[0].VolumeMounts}}
	s.pod.Spec.Containers[0].VolumeMounts = nil
}

func makeEphemeral(s *state) {
	s.claim.Name = "writer-data"
	s.pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
		Ephemeral: &corev1.EphemeralVolumeSource{},
	}}}
	s.pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
}

// The pod shows for which size kubelet was woken, and the claim has an event.
func TestWakeIsRecorded(t *testing.T) {
	s := newState()
	s.pod.Annotations = map[string]string{"other": "stays", AnnotationWoken: `{"logs":5}`}
	r := s.start(t)
	r.mustReconcile("data")
	if got, want := r.annotation("writer"), `{"data":2147483648,"logs":5}`; got != want {
		t.Errorf("got the annotation %s, want %s", got, want)
	}
	var p corev1.Pod
	must.Succeed(t, r.Client.Get(t.Context(), types.NamespacedName{Namespace: "app", Name: "writer"}, &p))
	if p.Annotations["other"] != "stays" {
		t.Errorf("got the annotations %v, want the other one unchanged", p.Annotations)
	}
	if e := <-r.recorder.Events; !strings.HasPrefix(e, "Normal KubeletWoken") || !strings.Contains(e, "2 GiB") ||
		!strings.Contains(e, "pod writer") || !strings.Contains(e, "node1") {
		t.Errorf("got the event %q", e)
	}
}

// Each size wakes once: not when the claim is read again, not in a second replica, not after a
// restart.
func TestEachSizeWakesOnce(t *testing.T) {
	r := newState().start(t)
	for range 3 {
		r.mustReconcile("data")
	}
	other := *r.Reconciler
	other.Metrics = NewMetrics(prometheus.NewRegistry())
	r.Reconciler = &other
	r.mustReconcile("data")
	r.wantPatches(map[string]int{"writer": 1})

	r.grow("1Gi", "2Gi", corev1.PersistentVolumeClaimNodeResizeInProgress)
	r.mustReconcile("data")
	r.grow("2Gi", "2Gi", "")
	r.mustReconcile("data")
	r.wantPatches(map[string]int{"writer": 1})

	r.grow("2Gi", "3Gi", corev1.PersistentVolumeClaimNodeResizePending)
	r.mustReconcile("data")
	r.mustReconcile("data")
	r.wantPatches(map[string]int{"writer": 2})
	if got, want := r.annotation("writer"), `{"data":3221225472}`; got != want {
		t.Errorf("got the annotation %s, want %s", got, want)
	}
}

// All pods that can write are woken, on each node; the others are not.
func TestEveryPodOfTheClaimIsWoken(t *testing.T) {
	s := newState()
	second, reader, ended := newPod("second", "data"), newPod("reader", "data"), newPod("ended", "data")
	second.Spec.NodeName = "node2"
	reader.Spec.Volumes[0].PersistentVolumeClaim.ReadOnly = true
	ended.Status.Phase = corev1.PodSucceeded
	s.more = []client.Object{second, reader, ended}
	r := s.start(t)
	r.mustReconcile("data")
	r.wantPatches(map[string]int{"writer": 1, "second": 1})
}

// A pod has changed since it was read: nothing is written, and the claim is treated again soon. The
// annotation for another claim, which another worker has written meanwhile, stays.
func TestConflictIsRepeated(t *testing.T) {
	s := newState()
	s.pod = newPod("writer", "data", "logs")
	isChanged := false
	s.hooks.Patch = func(
		ctx context.Context, c client.WithWatch, o client.Object, _ client.Patch, _ ...client.PatchOption,
	) error {
		if isChanged {
			return nil
		}
		isChanged = true
		var p corev1.Pod
		if err := c.Get(ctx, client.ObjectKeyFromObject(o), &p); err != nil {
			return err
		}
		p.Annotations = map[string]string{AnnotationWoken: `{"logs":7}`}
		return c.Update(ctx, &p)
	}
	r := s.start(t)
	result := must.Value(r.reconcile("data"))(t)
	if result.RequeueAfter != conflictPause {
		t.Errorf("got %+v after a conflict, want a repetition after %s", result, conflictPause)
	}
	if got := r.annotation("writer"); got != `{"logs":7}` {
		t.Errorf("got the annotation %s after a conflict, want it unchanged", got)
	}
	r.mustReconcile("data")
	if got, want := r.annotation("writer"), `{"data":2147483648,"logs":7}`; got != want {
		t.Errorf("got the annotation %s, want %s", got, want)
	}
}

// A pod of the same name was created since the pod was read: it is not changed.
func TestPatchNamesThePod(t *testing.T) {
	s := newState()
	patch := string(must.Value(newWakePatch(s.pod, "data", 2*volume.GiB))(t))
	want := `{"metadata":{"annotations":{"growvol.io/kubelet-woken-for":"{\"data\":2147483648}"},` +
		`"resourceVersion":"","uid":"writer-uid"}}`
	if patch != want {
		t.Errorf("got the patch %s, want %s", patch, want)
	}
}

// One pod that cannot be changed keeps no other from being woken, and the error names both.
func TestAnErrorIsReturnedAndTheOthersAreWoken(t *testing.T) {
	s := newState()
	s.more = []client.Object{newPod("second", "data"), newPod("third", "data")}
	pods := schema.GroupResource{Resource: "pods"}
	s.hooks.Patch = func(
		_ context.Context, _ client.WithWatch, o client.Object, _ client.Patch, _ ...client.PatchOption,
	) error {
		switch o.GetName() {
		case "second":
			return apierrors.NewForbidden(pods, o.GetName(), errors.New("no right"))
		case "third":
			return apierrors.NewNotFound(pods, o.GetName()) // it is gone
		}
		return nil
	}
	r := s.start(t)
	_, err := r.reconcile("data")
	if err == nil || !strings.Contains(err.Error(), "pod app/second") || !strings.Contains(err.Error(), "claim data") ||
		strings.Contains(err.Error(), "third") || !apierrors.IsForbidden(err) {
		t.Errorf("got the error %v, want one that names the pod and the claim", err)
	}
	r.wantPatches(map[string]int{"writer": 1})
	if failures := testutil.ToFloat64(r.Metrics.failures); failures != 1 {
		t.Errorf("got %v failures in the metric, want 1", failures)
	}
}

// Errors of reading are returned, so that the claim is treated again.
func TestErrorsOfReadingAreReturned(t *testing.T) {
	for _, kind := range []string{"PersistentVolumeClaim", "PersistentVolume", "PodList"} {
		s := newState()
		fail := func(o any) error {
			if strings.HasSuffix(fmt.Sprintf("%T", o), "."+kind) {
				return errors.New("the API server is down")
			}
			return nil
		}
		s.hooks.Get = func(
			ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, options ...client.GetOption,
		) error {
			return errors.Join(fail(o), c.Get(ctx, key, o, options...))
		}
		s.hooks.List = func(
			ctx context.Context, c client.WithWatch, l client.ObjectList, options ...client.ListOption,
		) error {
			return errors.Join(fail(l), c.List(ctx, l, options...))
		}
		r := s.start(t)
		if _, err := r.reconcile("data"); err == nil || !strings.Contains(err.Error(), "the API server is down") {
			t.Errorf("%s: got the error %v, want that of the API server", kind, err)
		}
		r.wantPatches(map[string]int{})
	}
}

// The metric has the time from the wake until the claim has the size, once.
func TestGrowthIsMeasured(t *testing.T) {
	r := newState().start(t)
	r.mustReconcile("data")
	r.grow("1Gi", "2Gi", corev1.PersistentVolumeClaimNodeResizeInProgress)
	r.mustReconcile("data")
	if n := observations(t, r.Metrics); n != 0 {
		t.Errorf("got %d observations before the claim has the size, want none", n)
	}
	r.grow("2Gi", "2Gi", "")
	r.mustReconcile("data")
	r.mustReconcile("data")
	if n := observations(t, r.Metrics); n != 1 {
		t.Errorf("got %d observations, want 1", n)
	}
}

func observations(t *testing.T, m *Metrics) uint64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(m.growth)
	families := must.Value(registry.Gather())(t)
	return families[0].GetMetric()[0].GetHistogram().GetSampleCount()
}

// A pod that begins to run causes a look at its claims; other changes do not.
func TestPodsThatBeginToRunAreSeen(t *testing.T) {
	becomes := becomesWakeable()
	running, starting := newPod("writer", "data", "logs"), newPod("writer", "data", "logs")
	starting.Status.Phase = corev1.PodPending
	for name, test := range map[string]struct{ got, want bool }{
		"created running":  {becomes.Create(event.CreateEvent{Object: running}), true},
		"created pending":  {becomes.Create(event.CreateEvent{Object: starting}), false},
		"begins to run":    {becomes.Update(event.UpdateEvent{ObjectOld: starting, ObjectNew: running}), true},
		"continues to run": {becomes.Update(event.UpdateEvent{ObjectOld: running, ObjectNew: running}), false},
		"ends":             {becomes.Update(event.UpdateEvent{ObjectOld: running, ObjectNew: starting}), false},
		"deleted":          {becomes.Delete(event.DeleteEvent{Object: running}), false},
	} {
		if test.got != test.want {
			t.Errorf("%s: got %t, want %t", name, test.got, test.want)
		}
	}
	if got, want := fmt.Sprint(requestsOf(t.Context(), running)), "[app/data app/logs]"; got != want {
		t.Errorf("got the requests %s, want %s", got, want)
	}
}
