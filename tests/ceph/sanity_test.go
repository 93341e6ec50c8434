package ceph_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"

	"github.com/growvol/growvol/tests/ceph"
	"github.com/growvol/growvol/tests/conformance"
	"github.com/growvol/growvol/tests/vm"
)

// testSanity runs csi-sanity with the controller on this machine and the node plugin in a guest.
// The controller has the Nodes of Kubernetes, by which it knows which nodes exist, and sees only a
// pool of its own: csi-sanity expects that nobody else creates or deletes volumes meanwhile.
func (r *rig) testSanity(t *testing.T) { //nolint:thelper // a test, no helper
	r.user = ceph.SanityKeys
	k, _ := r.startKubernetes(t)
	n := r.nodes[0]
	config := sanity.NewTestConfig()
	config.ControllerAddress, config.Address = "unix://"+k.socket, "passthrough:///"+n.guest.NodeAddress()
	config.TargetPath, config.StagingPath = n.Dir+"/sanity/target", n.Dir+"/sanity/staging"
	config.CreateTargetDir, config.CreateStagingDir = n.makeDir, n.makeDir
	config.RemoveTargetPath, config.RemoveStagingPath = n.removeDir, n.removeDir
	config.CheckPath = n.pathKind
	config.TestVolumeSize, config.TestVolumeExpandSize = gib, 2*gib
	config.IdempotentCount = 2
	config.TestVolumeParameters = class(map[string]string{"pool": ceph.SanityPool})
	config.TestVolumeMutableParameters = map[string]string{"maxWriteBps": "1048576"}
	conformance.Run(t, conformance.Suite{
		Configs: map[string]*sanity.TestConfig{"volumes": &config},
		Skips: map[string]string{
			"ControllerPublishVolume should fail when publishing more volumes": "a node has no limit of mapped images",
		},
		MinPassed: 98,
	})
	if left := r.imageNames(t, config.TestVolumeParameters["pool"]); len(left) > 0 {
		t.Errorf("csi-sanity has deleted its volumes, but Ceph still has %v", left)
	}
}

// makeDir, removeDir and pathKind do for csi-sanity in the guest what it does locally by default.

func (n *node) makeDir(path string) (string, error) {
	_, err := n.guest.Run(context.Background(), vm.Command{Argv: []string{"mkdir", "-p", path}})
	return path, err
}

func (n *node) removeDir(path string) error {
	_, err := n.guest.Run(context.Background(), vm.Command{Argv: []string{"rmdir", path}})
	return err
}

func (n *node) pathKind(path string) (sanity.PathKind, error) {
	const script = `if [ -f "$0" ]; then echo file; elif [ -d "$0" ]; then echo directory; ` +
		`elif [ -e "$0" ]; then echo other; else echo not_found; fi`
	out, err := n.guest.Run(context.Background(), vm.Command{Argv: []string{"sh", "-c", script, filepath.Clean(path)}})
	if err != nil {
		return "", fmt.Errorf("find the kind of %s in the guest: %w", path, err)
	}
	return sanity.IsPathKind(strings.TrimSpace(out))
}
