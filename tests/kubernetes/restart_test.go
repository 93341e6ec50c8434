package kubernetes_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// The tests of this file restart parts of the cluster that all tests use, so that
// they do not run in parallel.

// The label selectors of growvol's pods.
const (
	controllerPods = "app.kubernetes.io/name=growvol,app.kubernetes.io/component=controller"
	nodePods       = "app.kubernetes.io/name=growvol,app.kubernetes.io/component=node"
)

// stopwatch returns a function that logs the seconds since stopwatch was called.
func (s namespace) stopwatch() func(what string) {
	start := time.Now()
	return func(what string) {
		s.Helper()
		s.Logf("%s after %.1f s", what, time.Since(start).Seconds())
	}
}

// signalProgram sends a signal to all processes of the cluster that run the program.
func (s namespace) signalProgram(signal, program string) {
	s.Helper()
	s.must(runInCluster(s.Context(), "", "pkill", "-"+signal, "--full", "^"+program+"( |$)"))
}

// newNamespaceInUse returns a namespace with the claim "data" and the pod "writer",
// which writes to it.
func newNamespaceInUse(t *testing.T) namespace {
	t.Helper()
	s := newNamespace(t)
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi"})
	s.startWriter("writer", "data", false)
	return s
}

// The controller plugin is killed during ControllerExpandVolume. It is stopped
// before (SIGSTOP), so that it cannot answer the call.
func TestExpandCompletesAfterControllerKill(t *testing.T) {
	s := newNamespaceInUse(t)
	wantSamePods := s.recordPods()
	s.signalProgram("STOP", "/growvol-controller")
	s.requestSize("data", "2Gi")
	s.awaitField("pvc/data", "{.status.allocatedResourceStatuses.storage}", "ControllerResizeInProgress")
	s.signalProgram("KILL", "/growvol-controller")
	s.awaitExpanded("data", "2Gi")
	s.wantSize("writer", mountPath, 2*volume.GiB)

	// Then the whole pod is deleted, with the sidecars.
	s.requestSize("data", "3Gi")
	s.deletePods(controllerPods)
	s.awaitExpanded("data", "3Gi")
	s.wantSize("writer", mountPath, 3*volume.GiB)
	wantSamePods()
	s.wantData("writer")
}

// The node plugin is killed during NodeExpandVolume. It is stopped before (SIGSTOP),
// so that it cannot answer the call.
func TestExpandCompletesAfterNodeKill(t *testing.T) {
	s := newNamespaceInUse(t)
	wantSamePods := s.recordPods()
	s.signalProgram("STOP", "/growvol-node")
	s.requestSize("data", "2Gi")
	s.awaitField("pvc/data", "{.status.allocatedResourceStatuses.storage}", "NodeResizeInProgress")
	s.signalProgram("KILL", "/growvol-node")
	s.awaitExpanded("data", "2Gi")
	s.wantSize("writer", mountPath, 2*volume.GiB)

	// Then the whole pod is deleted, with the registrar.
	s.requestSize("data", "3Gi")
	s.deletePods(nodePods)
	s.awaitExpanded("data", "3Gi")
	s.wantSize("writer", mountPath, 3*volume.GiB)
	wantSamePods()
	s.wantData("writer")
}

// deletePods deletes growvol's pods of the selector at once.
func (s namespace) deletePods(selector string) {
	s.Helper()
	s.must(kubectl(s.Context(), "delete", "pods", "--namespace", s.release, "--selector", selector,
		"--grace-period=0", "--force"))
}

// kubelet is killed while a claim grows. The rig starts it again.
func TestExpandCompletesAfterKubeletRestart(t *testing.T) {
	s := newNamespaceInUse(t)
	wantSamePods := s.recordPods()
	s.requestSize("data", "2Gi")
	s.signalProgram("KILL", "kubelet")
	s.awaitExpanded("data", "2Gi")
	s.wantSize("writer", mountPath, 2*volume.GiB)
	s.expandClaim("data", "3Gi")
	wantSamePods()
	s.wantData("writer")
}

// The release is upgraded and rolled back while a pod uses its volume, which starts
// both plugins again. The next expansion succeeds each time.
func TestExpandAfterUpgradeAndRollback(t *testing.T) {
	s := newNamespaceInUse(t)
	wantSamePods := s.recordPods()
	t.Cleanup(func() { install(s) }) // for the next tests
	helm := func(args ...string) {
		options := []string{"helm", "--namespace", s.release, "--wait", "--timeout=" + waitTimeout.String()}
		s.must(runInCluster(t.Context(), "", append(options, args...)...))
	}
	before := s.podTemplates()
	chart := filepath.Join(moduleRoot(t), "deploy", "charts", "growvol")
	helm("upgrade", s.release, chart, "--reuse-values", "--set=logLevel=debug")
	upgraded := s.podTemplates()
	if upgraded == before {
		t.Fatal("the upgrade has changed no pod template of growvol: it tests nothing")
	}
	s.expandClaim("data", "2Gi")
	s.wantSize("writer", mountPath, 2*volume.GiB)
	helm("rollback", s.release)
	if s.podTemplates() == upgraded {
		t.Fatal("the rollback has changed no pod template of growvol: it tests nothing")
	}
	s.expandClaim("data", "3Gi")
	s.wantSize("writer", mountPath, 3*volume.GiB)
	wantSamePods()
	s.wantData("writer")
}

// podTemplates returns the generations of growvol's Deployments and DaemonSets.
func (s namespace) podTemplates() string {
	s.Helper()
	return s.must(kubectl(s.Context(), "get", "deployments,daemonsets", "--namespace", s.release,
		"-o", "jsonpath={range .items[*]}{.metadata.name} {.metadata.generation} {end}"))
}

// growvol is removed and installed again while a pod writes to its volume. The
// expansion that is requested in between succeeds afterwards.
func TestExpandAfterReinstall(t *testing.T) {
	s := newNamespaceInUse(t)
	wantSamePods := s.recordPods()
	uninstall(s)
	t.Cleanup(func() { install(s) }) // for the next tests, if this one fails
	s.requestSize("data", "2Gi")
	if size := s.pvc("data").Status.Capacity.Storage; size != "1Gi" {
		t.Errorf("got a claim of %s without growvol, want 1Gi", size)
	}
	install(s)
	s.awaitExpanded("data", "2Gi")
	s.wantSize("writer", mountPath, 2*volume.GiB)
	wantSamePods()
	s.wantData("writer")
}

func install(s namespace) {
	s.Helper()
	s.must(runScript(context.WithoutCancel(s.Context()), "", "growvol", "install"))
}

func uninstall(s namespace) {
	s.Helper()
	s.must(runScript(s.Context(), "", "growvol", "uninstall"))
}
