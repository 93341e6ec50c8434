package cinder

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// The time that the cloud takes for an extension after its answer.
const (
	ownLow  = 200 * time.Millisecond
	ownHigh = 400 * time.Millisecond
)

// recorder is a fakecloud.Distribution that records the durations it returns.
type recorder struct {
	mu    sync.Mutex
	given []time.Duration
}

func (r *recorder) draw(rnd *rand.Rand) time.Duration {
	d := fakecloud.Uniform(ownLow, ownHigh)(rnd)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.given = append(r.given, d)
	return d
}

func median(ds []time.Duration) time.Duration {
	ds = slices.Clone(ds)
	slices.Sort(ds)
	return ds[len(ds)/2]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// BenchmarkExpand measures one expansion after the other: the calls of each, and the delay between
// the end in the cloud and the end of Expand.
func BenchmarkExpand(b *testing.B) {
	var own recorder
	r := newRig(b, fakecloud.Options{})
	r.cloud.SetLatency(fakecloud.ExtendVolume, fakecloud.Latency{Work: own.draw})
	id, _ := r.inUse(b, 1)
	var delays []time.Duration
	size := volume.GiB
	r.cloud.ClearRequests()
	for b.Loop() {
		size += volume.GiB
		began := time.Now()
		if _, err := r.Expand(b.Context(), id, size); err != nil {
			b.Fatal(err)
		}
		delays = append(delays, time.Since(began)-own.given[len(own.given)-1])
	}
	b.ReportMetric(milliseconds(median(delays)), "median-late-ms")
	b.ReportMetric(milliseconds(slices.Max(delays)), "most-late-ms")
	b.ReportMetric(float64(r.cloud.Count(fakecloud.AnyCall))/float64(len(delays)), "calls/op")
}

// BenchmarkExpandShort measures a cloud as fast as Ceph behind a real Cinder: it is done 60 ms
// after its answer, and each call takes some time.
func BenchmarkExpandShort(b *testing.B) {
	const own, extend = 60 * time.Millisecond, 120 * time.Millisecond
	r := newRig(b, fakecloud.Options{})
	r.cloud.SetLatency(
		fakecloud.GetVolume, fakecloud.Latency{Answer: fakecloud.Uniform(20*time.Millisecond, 70*time.Millisecond)},
	)
	r.cloud.SetLatency(
		fakecloud.ExtendVolume, fakecloud.Latency{Answer: fakecloud.Fixed(extend), Work: fakecloud.Fixed(own)},
	)
	id, _ := r.inUse(b, 1)
	var took []time.Duration
	size := volume.GiB
	r.cloud.ClearRequests()
	for b.Loop() {
		size += volume.GiB
		began := time.Now()
		if _, err := r.Expand(b.Context(), id, size); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	b.ReportMetric(milliseconds(median(took)), "median-ms")
	b.ReportMetric(float64(median(took))/float64(own+extend), "times-the-cloud's-own")
	b.ReportMetric(float64(r.cloud.Count(fakecloud.AnyCall))/float64(len(took)), "calls/op")
}

// BenchmarkThousandExpands measures 1,000 expansions by 100 workers, and compares them with the
// cloud alone: the same two calls, and a reader who sees the end at once.
func BenchmarkThousandExpands(b *testing.B) {
	for b.Loop() {
		own, _ := expandWithWorkers(b, 1000, func(r *rig, id string) error {
			c, err := r.clouds.Cloud(b.Context(), "")
			if err != nil {
				return err
			}
			if _, err := c.Volume(b.Context(), id); err != nil {
				return err
			}
			if err := c.ExtendVolume(b.Context(), id, 2, false); err != nil {
				return err
			}
			for r.cloud.SizeOf(b, id) < 2*volume.GiB {
				if err := operation.Sleep(b.Context(), 2*time.Millisecond); err != nil {
					return err
				}
			}
			return nil
		})
		wall, r := expandWithWorkers(b, 1000, func(r *rig, id string) error {
			_, err := r.Expand(b.Context(), id, 2*volume.GiB)
			return err
		})
		b.ReportMetric(wall.Seconds(), "wall-s")
		b.ReportMetric(float64(wall)/float64(own), "times-the-cloud's-own")
		b.ReportMetric(float64(r.cloud.Count(fakecloud.AnyCall))/1000, "calls/volume")
		b.ReportMetric(float64(r.cloud.Count(fakecloud.ListVolumeDetail)), "pages")
	}
}

// When many volumes grow at once, each takes two calls and a part of the shared pages.
func TestManyExpandsShareTheirCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const volumes = 300
		_, r := expandWithWorkers(t, volumes, func(r *rig, id string) error {
			_, err := r.Expand(t.Context(), id, 2*volume.GiB)
			return err
		})
		if n := r.cloud.Count(fakecloud.AnyCall); n > 3*volumes {
			t.Errorf("%d calls for %d volumes, want 3 for each at most: %v", n, volumes, r.cloud.Counts())
		}
		r.cloud.CheckCalls(t, fakecloud.ExtendVolume, volumes)
	})
}

