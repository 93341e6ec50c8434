package filesystem

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	utilexec "k8s.io/utils/exec"
	testingexec "k8s.io/utils/exec/testing"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// TestCheckTellsDamageFromAFailedCheck takes an I/O error for no damage: the connection of
// the volume may come back.
func TestCheckTellsDamageFromAFailedCheck(t *testing.T) {
	for _, tc := range []struct {
		status int
		output string
		fails  bool
		kind   volume.Kind
	}{
		{8, "e2fsck: Cannot allocate memory while trying to open /dev/loop0\n", true, volume.KindInternal},
		{
			8, "e2fsck: No such file or directory while trying to open /dev/loop0\nPossibly non-existent device?\n", true,
			volume.KindInternal,
		},
		{
			8, "e2fsck: Bad magic number in super-block while trying to open /dev/loop0\n/dev/loop0: \nThe superblock...\n",
			true, volume.KindPrecondition,
		},
		{8, "e2fsck: Input/output error while trying to open /dev/loop0\n", true, volume.KindInternal},
		{
			8, "e2fsck: Attempt to read block from filesystem resulted in short read while trying to open /dev/loop0\n", true,
			volume.KindInternal,
		},
		{
			4,
			"Error reading block 1057 (Input/output error).  \n\n/dev/loop0: UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY.\n",
			true, volume.KindInternal,
		},
		{
			5,
			"Error reading block 9 (Attempt to read block from filesystem resulted in short read) " +
				"while reading inode and block bitmaps.  \n",
			true, volume.KindInternal,
		},
		{
			4, "Error writing block 9 (Attempt to write block to filesystem resulted in short write).  \n", true,
			volume.KindInternal,
		},
		{8, "/dev/loop0 has unsupported feature(s): FEATURE_I31\ne2fsck: Get a newer version of e2fsck!\n", false, 0},
		{8, "e2fsck: Filesystem revision too high while trying to open /dev/loop0\n", false, 0},
	} {
		k := newFakeKernel(t)
		k.addDevice(testDevice, 0, volume.GiB)
		s := k.system()
		s.exec = fakeExec(t, func([]string) ([]byte, error) {
			return []byte(tc.output), testingexec.FakeExitError{Status: tc.status}
		})
		err := s.Check(t.Context(), k.device(), TypeExt4)
		if tc.fails {
			text := fmt.Sprintf("cannot check /dev/loop0 (exit status %d): %s", tc.status, tc.output[:20])
			volumetest.WantKind(t, err, tc.kind, text)
		} else if err != nil {
			t.Errorf("e2fsck with the output %q: %v, want success", tc.output, err)
		}
	}
}

func TestCheckByExitStatus(t *testing.T) {
	busy := testingexec.FakeExitError{Status: 9}
	for _, tc := range []struct {
		name string
		fs   Type
		err  error
		kind volume.Kind
		text string // empty: success
		runs int
	}{
		{"clean", TypeExt4, nil, 0, "", 1},
		{"repaired", TypeExt3, testingexec.FakeExitError{Status: 1}, 0, "", 1},
		{"repaired, wants a reboot", TypeExt2, testingexec.FakeExitError{Status: 3}, 0, "", 1},
		{"damaged", TypeExt4, testingexec.FakeExitError{Status: 4}, volume.KindPrecondition, "exit status 4): output", 1},
		{
			"cannot run", TypeExt4,
			testingexec.FakeExitError{Status: 8},
			volume.KindPrecondition,
			"cannot check /dev/loop0 (exit status 8): output", 1,
		},
		{
			"called wrongly", TypeExt4,
			testingexec.FakeExitError{Status: 16},
			volume.KindInternal,
			"cannot check /dev/loop0 (exit status 16): output", 1,
		},
		{
			"stopped", TypeExt4,
			testingexec.FakeExitError{Status: 33},
			volume.KindInternal,
			"cannot check /dev/loop0 (exit status 33): output", 1,
		},
		{
			"in use", TypeExt4, busy, volume.KindDeadline,
			"is still in use, so e2fsck did not check it: /dev/loop0 is in use.", 1,
		},
		{
			"killed by a signal", TypeExt4, unix.EINTR, volume.KindInternal,
			"cannot check /dev/loop0: cannot run e2fsck: interrupted", 1,
		},
		{"missing tool", TypeExt4, utilexec.ErrExecutableNotFound, volume.KindPrecondition, "not installed", 1},
		{"XFS", TypeXFS, nil, 0, "", 0},
		{"btrfs", TypeBtrfs, nil, 0, "", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := newFakeKernel(t)
			k.addDevice(testDevice, 0, volume.GiB)
			s, runs := k.system(), 0
			s.exec = fakeExec(t, func(command []string) ([]byte, error) {
				if runs++; !slices.Equal(command, []string{"e2fsck", "-p", testDevice}) {
					t.Errorf("ran %q", command)
				}
				if errors.Is(tc.err, busy) {
					return []byte("/dev/loop0 is in use.\ne2fsck: Cannot continue, aborting.\n"), tc.err
				}
				return []byte("output\n"), tc.err
			})
			err := s.Check(t.Context(), k.device(), tc.fs)
			if tc.text == "" && err != nil {
				t.Error(err)
			}
			if tc.text != "" {
				volumetest.WantKind(t, err, tc.kind, tc.text)
			}
			if runs != tc.runs {
				t.Errorf("ran %d times", runs)
			}
		})
	}
	t.Run("killed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			k := newFakeKernel(t)
			k.addDevice(testDevice, 0, volume.GiB)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
			defer cancel()
			s := k.system()
			s.exec = fakeExec(t, func([]string) ([]byte, error) { <-ctx.Done(); return nil, errors.New("signal: killed") })
			volumetest.WantKind(t, s.Check(ctx, k.device(), TypeExt4), volume.KindDeadline,
				"check /dev/loop0: e2fsck was stopped",
				"the check starts over")
		})
	})
	t.Run("mounted", func(t *testing.T) {
		k, s, _ := newFakeFilesystem(t, TypeExt4, volume.GiB, volume.GiB)
		s.exec = fakeExec(t, func(command []string) ([]byte, error) {
			t.Errorf("ran %q on a mounted device", command)
			return nil, nil
		})
		for _, mounted := range []Type{TypeExt2, TypeExt3, TypeExt4} {
			k.table[len(k.table)-1].FSType = string(mounted)
			if err := s.Check(t.Context(), k.device(), TypeExt4); err != nil {
				t.Errorf("mounted as %s: %v", mounted, err)
			}
		}
	})
}
