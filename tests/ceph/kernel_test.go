package ceph_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/tests/ceph"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/vm"
)

// testKernelClient runs the tests of package krbd in a guest of their own, because they cut it off
// from Ceph. They use Ceph's own programs, as the administrator.
func (r *rig) testKernelClient(t *testing.T) {
	t.Parallel()
	n := must.Value(r.Boot(t.Context(), ceph.NodeOptions{Number: kernelGuest, Programs: r.bin}))(t)
	t.Cleanup(func() {
		if err := n.Kill(); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"ceph.conf", "keyring.client.admin", "keys/userID", "keys/userKey"} {
		content := must.Value(os.ReadFile(filepath.Join(r.Dir, name)))(t)
		must.Succeed(t, n.WriteFile(t.Context(), configDir+"/"+name, 0o600, content))
	}
	out, err := n.Run(t.Context(), vm.Command{
		Argv:    []string{r.bin + "/krbd.test", "-test.v", "-test.run=^TestReal"},
		Env:     []string{rigVariable + "=" + configDir, "TMPDIR=/tmp"},
		Timeout: 12 * time.Minute, // a minute on an idle machine
	})
	reportTests(t, out)
	must.Succeed(t, err)
}

// reportTests runs a subtest for each test of a program whose output with -test.v this is. It fails
// where the test has failed or was skipped: the guest has what all of them need.
func reportTests(t *testing.T, out string) {
	t.Helper()
	starts := regexp.MustCompile(`(?m)^=== RUN   ([^/\n]+)$`).FindAllStringSubmatchIndex(out, -1)
	if len(starts) == 0 {
		t.Errorf("got the output %q, want that of tests", out)
	}
	for i, start := range starts {
		text, name := out[start[1]:], out[start[2]:start[3]]
		if i+1 < len(starts) {
			text = out[start[1]:starts[i+1][0]]
		}
		t.Run(name, func(t *testing.T) {
			t.Log(text)
			if !strings.Contains(text, "--- PASS: "+name+" ") || strings.Contains(text, "--- SKIP") {
				t.Error("in the guest, the test or a part of it did not pass")
			}
		})
	}
}
