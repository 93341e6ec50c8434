// Package ceph_test drives the real plugins with the rbd backend against a real Ceph: the controller
// in the network namespace of the rig, growvol-node in guests. The program `up` of this directory
// starts the Ceph.
package ceph_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/growvol/growvol/tests/ceph"
)

// rigVariable is the environment variable with the directory of a running rig, and programsVariable
// that with the directory of the programs that TestMain has built.
const (
	rigVariable      = "GROWVOL_CEPH_DIR"
	programsVariable = "GROWVOL_CEPH_PROGRAMS"
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
	if os.Getenv(programsVariable) == "" {
		programs, err := ceph.Build(ctx)
		if err != nil {
			return err
		}
		if err := os.Setenv(programsVariable, programs.Bin); err != nil {
			return err
		}
	}
	return ceph.EnterNamespace(dir)
}
