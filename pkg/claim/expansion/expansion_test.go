package expansion

import (
	"context"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/growvol/growvol/pkg/claim/reader"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// noStats are the stats of nodes that report nothing.
type noStats struct{}

func (noStats) ReadStats(context.Context, string) ([]reader.PodVolumeStats, error) { return nil, nil }

func storage(size string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
}

// claimOf returns a bound claim with the request and the capacity.
func claimOf(request, capacity string) *corev1.PersistentVolumeClaim {
	class := "fast"
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data", UID: "uid"},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class, VolumeName: "pv",
			Resources: corev1.VolumeResourceRequirements{Requests: storage(request)},
		},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: storage(capacity)},
	}
}

// withStep adds a resize status of an operation to the size, and a condition.
func withStep(
	c *corev1.PersistentVolumeClaim,
	step, allocated, condition, message string,
) *corev1.PersistentVolumeClaim {
	c.Status.AllocatedResourceStatuses = map[corev1.ResourceName]corev1.ClaimResourceStatus{
		corev1.ResourceStorage: corev1.ClaimResourceStatus(step),
	}
	c.Status.AllocatedResources = storage(allocated)
	c.Status.Conditions = []corev1.PersistentVolumeClaimCondition{{
		Type: corev1.PersistentVolumeClaimConditionType(condition), Status: corev1.ConditionTrue, Message: message,
	}}
	return c
}

func pod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db-0"},
		Spec: corev1.PodSpec{NodeName: "node1", Volumes: []corev1.Volume{{
			Name: "data", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"},
			},
		}}},
	}
}

func class(allows bool) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, AllowVolumeExpansion: &allows}
}

func newExpander(objects ...runtime.Object) (*Expander, *fake.Clientset) {
	client := fake.NewClientset(objects...)
	return &Expander{
		Client: client, Reader: &reader.Reader{Client: client, Stats: noStats{}, Now: time.Now},
	}, client
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]string{
		"20Gi": "20Gi", "+5Gi": "+5Gi", "1.5Ti": "1536Gi", "": "", "+": "", "++1Gi": "", "-1Gi": "", "0": "", "large": "",
	} {
		s, err := ParseSize(text)
		got := ""
		if err == nil {
			if got = s.Quantity.String(); s.IsAdded {
				got = "+" + got
			}
		} else {
			volumetest.WantKind(t, err, volume.KindInvalid)
		}
		if got != want {
			t.Errorf("ParseSize(%q) = %q (%v), want %q", text, got, err, want)
		}
	}
}

func TestTargetOfAnAddedSize(t *testing.T) {
	size := Size{Quantity: resource.MustParse("5Gi"), IsAdded: true}
	got, err := size.Target(claimOf("10Gi", "10Gi"))
	if err != nil || got.String() != "15Gi" {
		t.Errorf("got %s and %v, want 15Gi", got.String(), err)
	}
	// Called again while the first growth runs, it would add twice.
	_, err = size.Target(claimOf("15Gi", "10Gi"))
	volumetest.WantKind(t, err, volume.KindPrecondition)
}

func TestChecks(t *testing.T) {
	pending := claimOf("1Gi", "1Gi")
	pending.Status.Phase = corev1.ClaimPending
	noClass := claimOf("1Gi", "1Gi")
	noClass.Spec.StorageClassName = nil
	for name, test := range map[string]struct {
		claim   *corev1.PersistentVolumeClaim
		objects []runtime.Object
		target  string
		refused bool
		words   string
	}{
		"grows":         {claimOf("1Gi", "1Gi"), []runtime.Object{class(true), pod()}, "2Gi", false, "2 GiB is more than"},
		"not bound":     {pending, []runtime.Object{class(true)}, "2Gi", true, "the claim is Pending"},
		"class forbids": {claimOf("1Gi", "1Gi"), []runtime.Object{class(false)}, "2Gi", true, "does not allow expansion"},
		"class is gone": {claimOf("1Gi", "1Gi"), nil, "2Gi", true, "the StorageClass fast does not exist"},
		"no class":      {noClass, nil, "2Gi", true, "has no StorageClass"},
		"shrinks":       {claimOf("2Gi", "2Gi"), []runtime.Object{class(true)}, "1Gi", true, "volumes do not shrink"},
		"has the size":  {claimOf("2Gi", "2Gi"), []runtime.Object{class(true)}, "2Gi", false, "already has 2 GiB"},
		"steps back":    {claimOf("9Ti", "1Gi"), []runtime.Object{class(true)}, "2Gi", false, "steps back from 9 TiB"},
		"to its size":   {claimOf("9Ti", "1Gi"), []runtime.Object{class(true)}, "1Gi", true, "volumes do not shrink"},
		"asked already": {claimOf("2Gi", "1Gi"), []runtime.Object{class(true)}, "2Gi", false, "already requests 2 GiB"},
		"without a pod": {claimOf("1Gi", "1Gi"), []runtime.Object{class(true)}, "2Gi", false, "no pod uses the claim"},
		"node is behind": {
			withStep(claimOf("2Gi", "1Gi"), "NodeResizePending", "2Gi", "FileSystemResizePending", ""),
			[]runtime.Object{class(true), pod()},
			"3Gi", false, "has not finished the previous growth",
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, _ := newExpander(append(test.objects, test.claim)...)
			checks := e.Check(t.Context(), e.Reader.Objects(t.Context(), test.claim), resource.MustParse(test.target))
			var texts []string
			for _, c := range checks {
				texts = append(texts, string(c.Verdict)+" "+c.Text)
			}
			all := strings.Join(texts, "\n")
			if Refused(checks) != test.refused || !strings.Contains(all, test.words) {
				t.Errorf("got refused %t, want %t with %q:\n%s", Refused(checks), test.refused, test.words, all)
			}
		})
	}
}

