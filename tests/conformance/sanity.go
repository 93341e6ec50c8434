// Package conformance runs csi-sanity, the conformance suite of the CSI project, against a driver:
//
//	config := sanity.NewTestConfig()
//	config.Address = "unix:///run/csi.sock"
//	conformance.Run(t, conformance.Suite{
//		Configs:   map[string]*sanity.TestConfig{"mount volumes": &config},
//		MinPassed: 80,
//	})
//
// The test of this package runs the suite against the real plugins with the loop backend, in a
// guest. tests/openstack runs it against Cinder and Nova.
package conformance

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"
)

// Suite is one run of csi-sanity.
type Suite struct {
	// Configs are the configurations with which csi-sanity runs, by the title in its report.
	Configs map[string]*sanity.TestConfig
	// Skips has the reason why csi-sanity skips a test, by a part of the test's name. Any other
	// skip fails the test, except those that every driver of this project has.
	Skips map[string]string
	// Excluded are parts of the names of tests that do not run at all. They count as skips.
	Excluded []string
	// MinPassed is the minimum number of tests that must pass, so that a suite that finds nothing
	// to test does not count as passed.
	MinPassed int
	// Timeout bounds the suite; 0 stands for the default of ginkgo, one hour.
	Timeout time.Duration
}

// commonSkips has the skips of every driver of this project.
func commonSkips() map[string]string {
	const alpha = "alpha in CSI v1.13, not offered"
	return map[string]string{
		"should detect volumes added between pages":                               "pending in csi-sanity",
		"should fail when the volume is already published but is incompatible":    "PUBLISH_READONLY is not offered",
		"should succeed when creating a snapshot with accessibility requirements": alpha,
		"VolumeHealth":      alpha,
		"StorageHealth":     alpha,
		"[GroupController ": "group snapshots are not offered",
	}
}

// Run runs the suite and fails the test if a test of the suite fails, is skipped for no known
// reason, or if fewer than MinPassed pass. It reports whether all tests of the suite passed or were
// skipped. A process can call Run only once.
func Run(t *testing.T, s Suite) bool {
	t.Helper()
	for _, title := range slices.Sorted(maps.Keys(s.Configs)) {
		ginkgo.Describe(title, func() { sanity.GinkgoTest(s.Configs[title]) })
	}
	var passed, skipped int
	ginkgo.ReportAfterSuite("skips", func(r types.Report) { passed, skipped = s.count(t, r) })
	gomega.RegisterFailHandler(ginkgo.Fail)
	suite, reporter := ginkgo.GinkgoConfiguration()
	suite.SkipStrings = s.Excluded
	suite.Timeout = cmp.Or(s.Timeout, suite.Timeout)
	reporter.Succinct, reporter.NoColor = true, true
	ok := ginkgo.RunSpecs(t, "csi-sanity", suite, reporter)
	t.Logf("csi-sanity: %d tests passed, %d were skipped", passed, skipped)
	if passed < s.MinPassed {
		t.Errorf("csi-sanity: %d tests passed, want at least %d", passed, s.MinPassed)
	}
	return ok
}

// count returns the numbers of passed and skipped tests, and logs each skip with its reason.
func (s Suite) count(t *testing.T, r types.Report) (passed, skipped int) {
	t.Helper()
	for _, spec := range r.SpecReports {
		switch {
		case !spec.LeafNodeType.Is(types.NodeTypeIt):
		case spec.State.Is(types.SpecStatePassed):
			passed++
		case spec.State.Is(types.SpecStateSkipped | types.SpecStatePending):
			skipped++
			t.Logf("skipped: %s: %s", spec.FullText(), s.skipReason(t, spec))
		}
	}
	return passed, skipped
}

// skipReason returns the reason of a skip; it fails the test if the reason is not known.
func (s Suite) skipReason(t *testing.T, spec types.SpecReport) string {
	t.Helper()
	for _, known := range []map[string]string{s.Skips, commonSkips()} {
		for part, reason := range known {
			if strings.Contains(spec.FullText(), part) {
				return reason
			}
		}
	}
	t.Errorf("csi-sanity skipped a test without a known reason: %s (%s)", spec.FullText(), spec.Failure.Message)
	return spec.Failure.Message
}
