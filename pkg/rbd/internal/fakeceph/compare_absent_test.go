//go:build !ceph

package fakeceph

import "testing"

// This file stands for compare_ceph_test.go in tests without the build tag ceph.

func newRealWorld(t *testing.T) *world {
	t.Helper()
	t.Skip("no comparison with Ceph: built without the tag ceph (make ceph-up ceph-test builds with it)")
	return nil
}
