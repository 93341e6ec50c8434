package kubernetes_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
)

// buildPlugin builds kubectl-growvol once and returns its path.
var buildPlugin = sync.OnceValues(func() (string, error) {
	// Not a directory of one test: the next one uses the program too.
	path, err := filepath.Abs(filepath.Join("..", "..", "bin", "kubectl-growvol"))
	if err != nil {
		return "", err
	}
	build := exec.CommandContext(context.Background(), "go", "build", "-o", path, "../../cmd/kubectl-growvol")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build kubectl-growvol: %w: %s", err, out)
	}
	return path, nil
})

// growvol runs the plugin in the namespace, and returns its exit code and all of its output.
func (s namespace) growvol(args ...string) (code int, out string) {
	s.Helper()
	return s.growvolAfter(nil, args...)
}

// growvolAfter is growvol with a command in front of the plugin's.
func (s namespace) growvolAfter(before []string, args ...string) (code int, out string) {
	s.Helper()
	path := s.must(buildPlugin())
	command := append(slices.Clone(before), path)
	command = append(append(command, args...), "--namespace", s.name)
	out, err := runInCluster(s.Context(), "", append([]string{"sh", "-c", `exec "$@" 2>&1`, "sh"}, command...)...)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.Fatal(err)
	}
	if exit != nil {
		code = exit.ExitCode()
	}
	s.Logf("kubectl growvol %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	return code, out
}

// wantGrowvol runs the plugin and fails the test unless it has the exit code and all the words.
func (s namespace) wantGrowvol(code int, words []string, args ...string) string {
	s.Helper()
	got, out := s.growvol(args...)
	s.checkOutput(got, code, out, words)
	return out
}

func (s namespace) checkOutput(got, want int, out string, words []string) {
	s.Helper()
	if got != want {
		s.Errorf("got exit code %d, want %d", got, want)
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			s.Errorf("the output does not contain %q", w)
		}
	}
}

// A claim in use grows, and its status says so before and after.
func TestKubectlExpandInUse(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi"})
	s.startWriter("writer", "data", false)
	wantSamePods := s.recordPods()
	s.wantGrowvol(0, []string{"nothing is stuck: the claim has 1 GiB", "pod writer on node1", "vol-"}, "status", "data")
	s.wantGrowvol(0, []string{"dry run: nothing was changed"}, "expand", "data", "2Gi", "--dry-run")
	s.wantGrowvol(
		0,
		[]string{"ok", "allows expansion", "grown", "data has grown from 1 GiB to 2 GiB"},
		"expand",
		"data",
		"2Gi",
	)
	s.wantSize("writer", mountPath, 2*volume.GiB)
	s.wantGrowvol(0, []string{"data has grown from 2 GiB to 3 GiB"}, "expand", "pvc/data", "+1Gi")
	s.wantSize("writer", mountPath, 3*volume.GiB)
	s.wantGrowvol(0, []string{"already has 3 GiB"}, "expand", "data", "3Gi")
	s.wantGrowvol(1, []string{"fail", "volumes do not shrink", "nothing was changed"}, "expand", "data", "2Gi")
	wantSamePods()
	s.wantData("writer")

	// kubelet reports the new size within a minute or two.
	s.eventually(func(context.Context) error {
		_, out := s.growvol("status", "data")
		if !strings.Contains(out, "and so has its filesystem") || !strings.Contains(out, "xfs") {
			return errors.New("kubelet does not report the new size yet")
		}
		return nil
	})
	s.wantGrowvol(0, []string{"NAMESPACE", s.name + " ", "3 GiB", "ok"}, "status", "-A")
	s.wantGrowvol(0, []string{"kind: ClaimStatus", "sizeBytes: 3221225472"}, "status", "data", "-o", "yaml")
	if out := s.wantGrowvol(0, nil, "status", "-o", "name"); out != "persistentvolumeclaim/data" {
		t.Errorf("got the names %q, want persistentvolumeclaim/data", out)
	}
	if out := s.wantGrowvol(0, nil, "status", "data", "-o", "jsonpath={.status.diagnosis.kind}"); out != "grown" {
		t.Errorf("got the diagnosis %q, want grown", out)
	}
}