// expandWithWorkers expands volumes with 100 workers and returns how long that took.
func expandWithWorkers(tb testing.TB, volumes int, expand func(r *rig, id string) error) (time.Duration, *rig) {
	tb.Helper()
	r := newRig(tb, fakecloud.Options{})
	r.cloud.SetLatency(fakecloud.ExtendVolume, fakecloud.Latency{Work: fakecloud.Uniform(ownLow, ownHigh)})
	work := make(chan string, volumes)
	for range volumes {
		work <- r.cloud.Add(fakecloud.Volume{})
	}
	close(work)
	r.cloud.ClearRequests()
	began := time.Now()
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			for id := range work {
				if err := expand(r, id); err != nil {
					tb.Error(err)
				}
			}
		})
	}
	wg.Wait()
	return time.Since(began), r
}

// BenchmarkPublish measures an attachment and a detachment.
func BenchmarkPublish(b *testing.B) {
	r := newRig(b, fakecloud.Options{})
	server := r.cloud.AddServer("")
	id := r.cloud.Add(fakecloud.Volume{})
	attach, detach, rounds := 0, 0, 0
	for b.Loop() {
		r.cloud.ClearRequests()
		_, err := r.Attach(b.Context(), cindertest.AttachRequest(id, server))
		if err != nil {
			b.Fatal(err)
		}
		attach += r.cloud.Count(fakecloud.AnyCall)
		r.cloud.ClearRequests()
		if err := r.Detach(b.Context(), id, server); err != nil {
			b.Fatal(err)
		}
		detach += r.cloud.Count(fakecloud.AnyCall)
		rounds++
	}
	b.ReportMetric(float64(attach)/float64(rounds), "attach-calls/op")
	b.ReportMetric(float64(detach)/float64(rounds), "detach-calls/op")
}

// BenchmarkList measures a listing of 10,000 volumes in a project with volumes of other clusters.
func BenchmarkList(b *testing.B) {
	const volumes = 10_000
	r := newRig(b, fakecloud.Options{})
	for i := range volumes {
		r.cloud.Add(fakecloud.Volume{Name: fmt.Sprint("pvc-", i)})
	}
	b.ReportAllocs()
	var peak uint64
	for b.Loop() {
		r.cloud.ClearRequests()
		page, count := volume.Page{}, 0
		for {
			vs, next, err := r.ListVolumes(b.Context(), page)
			if err != nil {
				b.Fatal(err)
			}
			count += len(vs)
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapInuse)
			if page.Token = next; next == "" {
				break
			}
		}
		if count != volumes {
			b.Fatalf("%d volumes", count)
		}
	}
	b.ReportMetric(float64(r.cloud.Count(fakecloud.ListVolumeDetail)), "pages/op")
	b.ReportMetric(float64(peak)/(1<<20), "peak-heap-MiB(with-the-fake)")
}
