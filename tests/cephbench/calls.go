package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"

	"github.com/growvol/growvol/pkg/volume"
)

// This file holds the measurements.

// rounds is how often each call is measured; the median counts.
const rounds = 5

// call is one call that is measured. goal is the largest number of operations that the project
// wants; zero: none is set.
type call struct {
	name string
	goal int
	run  func(context.Context) error
}

// objects are what one round of calls has created.
type objects struct{ name, volume, snapshot, restored, clone string }

// calls returns the calls of one round in order. Each leaves what the next ones need.
func (b *bench) calls(features string) []call {
	var o objects
	keep := func(to *string) func(string, error) error {
		return func(id string, err error) error { *to = id; return err }
	}
	return []call{
		{"create", 20, func(ctx context.Context) error {
			o.name = b.name()
			return keep(&o.volume)(b.create(ctx, o.name, features, volume.GiB, nil))
		}},
		{"create again", 12, func(ctx context.Context) error {
			return keep(&o.volume)(b.create(ctx, o.name, features, volume.GiB, nil))
		}},
		{"expand", 16, func(ctx context.Context) error { return b.expand(ctx, o.volume, 2*volume.GiB) }},
		{"expand again", 0, func(ctx context.Context) error { return b.expand(ctx, o.volume, 2*volume.GiB) }},
		{"snapshot", 20, func(ctx context.Context) error {
			taken, err := b.client.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{SourceVolumeId: o.volume, Name: b.name()})
			return keep(&o.snapshot)(taken.GetSnapshot().GetSnapshotId(), err)
		}},
		{"restore", 55, func(ctx context.Context) error {
			return keep(&o.restored)(b.create(ctx, b.name(), features, 2*volume.GiB, &csi.VolumeContentSource{
				Type: &csi.VolumeContentSource_Snapshot{
					Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: o.snapshot},
				},
			}))
		}},
		{"clone", 75, func(ctx context.Context) error {
			return keep(&o.clone)(b.create(ctx, b.name(), features, 2*volume.GiB, &csi.VolumeContentSource{
				Type: &csi.VolumeContentSource_Volume{
					Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: o.volume},
				},
			}))
		}},
		{"delete a restored volume", 0, func(ctx context.Context) error { return b.remove(ctx, o.restored) }},
		{"delete a clone", 0, func(ctx context.Context) error { return b.remove(ctx, o.clone) }},
		{"delete a snapshot", 0, func(ctx context.Context) error {
			_, err := b.client.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: o.snapshot})
			return err
		}},
		{"delete", 60, func(ctx context.Context) error { return b.remove(ctx, o.volume) }},
		{"delete again", 0, func(ctx context.Context) error { return b.remove(ctx, o.volume) }},
	}
}

// measureCalls prints the operations and the time of each call.
func (b *bench) measureCalls(ctx context.Context, features string) error {
	calls := b.calls(features)
	counts, durations := make([][]int, len(calls)), make([][]time.Duration, len(calls))
	for range rounds {
		for i, c := range calls {
			before, err := b.operations(ctx)
			if err != nil {
				return err
			}
			start := time.Now()
			if err := c.run(ctx); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			durations[i] = append(durations[i], time.Since(start))
			after, err := b.operations(ctx)
			if err != nil {
				return err
			}
			counts[i] = append(counts[i], after-before)
		}
	}
	b.printf("\n%d volumes, image features %s (medians of %d)\n", len(b.volumes), features, rounds)
	b.printf("%-26s %10s %6s %10s\n", "call", "operations", "goal", "ms")
	for i, c := range calls {
		goal := ""
		if c.goal > 0 {
			goal = fmt.Sprint(c.goal)
		}
		b.printf("%-26s %10d %6s %10.1f\n", c.name, median(counts[i]), goal, milliseconds(median(durations[i])))
	}
	return nil
}

// expansions is the number of expansions at once.
const expansions = 100

// measureExpansions expands volumes one after the other, and then many at once.
func (b *bench) measureExpansions(ctx context.Context) error {
	if err := b.fill(ctx, expansions); err != nil {
		return err
	}
	ids := b.volumes[:expansions]
	alone := make([]time.Duration, expansions)
	for i, id := range ids {
		start := time.Now()
		if err := b.expand(ctx, id, 10*volume.MiB); err != nil {
			return err
		}
		alone[i] = time.Since(start)
	}
	atOnce := make([]time.Duration, expansions)
	group, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	for i, id := range ids {
		group.Go(func() error {
			start := time.Now()
			err := b.expand(ctx, id, 20*volume.MiB)
			atOnce[i] = time.Since(start)
			return err
		})
	}
	err := group.Wait()
	total := time.Since(start)
	b.printf("\n%d expansions, one after the other: median %.1f ms, slowest %.1f ms (goal: median 40 ms)\n",
		expansions, milliseconds(median(alone)), milliseconds(slices.Max(alone)))
	if err == nil {
		b.printf("%d expansions at once: all succeeded in %.1f ms, slowest %.1f ms\n",
			expansions, milliseconds(total), milliseconds(slices.Max(atOnce)))
	}
	return err
}

func median[T int | time.Duration](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
