// Package conformance runs csi-sanity, the CSI project's conformance suite,
// against the real plugins over their sockets, on a real kernel.
package conformance

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/guest"
)

func TestMain(m *testing.M) { os.Exit(csiclient.Main(m, guest.Options{})) }

// expectedSkips are parts of the names of tests that csi-sanity passes over,
// and why that is right. Any other skip fails the suite.
func expectedSkips() map[string]string {
	return map[string]string{
		"ListVolumes pagination should detect volumes added between pages": "marked as pending by csi-sanity itself",
		"volume attribute class":                                                        "the loop backend has nothing to modify",
		"ModifyVolume [Controller Server]":                                              "the loop backend has nothing to modify",
		"ControllerPublishVolume should fail when publishing more volumes":              "a node takes any number of loop devices",
		"ControllerPublishVolume should fail when the volume is already published but ": "PUBLISH_READONLY is not offered",
		"should succeed when creating a snapshot with accessibility requirements":       "alpha in CSI v1.13, not offered",
		"VolumeHealth":      "alpha in CSI v1.13, not offered",
		"StorageHealth":     "alpha in CSI v1.13, not offered",
		"[GroupController ": "group snapshots are not offered",
	}
}

func TestSanity(t *testing.T) {
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "plugins.log"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := csiclient.Deploy(t.Context(), csiclient.BinDir(), dir, log, "--log-level=debug")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Kill()
	for _, access := range []string{"mount", "block"} {
		config := sanity.NewTestConfig()
		config.ControllerAddress, config.Address = "unix://"+d.ControllerSocket(), "unix://"+d.NodeSocket()
		config.TargetPath, config.StagingPath = filepath.Join(dir, "target"), filepath.Join(dir, "staging")
		config.TestVolumeSize, config.TestVolumeExpandSize = 1<<30, 3<<30
		config.TestVolumeAccessType = access
		config.TestNodeVolumeAttachLimit = true
		ginkgo.Describe(access+" volumes", func() { sanity.GinkgoTest(&config) })
	}
	var passed, skipped int
	ginkgo.ReportAfterSuite("skips", func(r types.Report) { passed, skipped = count(t, r) })
	gomega.RegisterFailHandler(ginkgo.Fail)
	suite, reporter := ginkgo.GinkgoConfiguration()
	reporter.Succinct, reporter.NoColor = true, true
	if !ginkgo.RunSpecs(t, "csi-sanity", suite, reporter) {
		if text, err := os.ReadFile(log.Name()); err == nil {
			t.Logf("log of the plugins:\n%s", text[max(0, len(text)-20000):])
		}
	}
	t.Logf("csi-sanity: %d passed, %d skipped", passed, skipped)
	// A suite that silently finds nothing to do must not pass for a good one.
	if passed < 150 {
		t.Errorf("only %d tests ran", passed)
	}
	if err := d.Stop(); err != nil {
		t.Errorf("a plugin did not end well: %v", err)
	}
	left, err := d.Leftovers()
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// count counts the tests and prints each skip with its reason.
func count(t *testing.T, r types.Report) (passed, skipped int) {
	t.Helper()
	for _, s := range r.SpecReports {
		switch {
		case !s.LeafNodeType.Is(types.NodeTypeIt):
		case s.State.Is(types.SpecStatePassed):
			passed++
		case s.State.Is(types.SpecStateSkipped | types.SpecStatePending):
			skipped++
			t.Logf("skipped: %s: %s", s.FullText(), reason(t, s))
		}
	}
	return passed, skipped
}

func reason(t *testing.T, s types.SpecReport) string {
	t.Helper()
	for part, why := range expectedSkips() {
		if strings.Contains(s.FullText(), part) {
			return why
		}
	}
	t.Errorf("not expected to be skipped: %s (%s)", s.FullText(), s.Failure.Message)
	return s.Failure.Message
}
