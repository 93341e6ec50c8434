//go:build !ceph

package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/csiserver"
)

// A program without Ceph's libraries refuses the backend rbd and says which program has them.
func TestBackendRBDNeedsCephLibraries(t *testing.T) {
	args := []string{"--endpoint=unix://" + t.TempDir() + "/s", "--backend=rbd", "--ceph-config=x"}
	var stdout, stderr bytes.Buffer
	if code := newProgram().Run(t.Context(), args, &stdout, &stderr); code != csiserver.ExitFailed {
		t.Errorf("exit code: got %d, want %d", code, csiserver.ExitFailed)
	}
	if !strings.Contains(stderr.String(), "make build-ceph") {
		t.Errorf("got stderr %q, want the command that builds the program with the libraries", &stderr)
	}
}
