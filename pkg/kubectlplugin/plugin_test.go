package kubectlplugin

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/claim/bundle"
	"github.com/growvol/growvol/pkg/claim/doctor"
	"github.com/growvol/growvol/pkg/claim/reader"
	"github.com/growvol/growvol/pkg/volume"
)

var now = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// fixedStats are stats of node1.
type fixedStats []reader.PodVolumeStats

func (f fixedStats) ReadStats(context.Context, string) ([]reader.PodVolumeStats, error) {
	return f, nil
}

func storage(size string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
}

// claimOf returns a bound claim with its volume and a pod on node1.
func claimOf(name, request, capacity string) []runtime.Object {
	class := "fast"
	return []runtime.Object{
		&corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{"app": name}},
			Spec: corev1.PersistentVolumeClaimSpec{
				StorageClassName: &class, VolumeName: "pv-" + name,
				Resources: corev1.VolumeResourceRequirements{Requests: storage(request)},
			},
			Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: storage(capacity)},
		},
		&corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: "pv-" + name},
			Spec: corev1.PersistentVolumeSpec{
				Capacity: storage(capacity), PersistentVolumeSource: corev1.PersistentVolumeSource{
					CSI: &corev1.CSIPersistentVolumeSource{Driver: "loop.growvol.io", VolumeHandle: "handle"},
				},
			},
		},
		&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "pod-" + name},
			Spec: corev1.PodSpec{NodeName: "node1", Volumes: []corev1.Volume{{
				Name: "data", VolumeSource: corev1.VolumeSource{
					PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
				},
			}}},
		},
	}
}

// testPlugin is a plugin on a cluster of objects.
type testPlugin struct {
	*plugin
	client      *fake.Clientset
	nodes       doctor.NodeReader
	bundle      bundle.API
	out, errOut bytes.Buffer
}

func newTestPlugin(stats reader.Stats, objects ...runtime.Object) *testPlugin {
	allows := true
	objects = append(
		objects,
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, AllowVolumeExpansion: &allows},
	)
	p := &testPlugin{client: fake.NewClientset(objects...)}
	// The fake does not know dry runs.
	p.client.PrependReactor("patch", "persistentvolumeclaims", func(a clienttesting.Action) (bool, runtime.Object, error) {
		patch, ok := a.(clienttesting.PatchActionImpl)
		return ok && len(patch.PatchOptions.DryRun) > 0, nil, nil
	})
	p.plugin = &plugin{
		IOStreams: genericiooptions.IOStreams{In: strings.NewReader(""), Out: &p.out, ErrOut: &p.errOut},
		config:    genericclioptions.NewConfigFlags(false), now: func() time.Time { return now },
		getenv: func(string) string { return "" },
		newClients: func() (clients, error) {
			return clients{kubernetes: p.client, stats: stats, nodes: p.nodes, bundle: p.bundle}, nil
		},
	}
	return p
}

// grow lets the cluster answer each patch of a claim that is no dry run with a grown claim.
func (p *testPlugin) grow() {
	p.client.PrependReactor("patch", "persistentvolumeclaims", func(a clienttesting.Action) (bool, runtime.Object, error) {
		patch, ok := a.(clienttesting.PatchActionImpl)
		if !ok || len(patch.PatchOptions.DryRun) > 0 {
			return ok, nil, nil
		}
		name := patch.GetName()
		parts := strings.Split(string(patch.GetPatch()), `"value":"`)
		size, _, _ := strings.Cut(parts[len(parts)-1], `"`)
		grown := claimOf(name, size, size)[0]
		return true, grown, p.client.Tracker().Update(patch.GetResource(), grown, "shop")
	})
}

// want runs the plugin and fails the test unless it has the exit code and its output all words.
func (p *testPlugin) want(t *testing.T, code int, words []string, args ...string) {
	t.Helper()
	p.out.Reset()
	p.errOut.Reset()
	got := p.run(t.Context(), append(args, "--namespace", "shop"))
	if got != code {
		t.Errorf("%q: got exit code %d, want %d", args, got, code)
	}
	all := p.out.String() + p.errOut.String()
	for _, w := range words {
		if !strings.Contains(all, w) {
			t.Errorf("%q: the output does not contain %q:\n%s", args, w, all)
		}
	}
}

