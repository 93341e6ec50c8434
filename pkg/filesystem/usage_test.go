package filesystem

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestReadUsage(t *testing.T) {
	k, s, _ := newFakeFilesystem(t, TypeXFS, volume.GiB, volume.GiB)
	want := Usage{
		Total: 1000 * 4096, Used: 400 * 4096, Available: 500 * 4096, Inodes: 100, InodesUsed: 10,
		InodesAvailable: 90,
	}
	m := k.table[0]
	if got, err := s.ReadUsage(m); err != nil || got != want {
		t.Errorf("usage %+v, %v; want %+v", got, err, want)
	}
	_, err := s.ReadUsage(Mount{MountPoint: "/missing"})
	volumetest.WantKind(t, err, volume.KindPrecondition, "no filesystem is mounted at /missing")
	k.errors["openMount"] = []error{unix.EIO}
	_, err = s.ReadUsage(m)
	volumetest.WantKind(t, err, volume.KindPrecondition, "shut down")
	k.errors["statfs"] = []error{unix.ENOMEM}
	_, err = s.ReadUsage(m)
	volumetest.WantKind(t, err, volume.KindInternal, "cannot read the usage of "+testMount)
	m.ID++ // another mount covers it
	_, err = s.ReadUsage(m)
	volumetest.WantKind(t, err, volume.KindPrecondition, "no filesystem is mounted at "+testMount)
	k.mountsByPath[testMount].st.mountID = 0 // a kernel before 5.8
	if got, err := s.ReadUsage(m); err != nil || got != want {
		t.Errorf("usage without mount ids: %+v, %v; want %+v", got, err, want)
	}
	m.Device.Minor++
	_, err = s.ReadUsage(m)
	volumetest.WantKind(t, err, volume.KindPrecondition, "no filesystem is mounted at "+testMount)
}
