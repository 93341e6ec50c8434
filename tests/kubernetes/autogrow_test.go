package kubernetes_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/autogrow"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/must"
)

// The rig's values install the operator, which grows claims that have opted in.

// optIn lets a claim grow by itself up to the limit, with further annotations as key=value.
func (s namespace) optIn(claim, limit string, more ...string) {
	s.Helper()
	s.kubectl(append([]string{
		"annotate", "pvc", claim, autogrow.AnnotationEnabled + "=true", autogrow.AnnotationLimit + "=" + limit,
	}, more...)...)
}

// startFiller starts a pod that occupies percent of the filesystem's size each second, without end.
func (s namespace) startFiller(name, claim string, percent int) {
	s.Helper()
	s.apply(s.appPod(name, fmt.Sprintf(`fill, %s, "%d"`, mountPath, percent),
		"volumeMounts: [{name: volume, mountPath: "+mountPath+"}]",
		"{name: volume, persistentVolumeClaim: {claimName: "+claim+"}}"))
	s.awaitReady(name)
}

// occupy fills so many bytes of the pod's volume.
func (s namespace) occupy(pod string, size volume.Size) {
	s.Helper()
	s.runApp(pod, "occupy", mountPath, fmt.Sprint(size.Bytes()))
}

// wantFilled ends a filler, and fails the test if it met a filesystem without space, or if data is
// lost.
func (s namespace) wantFilled(pod string) {
	s.Helper()
	a := s.runApp(pod, "stop")
	s.Logf("%s: %d MiB written, never without space", pod, a.Bytes>>20)
}

// awaitOperatorMetric waits until one of the operator's replicas has the series with the value 1.
func (s namespace) awaitOperatorMetric(series string) {
	s.Helper()
	s.eventually(func(ctx context.Context) error {
		pods, err := kubectl(ctx, "get", "pods", "--namespace", s.release, "--selector", operatorPods,
			"-o", "jsonpath={.items[*].metadata.name}")
		for pod := range strings.FieldsSeq(pods) {
			metrics, readErr := kubectl(ctx, "get", "--raw",
				"/api/v1/namespaces/"+s.release+"/pods/"+pod+":9810/proxy/metrics")
			if strings.Contains(metrics, series+" 1\n") {
				return nil
			}
			err = errors.Join(err, readErr)
		}
		return errors.Join(err, fmt.Errorf("no pod of the operator has the metric %s 1", series))
	})
}

// request returns the requested size of the claim.
func (s namespace) request(claim string) string {
	s.Helper()
	return s.kubectl("get", "pvc", claim, "-o", "jsonpath={.spec.resources.requests.storage}")
}

// A pod that writes without end never finds its filesystem full, while the claim grows from 1 to 8
// GiB. At the limit, there is an event and a metric before the filesystem is full.
func TestGrowWhileAPodFillsTheVolume(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi"})
	s.optIn("data", "8Gi", autogrow.AnnotationThreshold+"=50%", autogrow.AnnotationIncrease+"=100%")
	start := time.Now()
	s.startFiller("filler", "data", 3)
	wantSamePods := s.recordPods()
	s.awaitExpanded("data", "8Gi")
	t.Logf("the claim has 8 GiB after %.0f s", time.Since(start).Seconds())
	s.wantEvent("PersistentVolumeClaim", "data", "GrowthLimitReached", "limit of 8 GiB", "next step")
	s.awaitOperatorMetric(fmt.Sprintf(
		`growvol_operator_grow_blocked{cause="limit",claim="data",claim_namespace="%s"}`, s.name))
	s.wantFilled("filler")
	wantSamePods()
	for _, step := range []string{"from 1 GiB to 2 GiB", "from 2 GiB to 4 GiB", "from 4 GiB to 8 GiB"} {
		s.wantEvent("PersistentVolumeClaim", "data", "GrowthRequested", step, "(read at", "on node1")
	}
	if got := s.request("data"); got != "8Gi" {
		t.Errorf("got a request of %s, want the limit of 8Gi", got)
	}
}

// The backend refuses a size as infeasible: the operator tries half of the step once, and then
// stops. A person steps back, and the pod is not disturbed.
func TestGrowStopsAtAnInfeasibleSize(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi"})
	s.startWriter("writer", "data", false)
	wantSamePods := s.recordPods()
	s.optIn("data", "100Ti", autogrow.AnnotationIncrease+"=40Ti", autogrow.AnnotationThreshold+"=90%")
	s.occupy("writer", 256*volume.MiB)
	s.wantEvent("PersistentVolumeClaim", "data", "GrowthRequested", "from 1 GiB to 40 TiB")
	s.wantEvent("PersistentVolumeClaim", "data", "GrowthRequested", "refused as infeasible", "16 TiB", "half of a step")
	s.wantEvent("PersistentVolumeClaim", "data", "GrowthInfeasible", "16 TiB", "next step")
	const half = "20481Gi"
	if got := s.request("data"); got != half {
		t.Errorf("got a request of %s, want %s", got, half)
	}
	s.kubectl("annotate", "--overwrite", "pvc", "data", autogrow.AnnotationEnabled+"=false")
	s.expandClaim("data", "2Gi")
	s.runApp("writer", "await", mountPath, fmt.Sprint(minFilesystemSize(2*volume.GiB)))
	wantSamePods()
	s.wantData("writer")
}

