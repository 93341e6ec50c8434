package rbd

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/growvol/growvol/pkg/rbd/internal/fakeceph"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// testBlock is the unit of the content of images in fakeceph.
const testBlock = 64 * volume.KiB

// blocks returns the ranges of a listing in units of testBlock, as begin and length.
func (r *rig) blocks(t *testing.T, req volume.BlocksRequest) [][2]volume.Size {
	t.Helper()
	var out [][2]volume.Size
	err := r.Blocks(t.Context(), req, func(b volume.BlockRange) error {
		out = append(out, [2]volume.Size{b.Offset / testBlock, b.Length / testBlock})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestBlocksAreThoseThatHoldDataOrChanged(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("v"))
	r.server.Write("volumes", "", "csi-vol-v", 2, 3, 1)
	r.server.Write("volumes", "", "csi-vol-v", 100, 1, 1)
	first := r.snapshot(t, "first", v.ID)
	r.server.Write("volumes", "", "csi-vol-v", 3, 1, 0) // discarded
	r.server.Write("volumes", "", "csi-vol-v", 4, 2, 2)
	second := r.snapshot(t, "second", v.ID)
	for _, c := range []struct {
		req  volume.BlocksRequest
		want [][2]volume.Size
	}{
		{volume.BlocksRequest{SnapshotID: first.ID}, [][2]volume.Size{{2, 3}, {100, 1}}},
		{volume.BlocksRequest{SnapshotID: second.ID}, [][2]volume.Size{{2, 1}, {4, 2}, {100, 1}}},
		{volume.BlocksRequest{SnapshotID: first.ID, Offset: 3 * testBlock}, [][2]volume.Size{{3, 2}, {100, 1}}},
		{volume.BlocksRequest{SnapshotID: first.ID, Offset: volume.GiB}, nil},
		// The discarded block is a part of the difference, too.
		{volume.BlocksRequest{SnapshotID: second.ID, BaseID: first.ID}, [][2]volume.Size{{3, 3}}},
		{volume.BlocksRequest{SnapshotID: second.ID, BaseID: second.ID}, nil},
	} {
		if got := r.blocks(t, c.req); !slices.Equal(got, c.want) {
			t.Errorf("%+v: got the blocks %v, want %v", c.req, got, c.want)
		}
	}
}

func TestBlocksContinueOnTheNextPage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	req := request("v")
	req.Size = 64 * volume.GiB // more than two windows
	req.Range.Required = req.Size
	v := r.create(t, req)
	const count = 2*maxRangesPerPage + 5
	for n := range uint64(count) {
		r.server.Write("volumes", "", "csi-vol-v", 30*n, 1, 1)
	}
	s := r.snapshot(t, "s", v.ID)
	got := r.blocks(t, volume.BlocksRequest{SnapshotID: s.ID})
	if len(got) != count {
		t.Fatalf("got %d ranges, want %d", len(got), count)
	}
	for n, b := range got {
		if b != [2]volume.Size{30 * volume.Size(n), 1} {
			t.Fatalf("got the range %v at %d, want one block at %d", b, n, 30*n)
		}
	}
}

func TestBlocksEndWithTheirCaller(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("v"))
	r.server.Write("volumes", "", "csi-vol-v", 2, 3, 1)
	s := r.snapshot(t, "s", v.ID)
	refusal := errors.New("the stream has ended")
	if err := r.Blocks(t.Context(), volume.BlocksRequest{SnapshotID: s.ID}, func(volume.BlockRange) error {
		return refusal
	}); !errors.Is(err, refusal) {
		t.Errorf("got %v, want the error of the caller", err)
	}
	entered, wait := make(chan struct{}, 1), make(chan struct{})
	r.server.Inject(fakeceph.Fault{Call: "Image.Diff", Wait: wait, Entered: entered})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- r.Blocks(ctx, volume.BlocksRequest{SnapshotID: s.ID}, func(volume.BlockRange) error { return nil })
	}()
	<-entered
	cancel()
	volumetest.WantKind(t, <-ended, volume.KindCanceled)
	close(wait)
}

func TestBlocksOfTwoVolumesAreNotCompared(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	one := r.snapshot(t, "one", r.create(t, request("1")).ID)
	two := r.snapshot(t, "two", r.create(t, request("2")).ID)
	each := func(volume.BlockRange) error { return nil }
	err := r.Blocks(t.Context(), volume.BlocksRequest{SnapshotID: one.ID, BaseID: two.ID}, each)
	volumetest.WantKind(t, err, volume.KindPrecondition, "full backup")
	check(t, r.DeleteSnapshot(t.Context(), two.ID))
	for _, id := range []string{two.ID, "x"} {
		volumetest.WantKind(t, r.Blocks(t.Context(), volume.BlocksRequest{SnapshotID: id}, each), volume.KindNotFound)
	}
}
