package header

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"
)

// Values that Ceph 16.2.15 has written: a snapshot of 8 MiB, one that was removed while it had a
// clone, the parent of that clone, and an image in the trash.
const (
	userSnapshot = "08083d0000002e0000000000000009000000" + "67726f77766f6c2e73" + "0000800000000000" + "00" +
		"0000000000000000" + "0101" + "0400000000000000" + "06020b6bfa8ae216" + "0000000000"
	removedSnapshot = "0808610000002f0000000000000024000000" +
		"30313537623733352d366531352d343637312d383330332d383539346334373430303933" + "0000800000000000" + "00" +
		"0000000000000000" + "0101" + "0d000000" + "02000000000000000100000074" + "06020b6b8ac1ee22" + "0100000000"
	trashedImage = "020122000000" + "00" + "0c000000" + "747261736865642d6e616d65" + "ee280b6b942f482b" +
		"ee280b6b942f482b" + "00"
	cloneParent = "02022d000000" + "0200000000000000" + "00000000" + "0c000000" + "313061353138633163323762" +
		"2f00000000000000" + "01" + "0000800000000000"
)

func decode(t *testing.T, text string) string {
	t.Helper()
	value, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return string(value)
}

func TestNameOfAnImageInTheTrash(t *testing.T) {
	t.Parallel()
	if trashed, err := ReadTrashed(decode(t, trashedImage)); err != nil || trashed.Name != "trashed-name" {
		t.Errorf("got %+v, %v", trashed, err)
	}
	if _, err := ReadTrashed("\x03\x03" + decode(t, trashedImage)[2:]); !errors.Is(err, ErrFormat) {
		t.Errorf("got %v, want ErrFormat", err)
	}
}

func TestValuesOfCeph(t *testing.T) {
	t.Parallel()
	values := map[string]string{
		"size": "x", "snap_children_000000000000002f": "\x01\x00\x00\x00x", "snap_seq": "x",
		SnapshotKey(0x2e): decode(t, userSnapshot), SnapshotKey(0x2f): decode(t, removedSnapshot),
		parentKey: decode(t, cloneParent),
	}
	snapshots, err := Snapshots(values)
	if err != nil || len(snapshots) != 2 {
		t.Fatalf("got %+v, %v", snapshots, err)
	}
	s := snapshots[0]
	created := time.Unix(0x6b0b0206, 0x16e28afa)
	if s.ID != 0x2e || s.Name != "growvol.s" || s.Size != 8<<20 || s.IsRemoved || s.IsForeign ||
		!s.Created.Equal(created) {
		t.Errorf("got %+v", s)
	}
	if s = snapshots[1]; s.ID != 0x2f || len(s.Name) != 36 || s.Size != 8<<20 || !s.IsRemoved || s.IsForeign {
		t.Errorf("got %+v", s)
	}
	if HasClones(values, 0x2e) || !HasClones(values, 0x2f) {
		t.Error("got clones of the first snapshot or none of the second, want only the second to have some")
	}
	parent, found, err := ReadParent(values)
	if want := (Parent{PoolID: 2, ImageID: "10a518c1c27b", SnapshotID: 0x2f}); err != nil || !found || parent != want {
		t.Errorf("got %+v, %t, %v, want %+v", parent, found, err, want)
	}
	if _, found, err := ReadParent(map[string]string{"size": "x"}); found || err != nil {
		t.Errorf("got %t, %v", found, err)
	}
	if name, err := Text("\x03\x00\x00\x00abc"); err != nil || name != "abc" {
		t.Errorf("got %q, %v", name, err)
	}
}

// A value that is cut off, or of another version, is an error, never a wrong name.
func TestOtherFormats(t *testing.T) {
	t.Parallel()
	snapshot, parent := decode(t, userSnapshot), decode(t, cloneParent)
	for i := range snapshot {
		if got, err := Snapshot(snapshot[:i]); !errors.Is(err, ErrFormat) {
			t.Errorf("the first %d bytes: got %+v, %v", i, got, err)
		}
	}
	for i := range parent {
		if got, _, err := ReadParent(map[string]string{parentKey: parent[:i]}); !errors.Is(err, ErrFormat) {
			t.Errorf("the first %d bytes: got %+v, %v", i, got, err)
		}
	}
	for _, value := range []string{"\x07\x01" + snapshot[2:], "\x09\x09" + snapshot[2:], "\x08\x01" + snapshot[2:]} {
		if got, err := Snapshot(value); !errors.Is(err, ErrFormat) {
			t.Errorf("got %+v, %v", got, err)
		}
	}
	if got, err := Snapshot("\x09\x08" + snapshot[2:]); err != nil || got.Name != "growvol.s" {
		t.Errorf("a later version that this one can read: got %+v, %v", got, err)
	}
	if name, err := Text(strings.Repeat("\xff", 10)); !errors.Is(err, ErrFormat) {
		t.Errorf("got %q, %v", name, err)
	}
}
