package loop

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// damage is a way to damage a volume, and the condition that Health must report.
type damage struct {
	apply  func(data, meta string) error
	want   volume.Impairment
	reason string
}

func damages() map[string]damage {
	return map[string]damage{
		"no data": {func(data, _ string) error { return os.Remove(data) }, volume.ImpairmentDataLoss, "DataMissing"},
		"cut off": {
			func(data, _ string) error { return os.Truncate(data, 4096) }, volume.ImpairmentDataLoss, "DataTruncated",
		},
		"empty": {
			func(data, _ string) error { return os.Truncate(data, 0) }, volume.ImpairmentDataLoss, "DataTruncated",
		},
		"no record": {
			func(_, meta string) error { return os.Remove(meta) }, volume.ImpairmentInaccessible, "RecordDamaged",
		},
		"record broken": {
			func(_, meta string) error { return os.Truncate(meta, 9) }, volume.ImpairmentInaccessible, "RecordDamaged",
		},
		"record empty": {
			func(_, meta string) error { return os.Truncate(meta, 0) }, volume.ImpairmentInaccessible, "RecordDamaged",
		},
	}
}

func recordPath(b *Backend, id string) string {
	return filepath.Join(b.store.Path(volumedir.Volumes, id), volumedir.RecordFile)
}

func TestHealthReportsDamage(t *testing.T) {
	t.Parallel()
	b := openBackend(t)
	for name, test := range damages() {
		id := createVolume(t, b, name, volume.MiB).ID
		if got, err := b.Health(t.Context(), id); err != nil || len(got) != 0 {
			t.Errorf("%s: before the damage: got %+v, %v, want no condition", name, got, err)
		}
		if err := test.apply(b.store.DataPath(volumedir.Volumes, id), recordPath(b, id)); err != nil {
			t.Fatal(err)
		}
		got, err := b.Health(t.Context(), id)
		if err != nil || len(got) != 1 {
			t.Fatalf("%s: got %+v, %v, want %s", name, got, err, test.reason)
		}
		if got[0].Impairment != test.want || got[0].Reason != test.reason || !strings.Contains(got[0].Message, "next step") {
			t.Errorf("%s: got %+v, %v, want %s", name, got, err, test.reason)
		}
	}
	_, err := b.Health(t.Context(), volumedir.Volumes.ID("none"))
	volumetest.WantKind(t, err, volume.KindNotFound, "check volume")
}

// An error that may pass is an error, not a condition: otherwise a directory that is not
// mounted would report every volume as lost.
func TestHealthReturnsPassingErrors(t *testing.T) {
	t.Parallel()
	b := openBackend(t)
	id := createVolume(t, b, "v", volume.MiB).ID
	if err := os.Remove(recordPath(b, id)); err != nil {
		t.Fatal(err)
	}
	// Reading a directory fails with EISDIR, which stands for any other failure.
	if err := os.Mkdir(recordPath(b, id), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := b.Health(t.Context(), id)
	volumetest.WantKind(t, err, volume.KindInternal, "check volume")
	_, _, err = b.ListHealth(t.Context(), volume.Page{})
	volumetest.WantKind(t, err, volume.KindInternal, "check volumes")
	if err := os.Rename(b.store.CollectionPath(volumedir.Volumes), filepath.Join(b.opts.Dir, "away")); err != nil {
		t.Fatal(err)
	}
	_, err = b.Health(t.Context(), id)
	volumetest.WantKind(t, err, volume.KindInternal, "mounted")
	_, _, err = b.ListHealth(t.Context(), volume.Page{})
	volumetest.WantKind(t, err, volume.KindInternal)
}

func TestListHealthReturnsDamagedVolumes(t *testing.T) {
	t.Parallel()
	b := openBackend(t)
	for i := range 8 {
		createVolume(t, b, fmt.Sprint(i), volume.MiB)
	}
	var want []string
	for name, test := range damages() {
		id := createVolume(t, b, name, volume.MiB).ID
		if err := test.apply(b.store.DataPath(volumedir.Volumes, id), recordPath(b, id)); err != nil {
			t.Fatal(err)
		}
		want = append(want, id)
	}
	slices.Sort(want)
	for _, size := range []int{0, 1, 2, 5, 6, 7} {
		got := listAll(t, size, func(p volume.Page) ([]volume.Health, string, error) {
			return b.ListHealth(t.Context(), p)
		}, func(v volume.Health) string {
			if alone, err := b.Health(t.Context(), v.ID); err != nil || !slices.Equal(alone, v.Conditions) {
				t.Errorf("got %+v in the list, %+v, %v alone, want the same", v, alone, err)
			}
			return v.ID
		})
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d: got %v, want %v", size, got, want)
		}
	}
	_, _, err := b.ListHealth(t.Context(), volume.Page{Token: "x"})
	volumetest.WantKind(t, err, volume.KindStale, "list again")
	// A broken link has a name in the directory but cannot be read, as a volume that is
	// deleted during the listing.
	if err := os.Symlink("nowhere", b.store.Path(volumedir.Volumes, volumedir.Volumes.ID("deleted"))); err != nil {
		t.Fatal(err)
	}
	if got, _, err := b.ListHealth(t.Context(), volume.Page{}); err != nil || len(got) != len(want) {
		t.Errorf("with a deleted volume: got %+v, %v, want %d volumes", got, err, len(want))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err = b.ListHealth(ctx, volume.Page{})
	volumetest.WantKind(t, err, volume.KindCanceled, "check volumes")
}

// A volume records whether it is encrypted, and a request that differs is refused.
func TestVolumeRecordsEncryption(t *testing.T) {
	t.Parallel()
	b := openBackend(t)
	req := blankRequest("v", volume.MiB)
	req.Encrypted = true
	created, err := b.Create(t.Context(), req)
	if err != nil || !created.Encrypted {
		t.Fatalf("created: got %+v, %v, want it encrypted", created, err)
	}
	again, err := openBackend(t, func(o *Options) { o.Dir = b.opts.Dir }).Get(t.Context(), created.ID)
	if err != nil || !again.Encrypted {
		t.Errorf("read by another process: got %+v, %v, want it encrypted", again, err)
	}
	if found, ok, err := b.Find(t.Context(), req); err != nil || !ok || !found.Encrypted {
		t.Errorf("found: got %+v, %v, want it encrypted", found, err)
	}
	req.Source = volume.Source{VolumeID: created.ID}
	req.Name = "clone"
	if clone, err := b.CloneVolume(t.Context(), req); err != nil || !clone.Encrypted {
		t.Errorf("clone: got %+v, %v, want it encrypted", clone, err)
	}
	_, err = b.Create(t.Context(), blankRequest("v", volume.MiB))
	volumetest.WantKind(t, err, volume.KindAlreadyExists, "encrypted=true, but the request has false")
	_, err = b.Create(t.Context(), volume.CreateRequest{Name: "w", Parameters: map[string]string{"encryption": "true"}})
	volumetest.WantKind(t, err, volume.KindInvalid, "encryption", "mkfsOptions, encrypted")
}