// An impossible size is refused with the reason and a command, which steps back.
func TestKubectlExpandStepsBack(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi"})
	s.startWriter("writer", "data", false)
	wantSamePods := s.recordPods()
	out := s.wantGrowvol(
		1,
		[]string{"refused", "ControllerResizeInfeasible", "17 TiB", "16 TiB"},
		"expand",
		"data",
		"17Ti",
	)
	s.wantGrowvol(0, []string{"ControllerResizeInfeasible", "FAILED", "step back"}, "status", "data")
	s.wantGrowvol(0, []string{"stuck"}, "status")
	command := regexp.MustCompile(`kubectl growvol (expand data \S+)`).FindStringSubmatch(out)
	if command == nil {
		t.Fatalf("the output has no command that steps back")
	}
	// The claim shows the refusal of 17 TiB until the sidecar has begun the new size.
	s.wantGrowvol(0, []string{"data has grown from 1 GiB to 2 GiB"}, strings.Fields(command[1])...)
	s.wantSize("writer", mountPath, 2*volume.GiB)
	wantSamePods()
	s.wantData("writer")
}

// A growth that waits for a pod is under way. Ctrl-C ends the watching, and the growth continues.
func TestKubectlExpandUnderWay(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi"})
	s.wantGrowvol(2, []string{"data: requested", "kubectl growvol status data"}, "expand", "data", "2Gi", "--wait=false")
	s.wantGrowvol(2, []string{"warn", "no pod uses the claim", "still under way", "start a pod"}, "expand", "data", "2Gi")
	s.wantGrowvol(0, []string{"NodeResizePending", "start a pod"}, "status", "data")

	// A pod that no node has yet lets expand wait.
	pod := s.podManifest("reader", "data", false, "pause")
	s.apply(strings.Replace(pod, "spec:\n", "spec:\n  schedulingGates: [{name: growvol.io/test}]\n", 1))
	code, out := s.growvolAfter([]string{"timeout", "--preserve-status", "--signal=INT", "20"}, "expand", "data", "2Gi")
	s.checkOutput(code, 2, out, []string{"no longer watched; the growth continues", "kubectl growvol status data"})
	s.wantGrowvol(2, []string{"still under way after 2"}, "expand", "data", "2Gi", "--wait=2s")
	s.kubectl("patch", "pod", "reader", "--type=json", "--patch", `[{"op": "remove", "path": "/spec/schedulingGates"}]`)
	s.wantGrowvol(0, []string{"data has grown from 1 GiB to 2 GiB"}, "expand", "data", "2Gi")
	s.awaitReady("reader")
	s.wantSize("reader", mountPath, 2*volume.GiB)
}

// Checks refuse what Kubernetes would refuse, before anything changes.
func TestKubectlExpandRefusedByChecks(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.createClaim(claim{name: "fixed", class: classFixed, size: "1Gi"})
	s.wantGrowvol(1, []string{"fail", "does not allow expansion", "kubectl patch storageclass " + classFixed},
		"expand", "fixed", "2Gi")
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi"})
	s.apply(`apiVersion: v1
kind: ResourceQuota
metadata: {name: small}
spec: {hard: {requests.storage: 3Gi}}
`)
	s.awaitField("resourcequota/small", "{.status.used.requests\\.storage}", "2Gi")
	s.wantGrowvol(1, []string{"fail", "exceeded quota", "nothing was changed"}, "expand", "data", "4Gi")
	s.wantGrowvol(1, []string{"not found"}, "expand", "absent", "4Gi")
	s.wantGrowvol(1, []string{"is not a size"}, "expand", "data", "large")
}

// The node refuses: root of this machine lacks the capability that ext4 needs.
func TestKubectlExpandRefusedByTheNode(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	if hasSysResource(t) {
		t.Skip("ext4 grows on this machine: the node refuses nothing")
	}
	s.createClaim(claim{name: "data", class: classExt4, size: "1Gi"})
	s.startWriter("writer", "data", false)
	s.wantGrowvol(1, []string{"refused", "NodeResize", "CAP_SYS_RESOURCE", "remount"}, "expand", "data", "2Gi")
	s.wantGrowvol(0, []string{"NodeResizeError", "CAP_SYS_RESOURCE", "FAILED"}, "status", "data")
}

