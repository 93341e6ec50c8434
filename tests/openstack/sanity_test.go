package openstack_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"

	"github.com/growvol/growvol/tests/openstack"
	"github.com/growvol/growvol/tests/vm"
)

// expectedSkips are parts of the names of tests that csi-sanity passes over,
// and why that is right. Any other skip fails the test.
func expectedSkips() map[string]string {
	return map[string]string{
		"ListVolumes pagination should detect volumes added between pages":                             "marked as pending by csi-sanity itself",
		"ControllerPublishVolume should fail when publishing more volumes":                             "Nova's limit depends on the bus; filling it would take minutes",
		"ControllerPublishVolume should fail when the volume is already published but is incompatible": "PUBLISH_READONLY is not offered",
		"should succeed when creating a snapshot with accessibility requirements":                      "alpha in CSI v1.13, not offered",
		"VolumeHealth":      "alpha in CSI v1.13, not offered",
		"StorageHealth":     "alpha in CSI v1.13, not offered",
		"[GroupController ": "group snapshots are not offered",
	}
}

// testSanity runs csi-sanity with the controller on this machine and the node
// plugin in a server.
func (r *rig) testSanity(t *testing.T) {
	r.tidy(t)
	g := r.guest(t, openstack.VirtioBlk)
	config := sanity.NewTestConfig()
	config.ControllerAddress, config.Address = "unix://"+r.socket, "passthrough:///"+g.Address(vm.NodePort)
	config.TargetPath, config.StagingPath = g.Dir+"/sanity/target", g.Dir+"/sanity/staging"
	config.CreateTargetDir, config.CreateStagingDir = g.makeDir, g.makeDir
	config.RemoveTargetPath, config.RemoveStagingPath = g.removeDir, g.removeDir
	config.CheckPath = g.pathKind
	config.TestVolumeSize, config.TestVolumeExpandSize = gib, 2*gib
	// Each repetition costs a second or so here; tests/conformance has more.
	config.IdempotentCount = 2
	config.TestVolumeMutableParameters = map[string]string{"type": "rbd-gold"}
	sanity.GinkgoTest(&config)

	var passed int
	ginkgo.ReportAfterSuite("skips", func(report types.Report) { passed = judge(t, report) })
	gomega.RegisterFailHandler(ginkgo.Fail)
	suite, reporter := ginkgo.GinkgoConfiguration()
	reporter.Succinct, reporter.NoColor = true, true
	ginkgo.RunSpecs(t, "csi-sanity", suite, reporter)
	t.Logf("csi-sanity: %d passed", passed)
	// A suite that finds nothing to do must not pass for a good one.
	if passed < 80 {
		t.Errorf("only %d tests ran", passed)
	}
}

// judge counts the tests that passed and fails the test for a skip that is
// not expected.
func judge(t *testing.T, report types.Report) (passed int) {
	t.Helper()
	for _, s := range report.SpecReports {
		switch {
		case !s.LeafNodeType.Is(types.NodeTypeIt):
		case s.State.Is(types.SpecStatePassed):
			passed++
		case s.State.Is(types.SpecStateSkipped | types.SpecStatePending):
			t.Logf("skipped: %s: %s", s.FullText(), skipReason(t, s))
		}
	}
	return passed
}

func skipReason(t *testing.T, s types.SpecReport) string {
	t.Helper()
	for part, why := range expectedSkips() {
		if strings.Contains(s.FullText(), part) {
			return why
		}
	}
	t.Errorf("not expected to be skipped: %s (%s)", s.FullText(), s.Failure.Message)
	return s.Failure.Message
}

// csi-sanity looks after directories on the node, which is the guest.

func (g *guest) makeDir(path string) (string, error) {
	_, err := g.Run(context.Background(), vm.Command{Argv: []string{"mkdir", "-p", path}})
	return path, err
}

func (g *guest) removeDir(path string) error {
	_, err := g.Run(context.Background(), vm.Command{Argv: []string{"rmdir", path}})
	return err
}

func (g *guest) pathKind(path string) (sanity.PathKind, error) {
	const script = `if [ -f "$0" ]; then echo file; elif [ -d "$0" ]; then echo directory; elif [ -e "$0" ]; then echo other; else echo not_found; fi`
	out, err := g.Run(context.Background(), vm.Command{Argv: []string{"sh", "-c", script, filepath.Clean(path)}})
	if err != nil {
		return "", fmt.Errorf("look at %s in the guest: %w", path, err)
	}
	return sanity.IsPathKind(strings.TrimSpace(out))
}
