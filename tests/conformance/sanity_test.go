package conformance

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/guest"
	"github.com/growvol/growvol/tests/must"
)

func TestMain(m *testing.M) { os.Exit(csiclient.Main(m, guest.Options{})) }

// TestSanity runs csi-sanity against the real plugins with the loop backend, over their sockets, on
// the kernel of a guest.
func TestSanity(t *testing.T) {
	dir := t.TempDir()
	log := must.Value(os.Create(filepath.Join(dir, "plugins.log")))(t)
	d := must.Value(csiclient.Deploy(t.Context(), csiclient.BinDir(), dir, log, "--log-level=debug"))(t)
	defer d.Kill()
	configs := map[string]*sanity.TestConfig{}
	for _, access := range []string{"mount", "block"} {
		config := sanity.NewTestConfig()
		config.ControllerAddress, config.Address = "unix://"+d.ControllerSocket(), "unix://"+d.NodeSocket()
		config.TargetPath, config.StagingPath = filepath.Join(dir, "target"), filepath.Join(dir, "staging")
		config.TestVolumeSize, config.TestVolumeExpandSize = 1<<30, 3<<30
		config.TestVolumeAccessType = access
		config.TestNodeVolumeAttachLimit = true
		configs[access+" volumes"] = &config
	}
	ok := Run(t, Suite{
		Configs: configs,
		Skips: map[string]string{
			"volume attribute class":                                           "the loop backend has nothing to modify",
			"ModifyVolume [Controller Server]":                                 "the loop backend has nothing to modify",
			"ControllerPublishVolume should fail when publishing more volumes": "a node has no limit of loop devices",
		},
		MinPassed: 150,
	})
	if !ok {
		if text, err := os.ReadFile(log.Name()); err == nil {
			t.Logf("end of the log of the plugins:\n%s", text[max(0, len(text)-20000):])
		}
	}
	if err := d.Stop(); err != nil {
		t.Errorf("stop the plugins: %v", err)
	}
	leftovers, err := d.Leftovers()
	if err != nil || len(leftovers) > 0 {
		t.Errorf("after the suite: got the leftovers %v (%v), want none", leftovers, err)
	}
}