// A ResourceQuota is reached: the operator reports the refusal of the API server.
func TestGrowStopsAtAResourceQuota(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.apply(`{apiVersion: v1, kind: ResourceQuota, metadata: {name: quota}, spec: {hard: {requests.storage: 2Gi}}}`)
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi"})
	s.startReader("reader", "data")
	s.optIn("data", "10Gi", autogrow.AnnotationIncrease+"=2Gi", autogrow.AnnotationCooldown+"=soon")
	s.occupy("reader", 900*volume.MiB)
	s.wantEvent("PersistentVolumeClaim", "data", "GrowthNotPossible", autogrow.AnnotationCooldown, `"soon"`, "next step")
	s.kubectl("annotate", "pvc", "data", autogrow.AnnotationCooldown+"-")
	s.wantEvent("PersistentVolumeClaim", "data", "GrowthNotPossible", "exceeded quota", "from 1 GiB to 3 GiB")
	if got := s.request("data"); got != "1Gi" {
		t.Errorf("got a request of %s, want 1Gi", got)
	}
	s.kubectl("annotate", "--overwrite", "pvc", "data", autogrow.AnnotationIncrease+"=1Gi")
	s.awaitExpanded("data", "2Gi")
}

// Each claim of a StatefulSet grows by itself; its pods run on.
func TestGrowStatefulSetByItself(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.startStatefulSet("")
	wantSamePods := s.recordPods()
	for n := range 2 {
		s.optIn(fmt.Sprintf("data-database-%d", n), "4Gi", autogrow.AnnotationThreshold+"=20%")
		s.occupy(fmt.Sprintf("database-%d", n), 680*volume.MiB) // the writer adds 192 MiB
	}
	for n := range 2 {
		s.awaitExpanded(fmt.Sprintf("data-database-%d", n), "2Gi")
	}
	wantSamePods()
	for n := range 2 {
		s.wantData(fmt.Sprintf("database-%d", n))
	}
}

// A filesystem that is smaller than its claim says is reported, and the claim does not grow
// although the filesystem is nearly full. No driver of this cluster makes such a claim: the test
// writes the size.
func TestGrowReportsASmallFilesystem(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi"})
	s.startReader("reader", "data")
	s.kubectl("patch", "pvc", "data", "--subresource=status", "--patch", `{"status":{"capacity":{"storage":"4Gi"}}}`)
	s.occupy("reader", 900*volume.MiB)
	s.optIn("data", "10Gi")
	s.wantEvent("PersistentVolumeClaim", "data", "GrowthNotPossible", "1 GiB of the claim's 4 GiB", "must grow first")
	s.wantEvent("PersistentVolumeClaim", "data", "FilesystemShort", "the claim has 4 GiB, but its filesystem has 1 GiB",
		"3 GiB are missing", "next step")
	if got := s.request("data"); got != "1Gi" {
		t.Errorf("got a request of %s for a filesystem that has not grown, want 1Gi", got)
	}
}

// The active replica is killed before each growth: the other one goes on, and the pod that writes
// never finds its filesystem full.
func TestOperatorKilledWhileAPodFillsTheVolume(t *testing.T) {
	s := newNamespace(t)
	s.installOperator(2)
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi"})
	s.optIn("data", "8Gi", autogrow.AnnotationThreshold+"=60%", autogrow.AnnotationIncrease+"=100%")
	s.startFiller("filler", "data", 1)
	wantSamePods := s.recordPods()
	for _, size := range []string{"2Gi", "4Gi", "8Gi"} {
		s.killOperator(s.activeOperator())
		s.awaitExpanded("data", size)
		t.Logf("%s after the active replica was killed", size)
	}
	s.wantFilled("filler")
	wantSamePods()
}

