package openstack_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"

	"github.com/growvol/growvol/tests/conformance"
	"github.com/growvol/growvol/tests/openstack"
	"github.com/growvol/growvol/tests/vm"
)

// testSanity runs csi-sanity with the controller on this machine and the node plugin in a guest.
func (r *rig) testSanity(t *testing.T) {
	r.checkLeftovers(t)
	g := r.guest(t, openstack.BusVirtioBlk)
	config := sanity.NewTestConfig()
	config.ControllerAddress, config.Address = "unix://"+r.socket, "passthrough:///"+g.Address(vm.NodePort)
	config.TargetPath, config.StagingPath = g.Dir+"/sanity/target", g.Dir+"/sanity/staging"
	config.CreateTargetDir, config.CreateStagingDir = g.makeDir, g.makeDir
	config.RemoveTargetPath, config.RemoveStagingPath = g.removeDir, g.removeDir
	config.CheckPath = g.pathKind
	config.TestVolumeSize, config.TestVolumeExpandSize = gib, 2*gib
	// A repetition takes about a second here; tests/conformance repeats more often.
	config.IdempotentCount = 2
	config.TestVolumeMutableParameters = map[string]string{"type": "rbd-gold"}
	conformance.Run(t, conformance.Suite{
		Configs: map[string]*sanity.TestConfig{"volumes": &config},
		Skips: map[string]string{
			"ControllerPublishVolume should fail when publishing more volumes": "Nova's limit depends on the bus; " +
				"the test would take minutes",
		},
		MinPassed: 80,
	})
}

// makeDir, removeDir and pathKind do for csi-sanity in the guest what it does locally by default.

func (g *guest) makeDir(path string) (string, error) {
	_, err := g.Run(context.Background(), vm.Command{Argv: []string{"mkdir", "-p", path}})
	return path, err
}

func (g *guest) removeDir(path string) error {
	_, err := g.Run(context.Background(), vm.Command{Argv: []string{"rmdir", path}})
	return err
}

func (g *guest) pathKind(path string) (sanity.PathKind, error) {
	const script = `if [ -f "$0" ]; then echo file; elif [ -d "$0" ]; then echo directory; ` +
		`elif [ -e "$0" ]; then echo other; else echo not_found; fi`
	out, err := g.Run(context.Background(), vm.Command{Argv: []string{"sh", "-c", script, filepath.Clean(path)}})
	if err != nil {
		return "", fmt.Errorf("find the kind of %s in the guest: %w", path, err)
	}
	return sanity.IsPathKind(strings.TrimSpace(out))
}
