package cinder

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// A request that hangs for one caller does not delay the answer to another.
func TestWaitForZonesEndsWithTheContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		r.cloud.SetLatency(fakecloud.ListZones, fakecloud.Latency{Answer: fakecloud.Fixed(time.Minute)})
		ctx := cindertest.Within(t, 3*time.Second)
		first := make(chan error, 1)
		create := func(name string) volume.CreateRequest {
			req := request(name, volume.GiB, nil)
			req.Requisite = []volume.Topology{zone("nova")}
			return req
		}
		go func() {
			_, err := r.Create(ctx, create("pvc-1"))
			first <- err
		}()
		for r.cloud.Count(fakecloud.ListZones) == 0 {
			if err := operation.Sleep(ctx, 5*time.Millisecond); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		_, err := r.Create(cindertest.Within(t, 300*time.Millisecond), create("pvc-2"))
		cindertest.CheckKind(t, err, volume.KindDeadline, "availability zones")
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("the answer came after %s, the caller had 300 ms", took)
		}
		cindertest.CheckKind(t, <-first, volume.KindDeadline)
	})
}
