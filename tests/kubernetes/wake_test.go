package kubernetes_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/growvol/growvol/pkg/kubeletwake"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/must"
)

// The tests of this file restart kubelet and install the operator, so that they do not run in
// parallel.

const (
	operatorPods = "app.kubernetes.io/name=growvol,app.kubernetes.io/component=operator"
	// wakeRuns and plainRuns are the growths that are measured with and without the operator.
	wakeRuns, plainRuns = 20, 5
	// The goals of a growth with the operator: from the patch to the filesystem in the pod.
	medianGoal, p95Goal = 2 * time.Second, 4 * time.Second
)

// With kubelet's default of one minute between two synchronizations, the operator makes the
// difference between a second and a minute. Measured from the user's patch until the pod sees the
// larger filesystem, and until the claim has the size.
func TestOperatorWakesKubelet(t *testing.T) {
	const wakesMetric = "growvol_operator_kubelet_wakes_total"
	s := newNamespace(t)
	s.setSyncFrequency(defaultSyncFrequency)
	s.installOperator(2)
	for i := range plainRuns {
		name := fmt.Sprintf("plain-%d", i)
		s.createClaim(claim{name: name, class: classXFS, size: "1Gi"})
		s.kubectl("annotate", "pvc", name, kubeletwake.AnnotationEnabled+"=false")
		s.apply(s.podManifest(name, name, false, "pause"))
	}
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi"})
	s.startWriter("writer", "data", false)
	for i := range plainRuns {
		s.awaitReady(fmt.Sprintf("plain-%d", i))
	}
	wantSamePods, wakesBefore := s.recordPods(), s.operatorMetric(wakesMetric)

	// The plain growths run at the same time as the others: they only wait.
	var plain []func() growth
	for i := range plainRuns {
		plain = append(plain, s.startGrowth(fmt.Sprintf("plain-%d", i), fmt.Sprintf("plain-%d", i), 2*volume.GiB))
	}
	var woken, without []growth
	for i := range wakeRuns {
		woken = append(woken, s.startGrowth("writer", "data", volume.GiB*volume.Size(i+2))())
	}
	for _, finish := range plain {
		without = append(without, finish())
	}
	s.report("with the operator", woken)
	s.report("without", without)
	s.checkGoals(woken)
	if got := s.annotationOf("writer"); got != fmt.Sprintf(`{"data":%d}`, (wakeRuns+1)*volume.GiB) {
		t.Errorf("the pod has the annotation %s", got)
	}
	for i := range plainRuns {
		if got := s.annotationOf(fmt.Sprintf("plain-%d", i)); got != "" {
			t.Errorf("a pod of an excluded claim has the annotation %s", got)
		}
	}
	s.wantEvent("PersistentVolumeClaim", "data", "KubeletWoken", "21 GiB", "pod writer")
	if wakes := s.operatorMetric(wakesMetric) - wakesBefore; wakes != wakeRuns {
		t.Errorf("kubelet was woken %d times, want %d", wakes, wakeRuns)
	}
	wantSamePods()
	s.wantData("writer")
}

// The active replica is killed before a growth: the other one wakes kubelet. Then all replicas are
// killed. A restart does not wake for a size a second time.
func TestOperatorKilled(t *testing.T) {
	s := newNamespaceInUse(t)
	s.setSyncFrequency(defaultSyncFrequency)
	s.installOperator(2)
	wantSamePods := s.recordPods()
	for i, kill := range []func(){
		func() { s.killOperator(s.activeOperator()) },
		func() { s.killOperator(s.activeOperator()) },
		func() { s.signalProgram("KILL", "/growvol-operator") },
	} {
		size := volume.GiB * volume.Size(i+2)
		kill()
		g := s.startGrowth("writer", "data", size)()
		t.Logf("killed: %s", g)
		// The lease runs out after 10 s, and Kubernetes waits before it starts a killed container
		// again; kubelet alone needs more than a minute.
		if g.inPod > 40*time.Second {
			t.Errorf("got %s until the filesystem had %s, want 40 s at most", g.inPod, size)
		}
	}
	version := func() string { return s.kubectl("get", "pod", "writer", "-o", "jsonpath={.metadata.resourceVersion}") }
	before := version()
	s.deletePods(operatorPods)
	s.must(kubectl(t.Context(), "rollout", "status", "deployment/growvol-operator", "--namespace", s.release,
		"--timeout="+waitTimeout.String()))
	s.activeOperator()
	if after := version(); after != before {
		t.Errorf("a restart has changed the pod: version %s, then %s", before, after)
	}
	wantSamePods()
	s.wantData("writer")
}

