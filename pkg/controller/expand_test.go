package controller

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/fakebackend"
)

// scriptedBackend is a backend with an Expand of the test.
type scriptedBackend struct {
	*fakebackend.Backend
	expand func(ctx context.Context, id string, target volume.Size) (volume.Volume, error)
}

func (b scriptedBackend) Expand(ctx context.Context, id string, target volume.Size) (volume.Volume, error) {
	return b.expand(ctx, id, target)
}

func expandRequest(id string, required, limit volume.Size) *csi.ControllerExpandVolumeRequest {
	return &csi.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: bytesRange(required, limit)}
}

func TestExpandReturnsBackendSize(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		required, limit, want volume.Size
	}{
		"to a multiple of the granularity": {2 * volume.GiB, 0, 2 * volume.GiB},
		"rounded up":                       {2*volume.GiB + 1, 0, 2*volume.GiB + volume.MiB},
		"rounded up to just the limit":     {2*volume.GiB + 1, 2*volume.GiB + volume.MiB, 2*volume.GiB + volume.MiB},
		"to the present size":              {volume.GiB, 0, volume.GiB},
		"to less: the present size stays":  {volume.MiB, 0, volume.GiB},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := New(fakebackend.New(), Options{})
			id := createVolume(t, s, "v", volume.GiB)
			resp, err := s.ControllerExpandVolume(t.Context(), expandRequest(id, test.required, test.limit))
			if err != nil {
				t.Fatal(err)
			}
			if resp.GetCapacityBytes() != test.want.Bytes() || !resp.GetNodeExpansionRequired() {
				t.Errorf("got %v, want %s and a node expansion", resp, test.want)
			}
			v, err := s.backend.Get(t.Context(), id)
			if err != nil || v.Size != test.want {
				t.Errorf("backend: got %s (%v), want %s", v.Size, err, test.want)
			}
		})
	}
}

func TestExpandRefusesInvalidRequests(t *testing.T) {
	t.Parallel()
	s := New(fakebackend.New(), Options{})
	id := createVolume(t, s, "v", volume.GiB)
	request := func(required, limit volume.Size, c *csi.VolumeCapability) *csi.ControllerExpandVolumeRequest {
		r := expandRequest(id, required, limit)
		r.VolumeCapability = c
		return r
	}
	for name, test := range map[string]struct {
		req   *csi.ControllerExpandVolumeRequest
		kind  volume.Kind
		words []string
	}{
		"no range": {
			&csi.ControllerExpandVolumeRequest{VolumeId: id}, volume.KindInvalid, []string{"required_bytes"},
		},
		"only a limit": {request(0, volume.GiB, nil), volume.KindInvalid, []string{"required_bytes"}},
		"negative":     {request(-1, 0, nil), volume.KindInvalid, nil},
		"rounded above the limit": {
			request(2*volume.GiB+1, 2*volume.GiB+2, nil), volume.KindOutOfRange, []string{id, "2049 MiB"},
		},
		"above the largest": {request(2*volume.TiB, 0, nil), volume.KindOutOfRange, []string{"2 TiB", "1 TiB"}},
		"limit below the present": {
			request(volume.MiB, 512*volume.MiB, nil), volume.KindOutOfRange, []string{"1 GiB", "512 MiB"},
		},
		"unknown volume": {expandRequest("nowhere", 2*volume.GiB, 0), volume.KindNotFound, []string{"nowhere"}},
		"mode not supported": {
			request(2*volume.GiB, 0, mountAs(csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER)),
			volume.KindInvalid,
			[]string{"MULTI_NODE_SINGLE_WRITER", "SINGLE_NODE_WRITER"},
		},
		"no access type": {request(2*volume.GiB, 0, &csi.VolumeCapability{
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: singleWriter},
		}), volume.KindInvalid, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := s.ControllerExpandVolume(t.Context(), test.req)
			volumetest.WantKind(t, err, test.kind, test.words...)
		})
	}
}

func TestExpandChecksBackendVolume(t *testing.T) {
	t.Parallel()
	for name, wrong := range map[string]volume.Volume{
		"the old size":                 {ID: "vol-1", Size: volume.GiB},
		"one step of granularity less": {ID: "vol-1", Size: 3*volume.GiB - volume.MiB},
		"no size":                      {ID: "vol-1"},
		"another volume":               {ID: "vol-2", Size: 3 * volume.GiB},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := New(scriptedBackend{
				fakebackend.New(), func(context.Context, string, volume.Size) (volume.Volume, error) { return wrong, nil },
			}, Options{})
			resp, err := s.ControllerExpandVolume(t.Context(), expandRequest("vol-1", 3*volume.GiB, 0))
			if resp != nil {
				t.Errorf("got %v, want no response", resp)
			}
			words := []string{"vol-1", wrong.Size.String(), "3 GiB"}
			if wrong.ID != "vol-1" {
				words = []string{"vol-1", wrong.ID}
			}
			volumetest.WantKind(t, err, volume.KindInternal, words...)
		})
	}
}