func TestStatusSortsByTrouble(t *testing.T) {
	infeasible := claimOf("c-stuck", "9Ti", "1Gi")
	c, ok := infeasible[0].(*corev1.PersistentVolumeClaim)
	if !ok {
		t.Fatalf("got the object %T, want a claim", infeasible[0])
	}
	c.Status.AllocatedResourceStatuses = map[corev1.ResourceName]corev1.ClaimResourceStatus{
		corev1.ResourceStorage: corev1.PersistentVolumeClaimControllerResizeInfeasible,
	}
	stats := fixedStats{}
	for name, used := range map[string]volume.Size{"a-empty": 1, "b-full": 900} {
		stats = append(stats, reader.PodVolumeStats{Namespace: "shop", Claim: name, VolumeStats: claim.VolumeStats{
			Node: "node1", Capacity: volume.GiB, Used: used * volume.MiB, Available: (1000 - used) * volume.MiB, ReadAt: now,
		}})
	}
	objects := append(claimOf("a-empty", "1Gi", "1Gi"), claimOf("b-full", "1Gi", "1Gi")...)
	p := newTestPlugin(stats, append(objects, infeasible...)...)
	p.want(t, exitDone, nil, "status", "-o", "name")
	want := "persistentvolumeclaim/c-stuck\npersistentvolumeclaim/b-full\npersistentvolumeclaim/a-empty\n"
	if got := p.out.String(); got != want {
		t.Errorf("got the order\n%swant\n%s", got, want)
	}
	p.want(t, exitDone, []string{"NAMESPACE", "stuck", "ok", "90%"}, "status", "-A")
	p.want(t, exitDone, []string{"b-full", "90%"}, "status", "-l", "app=b-full", "--no-headers")
	if strings.Contains(p.out.String(), "a-empty") || strings.Contains(p.out.String(), "NAME") {
		t.Errorf("got more than the selected claim:\n%s", p.out.String())
	}
	if strings.Contains(p.out.String(), "\x1b") {
		t.Error("the output has colors, but it is no terminal")
	}
}

func TestStatusFormats(t *testing.T) {
	p := newTestPlugin(fixedStats{}, claimOf("data", "1Gi", "1Gi")...)
	p.want(t, exitDone, []string{"LAYER", "request", "1 GiB"}, "status", "data")
	p.want(t, exitDone, []string{`"kind": "ClaimStatus"`, `"sizeBytes": 1073741824`}, "status", "pvc/data", "-o", "json")
	p.want(t, exitDone, []string{"kind: List", "kind: ClaimStatus"}, "status", "-o", "yaml")
	p.want(t, exitDone, []string{"grown"}, "status", "data", "-o", "jsonpath={.status.diagnosis.kind}")
	p.want(t, exitRefused, []string{"unable to match a printer"}, "status", "data", "-o", "xml")
	p.want(t, exitRefused, []string{"not found"}, "status", "absent")
	p.want(t, exitRefused, []string{"neither a claim nor a StatefulSet"}, "status", "pod/data")
	p.want(t, exitRefused, []string{"cannot be combined"}, "status", "data", "-A")
	p.want(t, exitDone, []string{"no claims found with the labels app=x in namespace shop"}, "status", "-l", "app=x")
}

func TestExpandExitCodes(t *testing.T) {
	p := newTestPlugin(fixedStats{}, claimOf("data", "1Gi", "1Gi")...)
	p.grow()
	p.want(t, exitDone, []string{"dry run: nothing was changed"}, "expand", "data", "2Gi", "--dry-run")
	p.want(t, exitDone, []string{"data has grown from 1 GiB to 2 GiB"}, "expand", "data", "2Gi")
	p.want(t, exitDone, []string{"already has 2 GiB"}, "expand", "data", "2Gi")
	p.want(t, exitDone, []string{"from 2 GiB to 3 GiB"}, "expand", "data", "+1Gi", "--wait=1m")
	p.want(t, exitRefused, []string{"fail", "volumes do not shrink", "nothing was changed"}, "expand", "data", "1Gi")
	p.want(t, exitRefused, []string{"is not a size"}, "expand", "data", "x")
	p.want(t, exitRefused, []string{"--wait=soon is not a time"}, "expand", "data", "4Gi", "--wait=soon")
	p.want(t, exitRefused, []string{"are for a StatefulSet"}, "expand", "data", "4Gi", "--recreate")
	p.want(t, exitUnderWay, []string{"requested", "kubectl growvol status data --namespace shop"},
		"expand", "data", "4Gi", "--wait=false")

	// The patch is accepted, and nothing works on it.
	idle := newTestPlugin(fixedStats{}, claimOf("data", "1Gi", "1Gi")...)
	idle.want(t, exitUnderWay, []string{"still under way", "no component has seen the request"},
		"expand", "data", "2Gi", "--wait=100ms")
}