// The admission policy lets the operator change its annotation and nothing else of a pod. The
// operator lacks no right that it uses.
func TestOperatorRights(t *testing.T) {
	s := newNamespaceInUse(t)
	s.installOperator(1)
	s.expandClaim("data", "2Gi")
	log := s.must(kubectl(t.Context(), "logs", s.activeOperator(), "--namespace", s.release))
	if !strings.Contains(log, "Successfully acquired lease") || strings.Contains(log, "forbidden") {
		t.Errorf("the operator has not all rights, or no lease: %s", log)
	}
	as := "--as=system:serviceaccount:" + s.release + ":growvol-operator"
	patch := func(kind, patch string) error {
		_, err := kubectl(t.Context(), "--namespace", s.name, as, "patch", "pod", "writer", "--type="+kind, "--patch", patch)
		return err
	}
	must.Succeed(t, patch("merge", `{"metadata": {"annotations": {"`+kubeletwake.AnnotationWoken+`": "{}"}}}`))
	for _, refused := range [][2]string{
		{"merge", `{"metadata": {"annotations": {"other": "x"}}}`},
		{"merge", `{"metadata": {"labels": {"app": "x"}}}`},
		{"merge", `{"metadata": {"finalizers": ["growvol.io/x"]}}`},
		{"merge", `{"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "1"}]}}`},
		{"merge", `{"spec": {"activeDeadlineSeconds": 1}}`},
		{"strategic", `{"spec": {"containers": [{"name": "app", "image": "localhost/other:test"}]}}`},
		{"json", `[{"op": "add", "path": "/spec/tolerations/-", "value": {"operator": "Exists"}}]`},
	} {
		if err := patch(refused[0], refused[1]); err == nil || !strings.Contains(err.Error(), "the operator may change") {
			t.Errorf("patch %s: got %v, want a refusal of the admission policy", refused, err)
		}
	}
	for _, denied := range [][]string{
		{"delete", "pod", "writer"},
		{"delete", "pvc", "data"},
		{"get", "secrets"},
		{"patch", "pod", "writer", "--subresource=status", "--patch", `{"status": {"phase": "Failed"}}`},
	} {
		_, err := kubectl(t.Context(), append([]string{"--namespace", s.name, as}, denied...)...)
		if err == nil || !strings.Contains(err.Error(), "forbidden") {
			t.Errorf("kubectl %v: got %v, want it forbidden", denied, err)
		}
	}
}

// The node refuses to grow the filesystem, for which Kubernetes writes no event: the operator does,
// with the next step.
func TestOperatorReportsARefusal(t *testing.T) {
	if hasSysResource(t) {
		t.Skip("ext4 grows on this machine: the node refuses nothing")
	}
	s := newNamespace(t)
	s.installOperator(1)
	s.createClaim(claim{name: "data", class: classExt4, size: "1Gi"})
	s.startWriter("writer", "data", false)
	wantSamePods := s.recordPods()
	s.requestSize("data", "2Gi")
	s.wantCondition("data", "NodeResizeError", "CAP_SYS_RESOURCE")
	s.wantEvent("PersistentVolumeClaim", "data", "GrowthStuck", "CAP_SYS_RESOURCE", "next step")
	if stuck := s.operatorMetric(`growvol_operator_growths{state="stuck"}`); stuck != 1 {
		t.Errorf("the operator reports %d growths that are stuck, want 1", stuck)
	}
	wantSamePods()
	s.wantData("writer")
}

