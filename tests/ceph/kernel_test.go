package ceph_test

import "testing"

// testKernelClient runs the tests of package krbd in a guest.
func (r *rig) testKernelClient(t *testing.T) { t.Skip("TODO") }