// The patch holds the size that was read: a change in between makes it fail.
func TestRequestFailsWhenTheRequestHasChanged(t *testing.T) {
	c := claimOf("1Gi", "1Gi")
	e, client := newExpander(c)
	if err := e.Request(t.Context(), c, resource.MustParse("2Gi"), true); err != nil {
		t.Fatal(err)
	}
	patch, ok := client.Actions()[0].(clienttesting.PatchActionImpl)
	if !ok || patch.PatchOptions.DryRun[0] != metav1.DryRunAll {
		t.Errorf("got the action %+v, want a patch with dry run", client.Actions()[0])
	}
	const want = `[{"op":"test","path":"/spec/resources/requests/storage","value":"1Gi"},` +
		`{"op":"replace","path":"/spec/resources/requests/storage","value":"2Gi"}]`
	if got := string(patch.Patch); got != want {
		t.Errorf("got the patch %s, want %s", got, want)
	}
}

// A refusal of an earlier size, which the claim shows for a while, does not end the watch.
func TestWatchIgnoresTheRefusalOfAnEarlierSize(t *testing.T) {
	const message = "rpc error: code = OutOfRange desc = too large"
	infeasible := func(allocated string) *corev1.PersistentVolumeClaim {
		return withStep(claimOf("2Gi", "1Gi"), "ControllerResizeInfeasible", allocated, "ControllerResizeError", message)
	}
	grown := claimOf("2Gi", "2Gi")
	for name, test := range map[string]struct {
		readings []*corev1.PersistentVolumeClaim // the last one stays
		want     Outcome
		last     Stage
	}{
		"earlier refusal, then grown": {
			[]*corev1.PersistentVolumeClaim{infeasible("17Ti"), infeasible("17Ti"), grown}, OutcomeGrown, StageGrown,
		},
		"refusal of this size": {
			[]*corev1.PersistentVolumeClaim{infeasible("17Ti"), infeasible("2Gi")}, OutcomeRefused, StageController,
		},
		"claim has the size, the step remains for a moment": {
			[]*corev1.PersistentVolumeClaim{
				withStep(claimOf("2Gi", "2Gi"), "NodeResizeInProgress", "2Gi", "FileSystemResizePending", ""), grown,
			}, OutcomeGrown, StageGrown,
		},
		"the node refuses": {
			[]*corev1.PersistentVolumeClaim{withStep(claimOf("2Gi", "1Gi"), "NodeResizeInProgress", "2Gi", "NodeResizeError",
				"rpc error: code = FailedPrecondition desc = read-only")}, OutcomeRefused, StageNode,
		},
		"no pod": {
			[]*corev1.PersistentVolumeClaim{
				withStep(claimOf("2Gi", "1Gi"), "NodeResizePending", "2Gi", "FileSystemResizePending", ""),
			}, OutcomeUnderWay, StageVolumeGrown,
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, client := newExpander(test.readings[0])
			if test.want != OutcomeUnderWay {
				if err := client.Tracker().Add(pod()); err != nil {
					t.Fatal(err)
				}
			}
			next := 0
			client.PrependReactor("get", "persistentvolumeclaims", func(clienttesting.Action) (bool, runtime.Object, error) {
				c := test.readings[min(next, len(test.readings)-1)]
				next++
				return true, c.DeepCopy(), nil
			})
			last := Stage(-1)
			got, _, err := e.Watch(t.Context(), test.readings[0], resource.MustParse("2Gi"), func(p Progress) { last = p.Stage })
			if err != nil || got != test.want || last != test.last {
				t.Errorf("got the outcome %d in the stage %q and %v, want %d in %q", got, last, err, test.want, test.last)
			}
		})
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	c := claimOf("2Gi", "1Gi")
	e, _ := newExpander(c, pod())
	ctx, cancel := context.WithCancel(t.Context())
	got, _, err := e.Watch(ctx, c, resource.MustParse("2Gi"), func(Progress) { cancel() })
	if err != nil || got != OutcomeUnderWay || !IsInterrupted(ctx) {
		t.Errorf("got the outcome %d and %v, want a growth under way", got, err)
	}
}

