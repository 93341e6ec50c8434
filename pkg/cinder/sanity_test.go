package cinder_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"

	"github.com/growvol/growvol/pkg/cinder"
	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/controller"
	"github.com/growvol/growvol/pkg/csiserver"
	"github.com/growvol/growvol/tests/conformance"
	"github.com/growvol/growvol/tests/fakecloud"
)

// onlyInfo is a node service that says which server it is, for the tests of the
// controller; those of the node are skipped.
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
	identity, err := csiserver.NewIdentity(cindercsi.DriverName, true, backend.CheckHealth)
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
	conformance.Run(t, conformance.Suite{
		Configs:  map[string]*sanity.TestConfig{"volumes": &config},
		Excluded: []string{"Node Service"},
		Skips: map[string]string{
			"Node Service": "this test has no node; tests/conformance and tests/openstack have one",
			"ControllerPublishVolume should fail when publishing more volumes": "Nova does not report a limit of volumes",
		},
		MinPassed: 60,
		Timeout:   5 * time.Minute,
	})
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if left := cloud.Volumes(); len(left) > 0 {
		t.Errorf("%d volumes are left: %s", len(left), fmt.Sprintf("%+v", left[0]))
	}
}
