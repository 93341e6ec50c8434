package kubernetes_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// The tests of this file disturb what all others need, so they run alone.

// Labels of growvol's pods.
const (
	controllers = "app.kubernetes.io/name=growvol,app.kubernetes.io/component=controller"
	nodes       = "app.kubernetes.io/name=growvol,app.kubernetes.io/component=node"
)

// stopwatch returns a function that logs the seconds since.
func (s space) stopwatch() func(what string) {
	begin := time.Now()
	return func(what string) {
		s.Helper()
		s.Logf("%s after %.1f s", what, time.Since(begin).Seconds())
	}
}

// signal sends a signal to all processes of the cluster that run a program.
func (s space) signal(signal, program string) {
	s.Helper()
	s.must(in(s.Context(), "", "pkill", "-"+signal, "--full", "^"+program+"( |$)"))
}

// inUse makes a claim and a pod that writes to it.
func inUse(t *testing.T) space {
	t.Helper()
	s := newSpace(t)
	s.claim(claim{name: "data", class: xfs, size: "1Gi"})
	s.pod("writer", "data", false)
	return s
}

// The controller plugin is killed while it answers ControllerExpandVolume: it
// was stopped before, so that it cannot have answered.
func TestControllerKilledDuringGrowth(t *testing.T) {
	s := inUse(t)
	undisturbed := s.undisturbed()
	s.signal("STOP", "/growvol-controller")
	s.patch("data", "2Gi")
	s.await("pvc/data", "{.status.allocatedResourceStatuses.storage}", "ControllerResizeInProgress")
	s.signal("KILL", "/growvol-controller")
	s.grown("data", "2Gi")
	s.wantSize("writer", mounted, 2*volume.GiB)

	// The whole pod, with the sidecars.
	s.patch("data", "3Gi")
	s.must(kubectl(t.Context(), "delete", "pods", "--namespace", "growvol", "--selector", controllers, "--grace-period=0", "--force"))
	s.grown("data", "3Gi")
	s.wantSize("writer", mounted, 3*volume.GiB)
	undisturbed()
	s.wantData("writer")
}

// The node plugin is killed while it answers NodeExpandVolume.
func TestNodeKilledDuringGrowth(t *testing.T) {
	s := inUse(t)
	undisturbed := s.undisturbed()
	s.signal("STOP", "/growvol-node")
	s.patch("data", "2Gi")
	s.await("pvc/data", "{.status.allocatedResourceStatuses.storage}", "NodeResizeInProgress")
	s.signal("KILL", "/growvol-node")
	s.grown("data", "2Gi")
	s.wantSize("writer", mounted, 2*volume.GiB)

	// The whole pod, with the registrar.
	s.patch("data", "3Gi")
	s.must(kubectl(t.Context(), "delete", "pods", "--namespace", "growvol", "--selector", nodes, "--grace-period=0", "--force"))
	s.grown("data", "3Gi")
	s.wantSize("writer", mounted, 3*volume.GiB)
	undisturbed()
	s.wantData("writer")
}

// kubelet is killed while a claim grows; the rig starts it again.
func TestKubeletRestartedDuringGrowth(t *testing.T) {
	s := inUse(t)
	undisturbed := s.undisturbed()
	s.patch("data", "2Gi")
	s.signal("KILL", "kubelet")
	s.grown("data", "2Gi")
	s.wantSize("writer", mounted, 2*volume.GiB)
	s.grows("data", "3Gi")
	undisturbed()
	s.wantData("writer")
}

// The release is upgraded, and rolled back, while pods use its volumes: both
// plugins start anew. Each time the next growth succeeds.
func TestUpgradeAndRollbackWithVolumesInUse(t *testing.T) {
	s := inUse(t)
	undisturbed := s.undisturbed()
	t.Cleanup(func() { install(s) }) // for the tests that follow
	helm := func(args ...string) {
		s.must(in(t.Context(), "", append([]string{"helm", "--namespace", s.release, "--wait", "--timeout=" + patience.String()}, args...)...))
	}
	before := s.templates()
	helm("upgrade", s.release, filepath.Join(s.root(), "deploy", "charts", "growvol"), "--reuse-values", "--set=logLevel=debug")
	upgraded := s.templates()
	if upgraded == before {
		t.Fatal("the upgrade has started no pod of growvol anew: nothing was tried")
	}
	s.grows("data", "2Gi")
	s.wantSize("writer", mounted, 2*volume.GiB)
	helm("rollback", s.release)
	if s.templates() == upgraded {
		t.Fatal("the rollback has started no pod of growvol anew: nothing was tried")
	}
	s.grows("data", "3Gi")
	s.wantSize("writer", mounted, 3*volume.GiB)
	undisturbed()
	s.wantData("writer")
}

// templates tells apart what the pods of growvol are made from.
func (s space) templates() string {
	s.Helper()
	return s.must(kubectl(s.Context(), "get", "deployments,daemonsets", "--namespace", s.release, "-o", "jsonpath={range .items[*]}{.metadata.name} {.metadata.generation} {end}"))
}

// growvol is removed and comes back while pods use its volumes. They write on
// all the time, and what was asked for meanwhile is done afterwards.
func TestReinstallWithVolumesInUse(t *testing.T) {
	s := inUse(t)
	undisturbed := s.undisturbed()
	uninstall(s)
	t.Cleanup(func() { install(s) }) // for the tests that follow, if this one fails
	s.patch("data", "2Gi")
	if size := s.pvc("data").Status.Capacity.Storage; size != "1Gi" {
		t.Errorf("nobody can have grown the volume, and the claim says %s", size)
	}
	install(s)
	s.grown("data", "2Gi")
	s.wantSize("writer", mounted, 2*volume.GiB)
	undisturbed()
	s.wantData("writer")
}

func install(s space) {
	s.Helper()
	s.must(program(context.WithoutCancel(s.Context()), "", "growvol", "install"))
}

func uninstall(s space) {
	s.Helper()
	s.must(program(s.Context(), "", "growvol", "uninstall"))
}
