package cgroup

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

const podUID = "0b0e005c-39ec-4719-bbfe-78aadbc3e4ad"

// newSystem returns a directory in the form of a hierarchy of version 2 with the group of the pod.
// Its io.max is a plain file: it shows what was written last.
func newSystem(t *testing.T, group string) (s System, file string) {
	t.Helper()
	s = System{Root: t.TempDir()}
	dir := filepath.Join(s.Root, group)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, ioMax)
	for _, name := range []string{filepath.Join(s.Root, "cgroup.controllers"), file} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s, file
}

func TestLimitPodWritesTheLimitsOfEveryKindOfGroup(t *testing.T) {
	t.Parallel()
	for _, group := range []string{
		"kubepods.slice/kubepods-pod0b0e005c_39ec_4719_bbfe_78aadbc3e4ad.slice",
		"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0b0e005c_39ec_4719_bbfe_78aadbc3e4ad.slice",
		"kubepods/pod" + podUID, "kubepods/besteffort/pod" + podUID,
	} {
		s, file := newSystem(t, group)
		limits := volume.IOLimits{ReadBPS: 1 << 20, WriteIOPS: 100}
		err := s.LimitPod(t.Context(), podUID, blockdev.Device{Major: 252, Minor: 16}, limits)
		if err != nil {
			t.Errorf("%s: %v", group, err)
		}
		got, err := os.ReadFile(file) //nolint:gosec // of this test
		if want := "252:16 rbps=1048576 wbps=max riops=max wiops=100\n"; err != nil || string(got) != want {
			t.Errorf("%s: got %q (%v), want %q", group, got, err, want)
		}
	}
}

func TestFindReadsTheLineOfTheDevice(t *testing.T) {
	t.Parallel()
	content := "8:0 rbps=1 wbps=max riops=max wiops=max\n252:16 rbps=max wbps=2 riops=3 wiops=max\n"
	for d, want := range map[blockdev.DeviceNumber]volume.IOLimits{
		{Major: 252, Minor: 16}: {WriteBPS: 2, ReadIOPS: 3}, {Major: 8}: {ReadBPS: 1}, {Major: 9}: {},
	} {
		if got := find(content, d); got != want {
			t.Errorf("%s: got %+v, want %+v", d, got, want)
		}
	}
}

func TestLimitPodRefusesWhatItCannotEnforce(t *testing.T) {
	t.Parallel()
	limits := volume.IOLimits{ReadBPS: 1}
	err := System{Root: t.TempDir()}.LimitPod(t.Context(), podUID, blockdev.Device{}, limits)
	volumetest.WantKind(t, err, volume.KindPrecondition, "no cgroup v2")
	s, _ := newSystem(t, "kubepods/podx")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	volumetest.WantKind(t, s.LimitPod(ctx, podUID, blockdev.Device{}, limits), volume.KindUnavailable, podUID)
	s, file := newSystem(t, "kubepods/pod"+podUID)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(s.Root, "missing", "x"), file); err != nil { // cannot be created
		t.Fatal(err)
	}
	err = s.LimitPod(t.Context(), podUID, blockdev.Device{}, limits)
	volumetest.WantKind(t, err, volume.KindPrecondition, "cgroup.subtree_control")
}
