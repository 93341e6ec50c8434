package kubernetes_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/growvol/growvol/tests/ceph"
)

// TestMain moves the tests into the network namespace of Ceph, if one is named: the nodes that are
// guests are reached from there only.
func TestMain(m *testing.M) {
	if dir := os.Getenv(cephVariable); dir != "" {
		_, err := ceph.Build(context.Background())
		if err == nil {
			err = ceph.EnterNamespace(dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}
