package ceph_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/vm"
)

// testKernelClient runs the tests of package krbd in a guest. They use Ceph's own programs, as the
// administrator.
func (r *rig) testKernelClient(t *testing.T) {
	t.Parallel()
	n := r.nextNode()
	for _, name := range []string{"ceph.conf", "keyring.client.admin"} {
		content := must.Value(os.ReadFile(filepath.Join(r.Dir, name)))(t)
		must.Succeed(t, n.guest.WriteFile(t.Context(), configDir+"/"+name, 0o600, content))
	}
	out, err := n.guest.Run(testContext(t), vm.Command{
		Argv: []string{n.bin + "/krbd.test", "-test.v"}, Env: []string{rigVariable + "=" + configDir, "TMPDIR=/tmp"},
		Timeout: 3 * time.Minute,
	})
	t.Log(out)
	must.Succeed(t, err)
	if strings.Contains(out, "--- SKIP") {
		t.Error("some tests were skipped, although the guest has what they need")
	}
}
