package node

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestUnpublishLeavesAnotherVolumeAlone(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.stageAndPublish(t, volume.GiB)
	b.add("vol-2", volume.GiB)
	b.id = "vol-2"
	volumetest.WantKind(t, b.unpublish(t.Context()), volume.KindPrecondition, b.target)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(b.target, link); err != nil {
		t.Fatal(err)
	}
	b.id, b.target = "vol-1", link
	volumetest.WantKind(t, b.unpublish(t.Context()), volume.KindPrecondition, "symbolic link")
	b.target = filepath.Join(t.TempDir(), "tmpfs")
	fakeFilesystems{b.machine}.mount(filesystem.Mount{MountPoint: b.target, FSType: "tmpfs", Root: "/", Source: "tmpfs"})
	volumetest.WantKind(t, b.unpublish(t.Context()), volume.KindPrecondition, "tmpfs")
	if len(b.mounts) != 3 {
		t.Errorf("mounts %v", b.mounts)
	}
}

func TestUnpublishRemovesNoContent(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	precious := filepath.Join(b.target, "precious")
	writeFile(t, precious, "data")
	volumetest.WantKind(t, b.unpublish(t.Context()), volume.KindInternal, b.target)
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("content is gone: %v", err)
	}
}
