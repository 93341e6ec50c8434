// Package ceph_test drives the real plugins with the rbd backend against a real Ceph: the
// controller in the network namespace of the rig, growvol-node in guests. The program `up` of this
// directory starts the Ceph.
package ceph_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/growvol/growvol/tests/ceph"
)

const (
	// rigVariable is the environment variable with the directory of a running rig.
	rigVariable = "GROWVOL_CEPH_DIR"
	// binVariable and sourceVariable have the fields of the ceph.Programs that TestMain has built.
	binVariable    = "GROWVOL_CEPH_BIN"
	sourceVariable = "GROWVOL_CEPH_SOURCE"
)

func TestMain(m *testing.M) {
	if err := prepare(context.Background(), os.Getenv(rigVariable)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// prepare builds the programs and enters the namespace of the rig, where it starts this program
// again. Without a rig it does nothing.
func prepare(ctx context.Context, dir string) error {
	if dir == "" {
		return nil
	}
	if os.Getenv(binVariable) == "" {
		programs, err := ceph.Build(ctx)
		if err != nil {
			return err
		}
		for name, value := range map[string]string{binVariable: programs.Bin, sourceVariable: programs.Source} {
			if err := os.Setenv(name, value); err != nil {
				return err
			}
		}
	}
	// More tests wait concurrently than there are processors. csi-sanity refuses -test.parallel,
	// whose default is this variable. The plugins do not get it.
	if err := os.Setenv("GOMAXPROCS", "6"); err != nil {
		return err
	}
	if err := ceph.EnterNamespace(dir); err != nil {
		return err
	}
	return os.Unsetenv("GOMAXPROCS")
}

// TestCeph is one test so that its parts share the nodes. The parts that disturb Ceph run first and
// alone. The others run concurrently: most of their time they wait for Ceph, for a node, or for a
// timeout of the kernel.
func TestCeph(t *testing.T) {
	dir := os.Getenv(rigVariable)
	if dir == "" {
		t.Skipf("no Ceph: %s is not set (next step: make ceph-test)", rigVariable)
	}
	r := newRig(t, dir)
	t.Run("paused", r.testPausedCluster)
	t.Run("stopped OSDs", r.testStoppedOSDs)
	t.Run("cut off", func(t *testing.T) {
		t.Parallel()
		t.Run("12 s", r.withGuests(testCutOff(12*time.Second), cutOffGuest))
		t.Run("45 s", r.withGuests(testCutOff(45*time.Second), longCutOffGuest))
	})
	t.Run("lost node", r.withGuests((*rig).testLostNode, lostGuestTaker, lostGuest))
	t.Run("fenced node", r.withGuests((*rig).testFencedNode, fencedGuestTaker, fencedGuest))
	t.Run("cut off in a group snapshot", r.withGuests((*rig).testCutOffGroupSnapshot, cutOffGroupGuest))
	t.Run("sanity", r.withGuests((*rig).testSanity, sanityGuest))
	t.Run("healthy", r.testHealthy)
}

// testHealthy runs the tests that disturb neither Ceph nor a node.
func (r *rig) testHealthy(t *testing.T) {
	t.Parallel()
	t.Run("lifecycle", r.testLifecycle)
	t.Run("copies", r.testCopies)
	t.Run("in-use copies", r.testCopiesInUse)
	t.Run("group snapshot", r.testGroupSnapshot)
	t.Run("changed blocks", r.testChangedBlocks)
	t.Run("limits", r.testLimits)
	t.Run("reclaim space", r.testReclaimSpace)
	t.Run("capacity", r.testCapacity)
	t.Run("attributes", r.testAttributes)
	t.Run("examples", r.testExamples)
	t.Run("ext4", r.testGrowth("ext4", nil))
	t.Run("encrypted", r.testGrowth("ext4", map[string]string{"encrypted": "true"}))
	t.Run("erasure-coded", r.testGrowth("xfs", map[string]string{"dataPool": ceph.DataPool}))
	t.Run("namespace", r.testGrowth("ext3", map[string]string{"clusterID": ceph.TenantCluster}))
	t.Run("object map", r.testGrowth("ext4", map[string]string{"imageFeatures": allFeatures}))
	t.Run("block", r.testBlock)
	t.Run("read-only", r.testReadOnly)
	t.Run("static", r.testStatic)
	t.Run("staged by ceph-csi", r.testStagedByCephCSI)
	t.Run("two nodes", r.testTwoNodes)
	t.Run("renamed image", r.testRenamedImage)
	t.Run("killed", r.testKilledController)
	t.Run("remainders", r.testRemainders)
	t.Run("mapped by hand", r.testExclusiveMapping)
	t.Run("full pool", r.testFullPool)
	t.Run("kernel client", r.testKernelClient)
}