// Half of a step that is infeasible is possible, here because of the backend's limit. A replica
// that starts in between requests neither more nor a second half.
func TestOperatorGrowsByHalfAStep(t *testing.T) {
	s := newNamespace(t)
	s.installOperator(2, "--set=controller.extraArgs={--loop-max-volume-size=6Gi}")
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi"})
	s.startReader("reader", "data")
	s.occupy("reader", 900*volume.MiB)
	s.optIn("data", "20Gi", autogrow.AnnotationIncrease+"=8Gi")
	s.wantEvent("PersistentVolumeClaim", "data", "GrowthRequested", "from 1 GiB to 9 GiB")
	s.deletePods(operatorPods)
	s.awaitExpanded("data", "5Gi")
	s.wantEvent("PersistentVolumeClaim", "data", "GrowthRequested", "half of a step", "5 GiB")
	s.runApp("reader", "await", mountPath, fmt.Sprint(minFilesystemSize(5*volume.GiB)))
}

// A claim that pvc-autoresizer has grown is left to it. What it writes when it grows a claim is
// written here by hand: it needs a Prometheus, which this cluster does not have.
func TestGrowStepsAsideForWhatPVCAutoresizerHasGrown(t *testing.T) {
	t.Parallel()
	const written = "resize.topolvm.io/pre_capacity_bytes"
	s := newNamespace(t)
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi"})
	s.startReader("reader", "data")
	s.kubectl("annotate", "pvc", "data", written+"=536870912")
	s.optIn("data", "4Gi")
	s.occupy("reader", 900*volume.MiB)
	s.wantEvent("PersistentVolumeClaim", "data", "GrowthPostponed", "pvc-autoresizer has grown it", "next step", written)
	if got := s.request("data"); got != "1Gi" {
		t.Errorf("got a request of %s for a claim of pvc-autoresizer, want 1Gi", got)
	}
	s.kubectl("annotate", "pvc", "data", written+"-")
	s.awaitExpanded("data", "2Gi")
}

// While a pod of pvc-autoresizer runs, no claim with a limit grows. Only its name is real here.
func TestOperatorStepsAsideForPVCAutoresizer(t *testing.T) {
	s := newNamespace(t)
	s.installOperator(1)
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi"})
	s.startReader("reader", "data")
	pod := s.appPod("other", "pause", "volumeMounts: []", "")
	s.apply(strings.Replace(pod, "{name: other}", "{name: other, labels: {app.kubernetes.io/name: pvc-autoresizer}}", 1))
	s.awaitReady("other")
	s.optIn("data", "4Gi")
	s.occupy("reader", 900*volume.MiB)
	s.wantEvent("PersistentVolumeClaim", "data", "GrowthPostponed", "pod "+s.name+"/other", "uninstall one of the two")
	if got := s.request("data"); got != "1Gi" {
		t.Errorf("got a request of %s while pvc-autoresizer runs, want 1Gi", got)
	}
	s.kubectl("delete", "pod", "other", "--wait", "--timeout="+waitTimeout.String())
	s.awaitExpanded("data", "2Gi")
}

// policyClass is a class that lets its claims grow to 3 GiB.
func (s namespace) policyClass() string {
	s.Helper()
	name := s.name + "-class"
	s.apply(fmt.Sprintf(`{apiVersion: storage.k8s.io/v1, kind: StorageClass,
		metadata: {name: %s, annotations: {%s: "true", %s: 3Gi}}, provisioner: loop.growvol.io, allowVolumeExpansion: true,
		parameters: {csi.storage.k8s.io/fstype: xfs}}`, name, autogrow.AnnotationEnabled, autogrow.AnnotationLimit))
	s.Cleanup(func() {
		_, err := kubectl(context.WithoutCancel(s.Context()), "delete", "storageclass", name)
		must.Succeed(s.T, err)
	})
	return name
}