// defaultSyncFrequency is kubelet's default pause between two synchronizations of a pod.
const defaultSyncFrequency = "1m0s"

// setSyncFrequency restarts kubelet with this pause between two synchronizations of a pod, until
// the end of the test.
func (s namespace) setSyncFrequency(pause string) {
	s.Helper()
	file := filepath.Join(os.Getenv(clusterVariable), "etc", "kubelet-node1.yaml")
	before := must.Value(os.ReadFile(file))(s.T)
	line := regexp.MustCompile(`(?m)^syncFrequency: (.*)$`)
	found := line.FindSubmatch(before)
	if found == nil {
		s.Fatalf("%s has no syncFrequency", file)
	}
	restart := func(ctx context.Context, config []byte, pause string) error {
		if err := os.WriteFile(file, config, 0o600); err != nil {
			return err
		}
		if _, err := runInCluster(ctx, "", "pkill", "-KILL", "--full", "^kubelet( |$)"); err != nil {
			return err
		}
		return awaitSyncFrequency(ctx, "node1", pause)
	}
	s.Cleanup(func() { must.Succeed(s.T, restart(context.WithoutCancel(s.Context()), before, string(found[1]))) })
	must.Succeed(s.T, restart(s.Context(), line.ReplaceAll(before, []byte("syncFrequency: "+pause)), pause))
}

// awaitSyncFrequency waits until the node's kubelet runs with this pause between two
// synchronizations of a pod.
func awaitSyncFrequency(ctx context.Context, node, pause string) error {
	return eventually(ctx, waitTimeout, func(ctx context.Context) error {
		got, err := kubectl(ctx, "get", "--raw", "/api/v1/nodes/"+node+"/proxy/configz")
		if err == nil && !strings.Contains(got, `"syncFrequency":"`+pause+`"`) {
			err = errors.New("kubelet does not run with the new configuration")
		}
		return err
	})
}

// installOperator installs the operator with that many replicas and further options of Helm, until
// the end of the test.
func (s namespace) installOperator(replicas int, options ...string) {
	s.Helper()
	chart := filepath.Join(moduleRoot(s.T), "deploy", "charts", "growvol")
	s.Cleanup(func() { install(s) })
	s.must(runInCluster(s.Context(), "", append([]string{
		"helm", "--namespace", s.release, "upgrade", s.release, chart, "--reuse-values",
		"--wait", "--timeout=" + waitTimeout.String(), "--set=operator.enabled=true",
		fmt.Sprintf("--set=operator.replicas=%d", replicas),
	}, options...)...))
}

// activeOperator returns the name of the pod that has the lease, and waits until one of the present
// pods has it.
func (s namespace) activeOperator() string {
	s.Helper()
	var active string
	s.eventually(func(ctx context.Context) error {
		holder, err := kubectl(ctx, "get", "lease", "growvol-operator", "--namespace", s.release,
			"-o", "jsonpath={.spec.holderIdentity}")
		if err != nil {
			return err
		}
		active, _, _ = strings.Cut(holder, "_")
		pods, err := kubectl(ctx, "get", "pods", "--namespace", s.release, "--selector", operatorPods, "-o", "name")
		if err == nil && (active == "" || !strings.Contains(pods, active)) {
			err = fmt.Errorf("the lease belongs to %q, the pods are %s", active, pods)
		}
		return err
	})
	return active
}

// killOperator kills the process of the operator's pod, which the process's cgroup names.
func (s namespace) killOperator(pod string) {
	s.Helper()
	uid := s.must(kubectl(s.Context(), "get", "pod", pod, "--namespace", s.release, "-o", "jsonpath={.metadata.uid}"))
	s.must(runInCluster(s.Context(), "", "sh", "-c",
		`for id in $(pgrep --full '^/growvol-operator'); do
			if grep -q "pod$1" "/proc/$id/cgroup"; then exec kill -KILL "$id"; fi
		done
		echo "no process runs in pod $1" >&2
		exit 1`, "sh", uid))
}

