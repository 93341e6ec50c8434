// Package ceph_test drives the real plugins with the rbd backend against a real Ceph: the controller
// in the network namespace of the rig, growvol-node in guests. The program `up` of this directory
// starts the Ceph.
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
	return ceph.EnterNamespace(dir)
}

// TestCeph is one test so that its parts share the nodes. The parts of a group run concurrently:
// most of their time they wait for Ceph, for a node, or for a timeout of the kernel.
func TestCeph(t *testing.T) {
	dir := os.Getenv(rigVariable)
	if dir == "" {
		t.Skipf("no Ceph: %s is not set (next step: make ceph-test)", rigVariable)
	}
	r := newRig(t, dir)
	together := func(group string, parts map[string]func(*testing.T)) {
		t.Run(group, func(t *testing.T) {
			for name, part := range parts {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					part(t)
				})
			}
		})
	}
	together("healthy", map[string]func(*testing.T){
		"lifecycle":      r.testLifecycle,
		"copies":         r.testCopies,
		"copies in use":  r.testCopiesInUse,
		"group snapshot": r.testGroupSnapshot,
		"changed blocks": r.testChangedBlocks,
		"limits":         r.testLimits,
		"capacity":       r.testCapacity,
		"attributes":     r.testAttributes,
		"ext3":           r.testGrowth("ext3", nil),
		"ext4":           r.testGrowth("ext4", nil),
		"xfs":            r.testGrowth("xfs", nil),
		"encrypted":      r.testGrowth("ext4", map[string]string{"encrypted": "true"}),
		"erasure-coded":  r.testGrowth("xfs", map[string]string{"dataPool": ceph.DataPool}),
		"namespace":      r.testGrowth("ext4", map[string]string{"clusterID": ceph.TenantCluster}),
		"object map":     r.testGrowth("ext4", map[string]string{"imageFeatures": allFeatures}),
		"block":          r.testBlock,
		"read-only":      r.testReadOnly,
		"static":         r.testStatic,
		"two nodes":      r.testTwoNodes,
		"renamed image":  r.testRenamedImage,
		"killed":         r.testKilledController,
		"mapped by hand": r.testExclusiveMapping,
		"full pool":      r.testFullPool,
		"kernel client":  r.testKernelClient,
	})
	t.Run("sanity", r.testSanity)
	together("cut off", map[string]func(*testing.T){
		"12 s": r.testCutOff(0, 12*time.Second),
		"45 s": r.testCutOff(1, 45*time.Second),
	})
	t.Run("cut off in a group snapshot", r.testCutOffGroupSnapshot)
	t.Run("paused", r.testPausedCluster)
	t.Run("stopped OSDs", r.testStoppedOSDs)
	t.Run("fenced node", r.testFencedNode)
	t.Run("lost node", r.testLostNode) // ends a node
}
