package filesystem

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	testingexec "k8s.io/utils/exec/testing"

	"github.com/growvol/growvol/pkg/statefile"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// TestFormatContinuesAnInterruptedMkfs stops mkfs half-way. The next Format finishes, but
// not one without the marker.
func TestFormatContinuesAnInterruptedMkfs(t *testing.T) {
	for name, leave := range map[string]func(r *formatTest){
		"nothing":        func(*formatTest) {},
		"unknown data":   func(r *formatTest) { r.device.head[70000] = 7 },
		"unfinished XFS": func(r *formatTest) { copy(r.device.head, encodeXFS(1<<18, true)) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newFormatTest(t)
			ctx, cancel := context.WithCancel(t.Context())
			r.mkfs = func([]string) error {
				if !r.hasMarker(t) {
					t.Error("mkfs runs before the marker is written")
				}
				leave(r)
				cancel()
				return testingexec.FakeExitError{Status: 137}
			}
			volumetest.WantKind(t, r.format(ctx, TypeXFS), volume.KindCanceled, "stopped before it finished",
				"starts mkfs again")
			if r.hasMarker(t) != (name != "nothing") {
				t.Fatalf("marker: %v", r.hasMarker(t))
			}
			r.mkfs = nil
			if name != "nothing" {
				err := r.system.Format(t.Context(), FormatRequest{Device: r.device, Type: TypeXFS})
				volumetest.WantKind(t, err, volume.KindPrecondition, "no marker on this node proves", "wipefs")
			}
			if err := r.format(t.Context(), TypeXFS); err != nil {
				t.Fatal(err)
			}
			if r.hasMarker(t) {
				t.Error("the marker was not removed")
			}
			if sig, err := r.system.Probe(t.Context(), r.device); err != nil || sig.Type != TypeXFS || !sig.IsComplete {
				t.Errorf("after the second Format: %+v, %v; want a complete xfs", sig, err)
			}
		})
	}
	t.Run("after the last write", func(t *testing.T) {
		r := newFormatTest(t)
		r.putFilesystem(TypeXFS)
		if err := writeMarker(r.marker, marker{TypeXFS, volume.GiB, time.Now()}); err != nil {
			t.Fatal(err)
		}
		if err := r.format(t.Context(), TypeXFS); err != nil || r.hasMarker(t) || len(r.commands) != 0 {
			t.Errorf("%v, marker %v, ran %q", err, r.hasMarker(t), r.commands)
		}
	})
	t.Run("leftovers cannot be cleared", func(t *testing.T) {
		r := newFormatTest(t)
		r.device.head[70000] = 7
		if err := writeMarker(r.marker, marker{TypeXFS, volume.GiB, time.Now()}); err != nil {
			t.Fatal(err)
		}
		r.kernel.errors["write"] = []error{unix.EIO}
		volumetest.WantKind(t, r.format(t.Context(), TypeXFS), volume.KindInternal, "clear the leftovers")
		if !r.hasMarker(t) || len(r.commands) != 0 {
			t.Errorf("marker %v, ran %q", r.hasMarker(t), r.commands)
		}
	})
}

// TestFormatRemovesTheMarkerOfAMkfsThatWroteNothing: a marker that stayed would allow data
// that is written later to be overwritten.
func TestFormatRemovesTheMarkerOfAMkfsThatWroteNothing(t *testing.T) {
	r := newFormatTest(t)
	r.mkfs = func([]string) error { return testingexec.FakeExitError{Status: 1} }
	volumetest.WantKind(t, r.format(t.Context(), TypeXFS), volume.KindInternal, "mkfs output", "mkfs options")
	if r.hasMarker(t) {
		t.Error("the marker was not removed, although the device is blank")
	}
	r.device.head[70000] = 7 // a user's data
	r.mkfs = nil
	volumetest.WantKind(t, r.format(t.Context(), TypeXFS), volume.KindPrecondition, "no marker on this node proves",
		"wipefs")
	r.device.head[70000] = 0
	r.mkfs = func([]string) error { r.device.head[70000] = 7; return testingexec.FakeExitError{Status: 1} }
	volumetest.WantKind(t, r.format(t.Context(), TypeXFS), volume.KindInternal, "mkfs output", "mkfs options")
	if !r.hasMarker(t) {
		t.Error("the marker of an unfinished filesystem was removed")
	}
	r.mkfs = func([]string) error {
		r.kernel.errors["read"] = []error{unix.EIO}
		return testingexec.FakeExitError{Status: 1}
	}
	volumetest.WantKind(t, r.format(t.Context(), TypeXFS), volume.KindInternal, "mkfs output", "mkfs options")
	if !r.hasMarker(t) {
		t.Error("the marker was removed, although the device cannot be read")
	}
}

func TestRemoveMarker(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vol.mkfs")
	if err := writeMarker(path, marker{TypeExt4, volume.GiB, time.Now()}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := RemoveMarker(path); err != nil {
			t.Error(err)
		}
		if _, exists, err := statefile.ReadMarker[marker](path); err != nil || exists {
			t.Errorf("still there: %v, %v", exists, err)
		}
	}
	if err := RemoveMarker(""); err != nil {
		t.Error(err)
	}
	if err := os.MkdirAll(filepath.Join(path, "below"), 0o700); err != nil {
		t.Fatal(err)
	}
	volumetest.WantKind(t, RemoveMarker(path), volume.KindInternal, "marker of an unfinished mkfs", "state directory")
}