func TestExpandKeepsErrorKindOfBackend(t *testing.T) {
	t.Parallel()
	cause := errors.New("quota of the project")
	s := New(scriptedBackend{fakebackend.New(), func(context.Context, string, volume.Size) (volume.Volume, error) {
		return volume.Volume{}, volume.Errorf(volume.KindOutOfRange, "refused: %w", cause).WithRemedy("ask for less")
	}}, Options{})
	_, err := s.ControllerExpandVolume(t.Context(), expandRequest("vol-1", 3*volume.GiB, 0))
	volumetest.WantKind(t, err, volume.KindOutOfRange, "vol-1", "ask for less")
	if !errors.Is(err, cause) {
		t.Errorf("got %v, want it to wrap %v", err, cause)
	}
}

// Concurrent calls for the same size share one expansion; a waiting call ends with its
// deadline.
func TestConcurrentExpandsShareOneExpansion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := fakebackend.New()
		running := 0
		slow := scriptedBackend{fake, func(ctx context.Context, id string, target volume.Size) (volume.Volume, error) {
			if running++; running > 1 {
				t.Error("got two concurrent expansions of one volume, want one")
			}
			defer func() { running-- }()
			<-time.After(time.Minute)
			return fake.Expand(ctx, id, target)
		}}
		s := New(slow, Options{})
		id := createVolume(t, s, "v", volume.GiB)
		var calls sync.WaitGroup
		for range 5 {
			calls.Go(func() {
				resp, err := s.ControllerExpandVolume(t.Context(), expandRequest(id, 2*volume.GiB, 0))
				if err != nil || resp.GetCapacityBytes() != (2*volume.GiB).Bytes() {
					t.Errorf("got %v, %v, want 2 GiB", resp, err)
				}
			})
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := s.ControllerExpandVolume(ctx, expandRequest(id, 2*volume.GiB, 0))
		volumetest.WantKind(t, err, volume.KindInProgress, id)
		calls.Wait()
		if n := fake.Calls("Expand"); n != 1 {
			t.Errorf("got %d expansions, want 1", n)
		}
	})
}

// Under faults in any order a success has at least the target and the size of the backend,
// the size never shrinks, and retries end at the target.
func TestExpandConvergesUnderFaults(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		fake := fakebackend.New()
		s := New(scriptedBackend{fake, faultyExpand(fake, random)}, Options{})
		id := createVolume(t, s, "v", volume.GiB)
		highest := volume.GiB
		for range 20 {
			target := volume.Size(random.Int64N(int64(100 * volume.GiB)))
			resp, err := s.ControllerExpandVolume(t.Context(), expandRequest(id, max(target, 1), 0))
			have, getErr := fake.Get(t.Context(), id)
			if getErr != nil {
				t.Fatal(getErr)
			}
			if have.Size < highest {
				t.Fatalf("seed %d: shrunk from %s to %s", seed, highest, have.Size)
			}
			highest = have.Size
			if err == nil && (resp.GetCapacityBytes() != have.Size.Bytes() || have.Size < target) {
				t.Fatalf("seed %d: success with %d B for target %s, the volume has %s", seed, resp.GetCapacityBytes(), target,
					have.Size)
			}
		}
		for try := 0; ; try++ {
			resp, err := s.ControllerExpandVolume(t.Context(), expandRequest(id, 200*volume.GiB, 0))
			if err == nil {
				if resp.GetCapacityBytes() != (200 * volume.GiB).Bytes() {
					t.Fatalf("seed %d: ended at %d B", seed, resp.GetCapacityBytes())
				}
				break
			}
			if try > 100 {
				t.Fatalf("seed %d: still failing: %v", seed, err)
			}
		}
	}
}

// faultyExpand returns an Expand of fake that fails at random before or after the expansion,
// or reports success without it.
func faultyExpand(
	fake *fakebackend.Backend, random *rand.Rand,
) func(context.Context, string, volume.Size) (volume.Volume, error) {
	return func(ctx context.Context, id string, target volume.Size) (volume.Volume, error) {
		switch random.IntN(4) {
		case 0:
			return volume.Volume{}, volume.Errorf(volume.KindUnavailable, "connection refused")
		case 1:
			if _, err := fake.Expand(ctx, id, target); err != nil {
				return volume.Volume{}, err
			}
			return volume.Volume{}, volume.Errorf(volume.KindUnavailable, "connection lost")
		case 2:
			return fake.Get(ctx, id)
		}
		return fake.Expand(ctx, id, target)
	}
}