func TestExpandShowsTheAPIServersRefusal(t *testing.T) {
	p := newTestPlugin(fixedStats{}, claimOf("data", "1Gi", "1Gi")...)
	p.client.PrependReactor("patch", "persistentvolumeclaims", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "persistentvolumeclaims"}, "data",
			errors.New("exceeded quota: small"))
	})
	p.want(t, exitRefused, []string{"fail", "exceeded quota: small", "nothing was changed"}, "expand", "data", "2Gi")
}

func TestExpandStopsWatchingWhenInterrupted(t *testing.T) {
	p := newTestPlugin(fixedStats{}, claimOf("data", "2Gi", "1Gi")...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p.now = func() time.Time {
		if strings.Contains(p.out.String(), "requested") {
			cancel() // as Ctrl-C does
		}
		return now
	}
	code := p.run(ctx, []string{"expand", "data", "2Gi", "--namespace", "shop"})
	if got := p.errOut.String(); code != exitUnderWay ||
		!strings.Contains(got, "no longer watched; the growth continues") {
		t.Errorf("got exit code %d and %q, want 2 and that the growth continues", code, got)
	}
}

func TestExpandStatefulSetExplainsTheTemplate(t *testing.T) {
	set := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"},
		Spec: appsv1.StatefulSetSpec{VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{
			ObjectMeta: metav1.ObjectMeta{Name: "data"},
			Spec:       corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{Requests: storage("1Gi")}},
		}}},
	}
	objects := append(claimOf("data-db-0", "1Gi", "1Gi"), claimOf("data-db-1", "1Gi", "1Gi")...)
	for _, parallel := range []string{"--parallel=false", "--parallel"} {
		p := newTestPlugin(fixedStats{}, append(objects, set)...)
		p.grow()
		p.want(t, exitDone, []string{
			"data-db-0 has grown from 1 GiB to 2 GiB", "data-db-1 has grown from 1 GiB to 2 GiB", "still has 1Gi",
			"kubectl growvol expand sts/db 2Gi --recreate --template data --namespace shop",
		}, "expand", "sts/db", "2Gi", parallel)
		for _, a := range p.client.Actions() {
			if a.GetVerb() == "delete" {
				t.Errorf("got the action %+v without --recreate", a)
			}
		}
	}
	// One claim cannot grow: no claim changes.
	objects = append(claimOf("data-db-0", "1Gi", "1Gi"), claimOf("data-db-1", "5Gi", "5Gi")...)
	p := newTestPlugin(fixedStats{}, append(objects, set)...)
	p.want(t, exitRefused, []string{"volumes do not shrink", "nothing was changed"}, "expand", "sts/db", "2Gi")
	c, err := p.client.CoreV1().PersistentVolumeClaims("shop").Get(t.Context(), "data-db-0", metav1.GetOptions{})
	if err != nil || c.Spec.Resources.Requests.Storage().String() != "1Gi" {
		t.Errorf("got a request of %s and %v, want 1Gi", c.Spec.Resources.Requests.Storage(), err)
	}
}

func TestCompletion(t *testing.T) {
	p := newTestPlugin(fixedStats{}, claimOf("data", "1Gi", "1Gi")...)
	code := p.run(t.Context(), []string{"__complete", "--namespace", "shop", "status", "da"})
	if got := p.out.String(); code != exitDone || !strings.HasPrefix(got, "data\n") {
		t.Errorf("got exit code %d and %q, want the claim data", code, got)
	}
}
