package filesystem

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// TestRealBindKeepsAndAddsFlags also binds the node of a device to a file.
func TestRealBindKeepsAndAddsFlags(t *testing.T) {
	skipWithoutFilesystem(t, TypeXFS)
	s, d := New(Options{}), newDisk(t, 320*volume.MiB)
	d.mkfs(t, TypeXFS)
	staging := d.mount(t, s, TypeXFS, "nosuid", "nodev", "noatime")
	target := t.TempDir()
	bind := BindRequest{Source: staging, Target: target, Options: []string{"ro", "noexec"}}
	if err := s.Bind(t.Context(), bind); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmount(t, s, target) })
	m := wantMount(t, s, target, target)
	for _, want := range []string{"ro", "nosuid", "nodev", "noexec", "noatime"} {
		if !slices.Contains(m.Options, want) {
			t.Errorf("%s is missing in %q", want, m.Options)
		}
	}
	if m.IsFilesystemReadOnly() || wantMount(t, s, staging, staging).IsReadOnly() {
		t.Error("the filesystem itself has become read-only")
	}
	node := filepath.Join(t.TempDir(), "node")
	if err := os.WriteFile(node, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Bind(t.Context(), BindRequest{Source: d.device, Target: node, Options: []string{"ro"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmount(t, s, node) })
	if m := wantMount(t, s, node, node); !slices.Contains(m.Options, "ro") {
		t.Errorf("a device node asked for read-only: %+v", m)
	}
	want := []string{staging, target, node}
	slices.Sort(want)
	if got := mountPoints(t, s, d.device); !slices.Equal(got, want) {
		t.Errorf("mounts of %s: %q; want %q", d.device, got, want)
	}
	unmount(t, s, node)
	wantMount(t, s, node, "")
}

// TestRealBindIsOneStepBelowASharedMount: below a shared mount, such as kubelet's
// directory, the mount appears in the other peers with its flags, and a second one stacks
// on it.
func TestRealBindIsOneStepBelowASharedMount(t *testing.T) {
	base, peer, source := t.TempDir(), t.TempDir(), t.TempDir()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(unix.Mount("tmpfs", base, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(base, unix.MNT_DETACH) })
	must(unix.Mount("", base, "", unix.MS_SHARED, ""))
	must(unix.Mount(base, peer, "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(peer, unix.MNT_DETACH) })
	must(os.Mkdir(filepath.Join(base, "pod"), 0o700))
	target := filepath.Join(base, "pod")
	s := New(Options{})
	s.kernel = bindOnlyKernel{linuxKernel{}, t}
	for range 2 {
		must(s.Bind(t.Context(), BindRequest{Source: source, Target: target, Options: []string{"ro", "nosuid"}}))
	}
	for _, path := range []string{target, filepath.Join(peer, "pod")} {
		if m := wantMount(t, s, path, path); !slices.Contains(m.Options, "ro") || !slices.Contains(m.Options, "nosuid") {
			t.Errorf("%s: %+v, want the options ro and nosuid", path, m)
		}
	}
	if err := os.WriteFile(filepath.Join(target, "x"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("write: %v", err)
	}
	must(os.WriteFile(filepath.Join(source, "x"), nil, 0o600))
	unmount(t, s, target)
	wantMount(t, s, filepath.Join(peer, "pod"), "")
}

// bindOnlyKernel fails the test when mount(2) is called.
type bindOnlyKernel struct {
	linuxKernel
	t *testing.T
}

func (bk bindOnlyKernel) mount(source, target, _ string, flags uintptr, _ string) error {
	bk.t.Errorf("mount(%s, %s, %#x): a bind mount must be complete from the start", source, target, flags)
	return unix.EPERM
}