// The admission policies let the operator raise the request of claims that have opted in, up to
// their limit, and change its annotations; each other change is refused, by the API server itself.
func TestGrowPolicies(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	class := s.policyClass()
	for _, c := range []claim{
		{name: "own", class: classXFS, size: "1Gi"},
		{name: "plain", class: classXFS, size: "1Gi"},
		{name: "class", class: class, size: "1Gi"},
		{name: "out", class: class, size: "1Gi"},
		{name: "lower", class: class, size: "1Gi"},
		{name: "refused", class: classXFS, size: "1Gi"},
		{name: "person", class: classXFS, size: "1Gi"},
	} {
		s.createClaim(c)
	}
	s.optIn("own", "2Gi")
	s.kubectl("annotate", "pvc", "plain", autogrow.AnnotationLimit+"=9Gi")
	s.kubectl("annotate", "pvc", "out", autogrow.AnnotationEnabled+"=false")
	s.kubectl("annotate", "pvc", "lower", autogrow.AnnotationLimit+"=2Gi")
	for _, name := range []string{"refused", "person"} {
		s.optIn(name, "40Ti")
	}
	// The operator's patch names the request that it has read: the API server refuses it for another
	// one.
	_, err := kubectl(t.Context(), "--namespace", s.name, "patch", "pvc", "own", "--type=json", "--patch",
		`[{"op":"test","path":"/spec/resources/requests/storage","value":"512Mi"},
		{"op":"replace","path":"/spec/resources/requests/storage","value":"2Gi"}]`)
	if got := s.request("own"); err == nil || got != "1Gi" {
		t.Errorf("got the request %s and %v for a patch of an older request, want a refusal", got, err)
	}
	s.makeInfeasible("person", "20Ti")
	s.asOperator(t, "refused", `{"metadata":{"annotations":{"growvol.io/grown-to":"20Ti"}},`+sizePatch("20Ti")+`}`, "")
	s.makeInfeasible("refused", "")
	for _, row := range []struct{ claim, patch, refusal string }{
		{"own", sizePatch("3Gi"), "may not request more than"},
		{"own", sizePatch("2Gi") + `,"metadata":{"annotations":{"resize.topolvm.io/storage_limit":"9Gi"}}`, "and no other"},
		{"own", `"metadata":{"annotations":{"resize.topolvm.io/storage_limit":"9Gi"}}`, "and no other"},
		{"own", `"metadata":{"annotations":{"resize.topolvm.io/storage_limit":null}}`, "and no other"},
		{"own", `"metadata":{"annotations":{"growvol.io/cooldown":"1s"}}`, "and no other"},
		{"own", `"metadata":{"labels":{"a":"b"}}`, "may change nothing else"},
		{"own", `"metadata":{"finalizers":["growvol.io/x"]}`, "may change nothing else"},
		{"own", `"metadata":{"finalizers":null}`, "may change nothing else"},
		{
			"own", `"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"x","uid":"1"}]}`,
			"may change nothing else",
		},
		{"own", `"spec":{"volumeAttributesClassName":"fast"}`, "may change nothing else"},
		{"own", `"spec":{"resources":{"requests":{"other":"1"}}}`, "spec is immutable"},
		{"own", `"spec":{"resources":{"limits":{"storage":"9Gi"}}}`, "spec is immutable"},
		{"own", sizePatch("512Mi"), "can not be less than status.capacity"},
		{"own", `"metadata":{"annotations":{"growvol.io/grown-to":"1Gi"}}`, "only to the size that it requests"},
		{
			"own", sizePatch("2Gi") + `,"metadata":{"annotations":{"growvol.io/grown-to":"9Gi"}}`,
			"only to the size that it requests",
		},
		{"plain", sizePatch("2Gi"), "have opted in"},
		{"class", sizePatch("4Gi"), "may not request more than"},
		{"out", sizePatch("2Gi"), "have opted in"},
		{"lower", sizePatch("3Gi"), "may not request more than"},
		{"person", sizePatch("10Ti"), "may raise the requested size"},
		{"person", `"metadata":{"annotations":{"growvol.io/grown-to":"20Ti"}}`, "only to the size that it requests"},
		// What is allowed.
		{
			"own",
			sizePatch("2Gi") + `,"metadata":{"annotations":{"growvol.io/grown-to":"2Gi","growvol.io/growth-record":"{}"}}`, "",
		},
		{"class", sizePatch("3Gi"), ""},
		{"lower", sizePatch("2Gi"), ""},
		{"refused", sizePatch("10Ti") + `,"metadata":{"annotations":{"growvol.io/grown-to":"10Ti"}}`, ""},
	} {
		s.asOperator(t, row.claim, "{"+row.patch+"}", row.refusal)
	}
}

func sizePatch(size string) string {
	return `"spec":{"resources":{"requests":{"storage":"` + size + `"}}}`
}

// makeInfeasible requests the size, unless it is empty, and waits until the backend has refused the
// present request.
func (s namespace) makeInfeasible(claim, size string) {
	s.Helper()
	if size != "" {
		s.requestSize(claim, size)
	}
	s.awaitField("pvc/"+claim, "{.status.allocatedResourceStatuses.storage}", "ControllerResizeInfeasible")
}

// asOperator patches the claim as the operator, and fails the test unless the API server refuses it
// with that text, or accepts it if the text is empty.
func (s namespace) asOperator(t *testing.T, claim, patch, refusal string) {
	t.Helper()
	_, err := kubectl(t.Context(), "--namespace", s.name, "--as=system:serviceaccount:"+s.release+":growvol-operator",
		"patch", "pvc", claim, "--type=merge", "--patch", patch)
	switch {
	case refusal == "" && err != nil:
		t.Errorf("claim %s: patch %s: got %v, want it accepted", claim, patch, err)
	case refusal != "" && (err == nil || !strings.Contains(err.Error(), refusal)):
		t.Errorf("claim %s: patch %s: got %v, want a refusal with %q", claim, patch, err, refusal)
	}
}
