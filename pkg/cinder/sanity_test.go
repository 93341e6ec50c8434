package cinder_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"

	"github.com/growvol/growvol/pkg/cinder"
	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/controller"
	"github.com/growvol/growvol/pkg/csiserver"
	"github.com/growvol/growvol/tests/fakecloud"
)

// onlyInfo is a node service that says which server it is, for the tests of
// the controller; those of the node are skipped.
type onlyInfo struct {
	csi.UnimplementedNodeServer
	server string
}

func (o onlyInfo) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{
		NodeId: o.server, AccessibleTopology: &csi.Topology{Segments: map[string]string{cindercsi.TopologyKey: "nova"}},
	}, nil
}

func (onlyInfo) NodeGetCapabilities(
	context.Context, *csi.NodeGetCapabilitiesRequest,
) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

// NodeUnpublishVolume has nothing to undo; csi-sanity cleans up with it.
func (onlyInfo) NodeUnpublishVolume(
	context.Context, *csi.NodeUnpublishVolumeRequest,
) (*csi.NodeUnpublishVolumeResponse, error) {
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// NodeUnstageVolume as above.
func (onlyInfo) NodeUnstageVolume(
	context.Context, *csi.NodeUnstageVolumeRequest,
) (*csi.NodeUnstageVolumeResponse, error) {
	return &csi.NodeUnstageVolumeResponse{}, nil
}

// expectedSkips are the parts of names of tests that csi-sanity passes over,
// and why that is right. Any other skip fails.
func expectedSkips() map[string]string {
	return map[string]string{
		"Node Service": "there is no node in this test; tests/conformance and tests/openstack have one",

		"ListVolumes pagination should detect volumes added between pages": "csi-sanity marks it as pending",
		"ControllerPublishVolume should fail when publishing more volumes": "Nova does not report a server's limit",

		"ControllerPublishVolume should fail when the volume is already published but ": "PUBLISH_READONLY is not offered",
		"should succeed when creating a snapshot with accessibility requirements":       "alpha in CSI v1.13, not offered",

		"[GroupController ": "group snapshots are not offered",
		"VolumeHealth":      "alpha in CSI v1.13, not requested",
		"StorageHealth":     "alpha in CSI v1.13, not offered",
	}
}

// TestSanity runs csi-sanity, the CSI project's conformance suite, against the
// controller over its socket.
func TestSanity(t *testing.T) {
	cloud := fakecloud.Start(t, fakecloud.Options{})
	dir := t.TempDir()
	path, err := cloud.WriteCloudsYAML(dir)
	if err != nil {
		t.Fatal(err)
	}
	backend, err := cinder.New(t.Context(), cinder.Options{
		Clouds: cinder.CloudOptions{CloudsYAML: path, Default: "csi"}, ClusterID: "kubernetes", Topology: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	identity, err := csiserver.NewIdentity(
		cindercsi.DriverName, "test", csiserver.Capabilities{Controller: true, Topology: true, Expansion: true},
		backend.CheckHealth,
	)
	if err != nil {
		t.Fatal(err)
	}
	socket := "unix://" + filepath.Join(dir, "csi.sock")
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- csiserver.Run(ctx, csiserver.Options{
			Endpoint: socket, Identity: identity, Controller: controller.New(backend, controller.Options{}),
			Node: onlyInfo{server: cloud.AddServer("")},
		})
	}()
	parameters := filepath.Join(dir, "mutable.yaml")
	if err := os.WriteFile(parameters, []byte("type: rbd-gold\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := sanity.NewTestConfig()
	config.Address, config.ControllerAddress = socket, socket
	config.TargetPath, config.StagingPath = filepath.Join(dir, "target"), filepath.Join(dir, "staging")
	config.TestVolumeSize, config.TestVolumeExpandSize = 1<<30, 3<<30
	config.TestVolumeMutableParametersFile = parameters
	config.IdempotentCount = 2
	ginkgo.Describe("volumes", func() { sanity.GinkgoTest(&config) })
	var passed int
	ginkgo.ReportAfterSuite("skips", func(r types.Report) { passed = count(t, r) })
	gomega.RegisterFailHandler(ginkgo.Fail)
	suite, reporter := ginkgo.GinkgoConfiguration()
	suite.SkipStrings = []string{"Node Service"}
	suite.Timeout = 5 * time.Minute
	reporter.Succinct, reporter.NoColor = true, true
	ginkgo.RunSpecs(t, "csi-sanity of the Cinder backend", suite, reporter)
	if passed < 60 {
		t.Errorf("only %d tests ran", passed)
	}
	t.Logf("csi-sanity: %d passed", passed)
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if left := cloud.Volumes(); len(left) > 0 {
		t.Errorf("%d volumes are left: %s", len(left), fmt.Sprintf("%+v", left[0]))
	}
}

// count counts the tests that passed and refuses skips that are not expected.
func count(t *testing.T, r types.Report) (passed int) {
	t.Helper()
	for _, s := range r.SpecReports {
		switch {
		case !s.LeafNodeType.Is(types.NodeTypeIt):
		case s.State.Is(types.SpecStatePassed):
			passed++
		case s.State.Is(types.SpecStateSkipped | types.SpecStatePending):
			expected := false
			for part, why := range expectedSkips() {
				if strings.Contains(s.FullText(), part) {
					t.Logf("skipped: %s: %s", s.FullText(), why)
					expected = true
					break
				}
			}
			if !expected {
				t.Errorf("not expected to be skipped: %s (%s)", s.FullText(), s.Failure.Message)
			}
		}
	}
	return passed
}
