package filesystem

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	utilexec "k8s.io/utils/exec"
	testingexec "k8s.io/utils/exec/testing"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// TestGrowByTool has a kernel without the ioctl. The result of the tool is read back, as
// that of the kernel is.
func TestGrowByTool(t *testing.T) {
	for _, tc := range []struct {
		fs      Type
		call    string
		errno   error
		command []string
	}{
		{TypeExt4, "ext4Resize", unix.ENOTTY, []string{"resize2fs", testDevice, "524288"}},
		{TypeXFS, "xfsGrow", unix.ENOSYS, []string{"xfs_growfs", "-D", "524288", testMount}},
		{TypeBtrfs, "btrfsResize", unix.EOPNOTSUPP, []string{"btrfs", "filesystem", "resize", "3:2147483648", testMount}},
	} {
		for name, tool := range map[string]struct {
			err  error
			out  string
			grow bool
			kind volume.Kind
			text string
		}{
			"works": {grow: true},
			"lies":  {kind: volume.KindInternal, text: "reads back 1 GiB"},
			"fails": {err: testingexec.FakeExitError{Status: 1}, kind: volume.KindPrecondition, text: "exit status 1"},
			"busy": {
				err: testingexec.FakeExitError{Status: 1}, out: "Device or resource busy", kind: volume.KindDeadline,
				text: "another request uses it",
			},
			"missing":   {err: utilexec.ErrExecutableNotFound, kind: volume.KindPrecondition, text: "not installed"},
			"not begun": {err: unix.ENOMEM, kind: volume.KindInternal, text: "cannot allocate"},
		} {
			t.Run(string(tc.fs)+" "+name, func(t *testing.T) {
				k, s, m := newFakeFilesystem(t, tc.fs, volume.GiB, 2*volume.GiB)
				k.errors[tc.call] = []error{tc.errno}
				var ran []string
				s.exec = fakeExec(t, func(command []string) ([]byte, error) {
					ran = command
					if tool.grow {
						ext4Spec(2 * volume.GiB).writeTo(m.device)
						m.xfs.dataBlocks, m.btrfs.totalBytes = 524288, uint64(2*volume.GiB)
					}
					return []byte("output " + tool.out), tool.err
				})
				g, err := s.Grow(t.Context(), growRequest(s, 0))
				if !slices.Equal(ran, tc.command) {
					t.Errorf("ran %q, want %q", ran, tc.command)
				}
				if tool.grow {
					if err != nil || g.After != 2*volume.GiB || g.Method != MethodTool {
						t.Fatalf("growth %+v, %v; want 2 GiB by the tool", g, err)
					}
					return
				}
				volumetest.WantKind(t, err, tool.kind, tool.text)
			})
		}
	}
}

func TestGrowRunsNoToolWhenThePathLeadsElsewhere(t *testing.T) {
	k, s, _ := newFakeFilesystem(t, TypeExt4, volume.GiB, 2*volume.GiB)
	k.errors["ext4Resize"] = []error{unix.ENOTTY}
	s.exec = fakeExec(t, func(command []string) ([]byte, error) {
		t.Errorf("ran %q, want nothing", command)
		return nil, nil
	})
	req := growRequest(s, 0)
	k.devices[testDevice] = k.addDevice("/dev/loop9", 9, volume.GiB)
	_, err := s.Grow(t.Context(), req)
	volumetest.WantKind(t, err, volume.KindInternal, "now leads to block device 7:9", "still attached")
}
