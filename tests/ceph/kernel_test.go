package ceph_test

import (
	"os"
	"path/filepath"
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
		Argv: []string{r.bin + "/krbd.test", "-test.v"}, Env: []string{rigVariable + "=" + configDir, "TMPDIR=/tmp"},
		Timeout: 8 * time.Minute, // a minute on an idle machine
	})
	t.Log(out)
	must.Succeed(t, err)
	if strings.Contains(out, "--- SKIP") {
		t.Error("some tests were skipped, although the guest has what they need")
	}
}