func TestWatchEndsWhenTheRequestIsLowered(t *testing.T) {
	e, _ := newExpander(claimOf("2Gi", "1Gi"), pod())
	got, _, err := e.Watch(t.Context(), claimOf("3Gi", "1Gi"), resource.MustParse("3Gi"), func(Progress) {})
	volumetest.WantKind(t, err, volume.KindPrecondition)
	if got != OutcomeRefused {
		t.Errorf("got the outcome %d, want refused", got)
	}
}

// statefulSet returns one with the templates.
func statefulSet(templates ...string) *appsv1.StatefulSet {
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{
		Namespace:       "shop",
		Name:            "db",
		UID:             "old",
		ResourceVersion: "7",
		Generation:      3,
		Labels:          map[string]string{"app": "db"},
	}}
	for _, name := range templates {
		set.Spec.VolumeClaimTemplates = append(set.Spec.VolumeClaimTemplates, corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{Requests: storage("1Gi")}},
		})
	}
	return set
}

func TestReplacementHasTheSizeInItsTemplate(t *testing.T) {
	got, err := replacementOf(statefulSet("data", "wal"), "wal", resource.MustParse("5Gi"))
	if err != nil {
		t.Fatal(err)
	}
	if got.UID != "" || got.ResourceVersion != "" || got.Labels["app"] != "db" {
		t.Errorf("got the metadata %+v, want labels without the identity of the predecessor", got.ObjectMeta)
	}
	data, wal := got.Spec.VolumeClaimTemplates[0], got.Spec.VolumeClaimTemplates[1]
	if data.Spec.Resources.Requests.Storage().String() != "1Gi" ||
		wal.Spec.Resources.Requests.Storage().String() != "5Gi" {
		t.Errorf("got the templates %+v and %+v, want 1Gi and 5Gi", data, wal)
	}
	_, err = replacementOf(statefulSet("data", "wal"), "", resource.MustParse("5Gi"))
	volumetest.WantKind(t, err, volume.KindInvalid)
}

// Nothing is deleted if the StatefulSet could not be created again.
func TestRecreateDeletesNothingWhenItIsRefused(t *testing.T) {
	owned := statefulSet("data")
	isController := true
	owned.OwnerReferences = []metav1.OwnerReference{{Kind: "Database", Name: "shop", Controller: &isController}}
	e, client := newExpander(owned)
	_, err := e.Recreate(t.Context(), owned, "data", resource.MustParse("5Gi"))
	volumetest.WantKind(t, err, volume.KindPrecondition)

	set := statefulSet("data")
	client.PrependReactor("create", "statefulsets", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, context.DeadlineExceeded
	})
	if _, err := e.Recreate(t.Context(), set, "data", resource.MustParse("5Gi")); err == nil {
		t.Error("got no error although the StatefulSet cannot be created")
	}
	for _, action := range client.Actions() {
		if action.GetVerb() == "delete" {
			t.Errorf("got the action %+v, want no deletion", action)
		}
	}
}

func TestStages(t *testing.T) {
	for _, test := range []struct {
		capacity, step string
		want           Stage
	}{
		{"1Gi", "", StageRequested},
		{"1Gi", "ControllerResizeInProgress", StageController},
		{"1Gi", "ControllerResizeInfeasible", StageController},
		{"1Gi", "NodeResizePending", StageVolumeGrown},
		{"1Gi", "NodeResizeInProgress", StageNode},
		{"2Gi", "NodeResizeInProgress", StageNode},
		{"2Gi", "", StageGrown},
		{"3Gi", "", StageGrown},
	} {
		if got := stageOf(claimOf("2Gi", test.capacity), test.step, resource.MustParse("2Gi")); got != test.want {
			t.Errorf("capacity %s, step %q: got %q, want %q", test.capacity, test.step, got, test.want)
		}
	}
}
