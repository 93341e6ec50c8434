package rbd

import (
	"context"
	"errors"
	"fmt"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/volume"
)

// This file lists the blocks of snapshots that hold data or have changed, for backup programs.

// A listing is read in pages, so that a slow caller keeps neither an image open nor a task running.
const (
	maxRangesPerPage = 16384
	// diffWindow is how much of an image one call of librbd compares: 4096 objects of 4 MiB take
	// about half a second. A listing that was canceled ends after it.
	diffWindow = 16 * volume.GiB
)

// pageFullError ends a comparison.
type pageFullError struct{}

func (pageFullError) Error() string { return "the page is full" }

// Blocks implements volume.BlockTracker. Of an object that is new since the base, the range goes
// from its beginning to the last byte that was written; other ranges are exact. Kind Precondition:
// the snapshots are of ceph-csi, which keeps each in an image of its own.
func (b *Backend) Blocks(ctx context.Context, req volume.BlocksRequest, each func(volume.BlockRange) error) error {
	clusterID, err := snapshotCluster(req.SnapshotID)
	if err != nil {
		return volume.Wrap(err, "list blocks of snapshot", req.SnapshotID)
	}
	offset := req.Offset
	for {
		t := task{
			what: "comparing snapshots", id: req.SnapshotID, cluster: clusterID, pools: poolsOf(req.SnapshotID),
			locks: []string{fmt.Sprint("blocks ", req.BaseID, " ", req.SnapshotID, " ", offset)},
		}
		at := offset
		page, err := run(ctx, b, t, func(inner context.Context, s *session) (blockPage, error) {
			return s.readBlocks(ctx, inner, req, at)
		})
		if err != nil {
			return volume.Wrap(err, "list blocks of snapshot", req.SnapshotID)
		}
		for _, r := range page.ranges {
			if err := each(r); err != nil {
				return err
			}
		}
		if page.isLast {
			return nil
		}
		offset = page.next
	}
}

// blockPage is a part of a listing.
type blockPage struct {
	ranges []volume.BlockRange
	next   volume.Size // where the next page begins
	isLast bool
}

// readBlocks reads the page that begins at offset. It ends early when outer ends; ctx does not end.
func (s *session) readBlocks(
	outer, ctx context.Context, req volume.BlocksRequest, offset volume.Size,
) (blockPage, error) {
	target, err := s.resolveSnapshot(req.SnapshotID)
	if err != nil {
		return blockPage{}, err
	}
	found, err := s.readSnapshot(ctx, target)
	if err != nil {
		return blockPage{}, err
	}
	base, err := s.baseName(ctx, req, found)
	if err != nil {
		return blockPage{}, err
	}
	im, err := target.pool.OpenID(found.imageID, true)
	if err != nil {
		return blockPage{}, fmt.Errorf("cannot open the image of snapshot %s: %w", target.handle, err)
	}
	defer s.closeImage(ctx, im)
	page := blockPage{next: offset}
	size := volume.Size(found.snapshot.Size) //nolint:gosec // sizes of images are below 2^63
	for page.next < size {
		if err := outer.Err(); err != nil {
			return blockPage{}, fmt.Errorf("comparing snapshots: %w", err)
		}
		length := min(diffWindow, size-page.next)
		isFull, err := page.read(outer, im, comparison{base, found.snapshot.Name, length})
		if err != nil {
			return blockPage{}, fmt.Errorf("cannot compare the snapshots of image %s: %w", found.imageName, err)
		}
		if isFull {
			return page, nil
		}
		page.next += length
	}
	page.isLast = true
	return page, nil
}

// baseName returns the name of the base snapshot; empty: the request has none.
func (s *session) baseName(ctx context.Context, req volume.BlocksRequest, target foundSnapshot) (string, error) {
	if req.BaseID == "" {
		return "", nil
	}
	t, err := s.resolveSnapshot(req.BaseID)
	if err != nil {
		return "", err
	}
	base, err := s.readSnapshot(ctx, t)
	if err != nil {
		return "", err
	}
	if base.imageID != target.imageID {
		return "", volume.Errorf(volume.KindPrecondition,
			"the snapshots are of the images %s and %s, which cannot be compared", base.imageName, target.imageName).
			WithRemedy("make a full backup: list the allocated blocks of the snapshot")
	}
	return base.snapshot.Name, nil
}

// comparison is one call of librbd.
type comparison struct {
	base, target string // names of snapshots
	length       volume.Size
}

// read adds the ranges of a window that begins at p.next. isFull: the page is full, and p.next is
// where its last range ends. It ends with an error when ctx ends.
func (p *blockPage) read(ctx context.Context, im ceph.Image, c comparison) (isFull bool, err error) {
	begin, length := uint64(p.next), uint64(c.length) //nolint:gosec // both are at least zero
	err = im.Diff(c.base, c.target, begin, length, func(e ceph.Extent) error {
		if c.base == "" && !e.Exists {
			return nil // it reads as zeros
		}
		r := volume.BlockRange{Offset: volume.Size(e.Offset), Length: volume.Size(e.Length)} //nolint:gosec // below 2^63
		if last := len(p.ranges) - 1; last >= 0 && p.ranges[last].Offset+p.ranges[last].Length == r.Offset {
			p.ranges[last].Length += r.Length
			return ctx.Err()
		}
		if len(p.ranges) == maxRangesPerPage {
			return pageFullError{}
		}
		p.ranges = append(p.ranges, r)
		return ctx.Err()
	})
	if _, isFull := errors.AsType[pageFullError](err); isFull {
		last := p.ranges[len(p.ranges)-1]
		p.next = last.Offset + last.Length
		return true, nil
	}
	return false, err
}