// growth is the time from the patch of a claim until the pod has the filesystem, and until the
// claim has the size.
type growth struct{ inPod, inClaim time.Duration }

func (g growth) String() string {
	return fmt.Sprintf("%.2f s (claim %.2f s)", g.inPod.Seconds(), g.inClaim.Seconds())
}

// startGrowth patches the claim, and returns a function that waits until pod and claim have the
// size. The time in the pod is the pod's own.
func (s namespace) startGrowth(pod, claim string, size volume.Size) (finish func() growth) {
	s.Helper()
	gib := fmt.Sprintf("%dGi", size/volume.GiB)
	var inPod, inClaim time.Time
	var wait errgroup.Group
	wait.Go(func() error {
		out, err := s.exec(pod, "/app", "await", mountPath, fmt.Sprint(minFilesystemSize(size)))
		var a appReport
		err = errors.Join(err, json.Unmarshal([]byte(out), &a))
		inPod = time.UnixMilli(a.AtMS)
		return err
	})
	start := time.Now()
	s.requestSize(claim, gib)
	wait.Go(func() error {
		_, err := kubectl(s.Context(), "--namespace", s.name, "wait", "pvc/"+claim,
			"--for=jsonpath={.status.capacity.storage}="+gib, "--timeout="+waitTimeout.String())
		inClaim = time.Now()
		return err
	})
	return func() growth {
		s.Helper()
		must.Succeed(s.T, wait.Wait())
		return growth{inPod: inPod.Sub(start), inClaim: inClaim.Sub(start)}
	}
}

// report prints the growths, with median and 95th percentile.
func (s namespace) report(what string, growths []growth) {
	s.Helper()
	median, p95 := percentiles(growths)
	s.Logf("kubelet's syncFrequency 1m0s, %s, %d growths: median %.2f s, p95 %.2f s in the pod: %v",
		what, len(growths), median.Seconds(), p95.Seconds(), growths)
}

// percentiles returns the median and the 95th percentile of the time in the pod, by nearest rank.
func percentiles(growths []growth) (median, p95 time.Duration) {
	var times []time.Duration
	for _, g := range growths {
		times = append(times, g.inPod)
	}
	slices.Sort(times)
	rank := func(percent int) time.Duration { return times[(len(times)*percent+99)/100-1] }
	return rank(50), rank(95)
}

func (s namespace) checkGoals(growths []growth) {
	s.Helper()
	if median, p95 := percentiles(growths); median > medianGoal || p95 > p95Goal {
		s.Errorf("got a median of %s and a p95 of %s, want %s and %s at most", median, p95, medianGoal, p95Goal)
	}
}

// annotationOf returns the operator's annotation of the pod.
func (s namespace) annotationOf(pod string) string {
	s.Helper()
	key := strings.ReplaceAll(kubeletwake.AnnotationWoken, ".", `\.`)
	return s.kubectl("get", "pod", pod, "-o", "jsonpath={.metadata.annotations."+key+"}")
}

// operatorMetric returns the value of the metric, of all replicas together.
func (s namespace) operatorMetric(name string) (total int) {
	s.Helper()
	pods := s.must(kubectl(s.Context(), "get", "pods", "--namespace", s.release, "--selector", operatorPods,
		"-o", "jsonpath={.items[*].metadata.name}"))
	for pod := range strings.FieldsSeq(pods) {
		metrics := s.must(kubectl(s.Context(), "get", "--raw",
			"/api/v1/namespaces/"+s.release+"/pods/"+pod+":9810/proxy/metrics"))
		m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\d+)$`).FindStringSubmatch(metrics)
		if m == nil {
			s.Fatalf("pod %s has no metric %s", pod, name)
		}
		var n int
		must.Value(fmt.Sscan(m[1], &n))(s.T)
		total += n
	}
	return total
}