// The claims of a StatefulSet grow one after another, then its template, while its pods run. This
// one lets Kubernetes delete its claims with it, which must not happen.
func TestKubectlExpandStatefulSet(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.startStatefulSet("  persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete, whenScaled: Retain}\n")
	wantSamePods := s.recordPods()
	claims := func() string {
		return s.kubectl("get", "pvc", "--sort-by=.metadata.name", "-o",
			"jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.spec.volumeName}{'\\n'}{end}")
	}
	uid := func() string { return s.kubectl("get", "sts/database", "-o", "jsonpath={.metadata.uid}") }
	before, uidBefore := claims(), uid()

	// Without --recreate, the StatefulSet stays.
	s.wantGrowvol(0, []string{
		"data-database-0 has grown from 1 GiB to 2 GiB", "data-database-1 has grown from 1 GiB to 2 GiB",
		"template data of sts/database still has 1Gi", "--recreate",
	}, "expand", "sts/database", "2Gi")
	if after := uid(); after != uidBefore {
		t.Errorf("the StatefulSet was created again without --recreate")
	}
	s.wantGrowvol(0, []string{"data-database-1 has grown", "sts/database is created again with 3Gi"},
		"expand", "sts/database", "3Gi", "--parallel", "--recreate")
	if after := uid(); after == uidBefore {
		t.Errorf("the StatefulSet was not created again")
	}
	for n := range 2 {
		s.wantSize(fmt.Sprintf("database-%d", n), mountPath, 3*volume.GiB)
	}
	if after := claims(); after != before {
		t.Errorf("the claims have changed: before:\n%s\nafter:\n%s", before, after)
	}
	wantSamePods()
	for n := range 2 {
		s.wantData(fmt.Sprintf("database-%d", n))
	}
	s.wantGrowvol(
		0,
		[]string{"already has 3 GiB", "new replicas get this size"},
		"expand",
		"sts/database",
		"3Gi",
		"--recreate",
	)
	s.wantGrowvol(0, []string{"data-database-0", "data-database-1"}, "status", "sts/database")

	// A new replica has the new size.
	s.kubectl("scale", "statefulset/database", "--replicas=3")
	s.kubectl("rollout", "status", "statefulset/database", "--timeout="+waitTimeout.String())
	s.wantSize("database-2", mountPath, 3*volume.GiB)
}

// allowClaims lets the user read the claims of the namespace, and nothing else.
func (s namespace) allowClaims(user string) {
	s.Helper()
	s.apply(`apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [persistentvolumeclaims], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: ` + user + `}]
`)
}

// A user who may read claims only sees these, and which rights are missing.
func TestKubectlNamesMissingRights(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi"})
	s.allowClaims("reader")
	s.wantGrowvol(0, []string{
		"1 GiB", "the right to get persistentvolumes is missing", "the right to list pods is missing",
		"the right to list events is missing", "ask for a role",
	}, "status", "data", "--as=reader")
	s.wantGrowvol(0, []string{"unknown"}, "status", "--as=reader")
	s.wantGrowvol(1, []string{"unknown", "fail", `cannot patch resource "persistentvolumeclaims"`},
		"expand", "data", "2Gi", "--as=reader")
	s.wantGrowvol(1, []string{"the right to get persistentvolumeclaims is missing"}, "status", "data", "--as=nobody")
	s.wantGrowvol(1, []string{"the right to list persistentvolumeclaims is missing"}, "status", "-A", "--as=reader")
}

// A claim that says more than its filesystem has is found. No driver of this cluster makes one, so
// the test writes the size.
func TestKubectlDoctorFindsASmallFilesystem(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi"})
	s.startWriter("writer", "data", false)
	s.kubectl("patch", "pvc", "data", "--subresource=status", "--patch", `{"status":{"capacity":{"storage":"4Gi"}}}`)
	row := regexp.MustCompile(s.name + ` +data +4 GiB `)
	s.eventually(func(context.Context) error {
		code, out := s.growvol("doctor", "--all")
		if code != 1 || !row.MatchString(out) {
			return fmt.Errorf("got exit code %d, want 1 and the claim among those that lack bytes", code)
		}
		return nil
	})
}
