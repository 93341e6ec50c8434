package controller

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/fakebackend"
)

func fromSnapshot(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id},
	}}
}

func fromVolume(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
		Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id},
	}}
}

func TestCreateIsIdempotentByName(t *testing.T) {
	t.Parallel()
	s := New(fakebackend.New(), Options{})
	var calls sync.WaitGroup
	ids := make([]string, 8)
	for i := range ids {
		calls.Go(func() {
			resp, err := s.CreateVolume(t.Context(), createRequest("v", volume.GiB))
			if err != nil {
				t.Error(err)
			}
			ids[i] = resp.GetVolume().GetVolumeId()
		})
	}
	calls.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Errorf("got ids %v, want one", ids)
		}
	}
	_, err := s.CreateVolume(t.Context(), createRequest("v", 2*volume.GiB))
	volumetest.WantKind(t, err, volume.KindAlreadyExists, "v")
}

func TestCreateRefusesInvalidRequests(t *testing.T) {
	t.Parallel()
	const multi = csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER
	for name, test := range map[string]struct {
		change  func(*csi.CreateVolumeRequest)
		backend volume.Backend
		kind    volume.Kind
		words   []string
	}{
		"no name": {func(r *csi.CreateVolumeRequest) { r.Name = "" }, nil, volume.KindInvalid, []string{"name"}},
		"control character": {
			func(r *csi.CreateVolumeRequest) { r.Name = "a\x00b" }, nil, volume.KindInvalid, []string{"U+0000"},
		},
		"no capability": {
			func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities = nil }, nil, volume.KindInvalid,
			[]string{"volume_capabilities"},
		},
		"mode not supported": {func(r *csi.CreateVolumeRequest) {
			r.VolumeCapabilities = []*csi.VolumeCapability{mountAs(multi)}
		}, nil, volume.KindInvalid, []string{"MULTI_NODE_SINGLE_WRITER", "SINGLE_NODE_WRITER, SINGLE_NODE_READER_ONLY"}},
		"filesystem on several nodes": {func(r *csi.CreateVolumeRequest) {
			r.VolumeCapabilities = []*csi.VolumeCapability{mountAs(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)}
		}, nil, volume.KindInvalid, []string{"MULTI_NODE_MULTI_WRITER", "volumeMode: Block"}},
		"block and filesystem": {func(r *csi.CreateVolumeRequest) {
			r.VolumeCapabilities = []*csi.VolumeCapability{mountAs(singleWriter), blockAs(singleWriter)}
		}, nil, volume.KindInvalid, []string{"block"}},
		"too large": {
			func(r *csi.CreateVolumeRequest) { r.CapacityRange = bytesRange(2*volume.TiB, 0) }, nil, volume.KindOutOfRange,
			[]string{"2 TiB"},
		},
		"limit small": {
			func(r *csi.CreateVolumeRequest) { r.CapacityRange = bytesRange(1, 2) }, nil, volume.KindOutOfRange,
			[]string{"1 MiB"},
		},
		"no such snapshot": {func(r *csi.CreateVolumeRequest) {
			r.VolumeContentSource = fromSnapshot("snap-9")
		}, nil, volume.KindNotFound, []string{"snap-9"}},
		"no such source volume": {func(r *csi.CreateVolumeRequest) {
			r.VolumeContentSource = fromVolume("vol-9")
		}, nil, volume.KindNotFound, []string{"vol-9"}},
		"source without an id": {
			func(r *csi.CreateVolumeRequest) { r.VolumeContentSource = fromVolume("") }, nil, volume.KindInvalid, nil,
		},
		"empty source": {
			func(r *csi.CreateVolumeRequest) { r.VolumeContentSource = &csi.VolumeContentSource{} }, nil, volume.KindInvalid,
			nil,
		},
		"snapshots not supported": {func(r *csi.CreateVolumeRequest) {
			r.VolumeContentSource = fromSnapshot("snap-1")
		}, fakebackend.Nop{}, volume.KindInvalid, []string{"snapshot"}},
		"clones not supported": {func(r *csi.CreateVolumeRequest) {
			r.VolumeContentSource = fromVolume("vol-1")
		}, fakebackend.Nop{}, volume.KindInvalid, []string{"another volume"}},
		"mutable parameters not supported": {func(r *csi.CreateVolumeRequest) {
			r.MutableParameters = map[string]string{"tier": "gold"}
		}, fakebackend.Nop{}, volume.KindInvalid, []string{"mutable_parameters"}},
		"mutable parameter unknown": {func(r *csi.CreateVolumeRequest) {
			r.MutableParameters = map[string]string{"color": "red"}
		}, nil, volume.KindInvalid, []string{"color"}},
		"topology not supported": {func(r *csi.CreateVolumeRequest) {
			r.AccessibilityRequirements = &csi.TopologyRequirement{}
		}, fakebackend.Nop{}, volume.KindInvalid, []string{"accessibility_requirements"}},
		"no zone is possible": {func(r *csi.CreateVolumeRequest) {
			r.AccessibilityRequirements = &csi.TopologyRequirement{
				Requisite: []*csi.Topology{{Segments: map[string]string{fakebackend.TopologyKey: "z"}}},
			}
		}, nil, volume.KindExhausted, []string{"zone"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			backend := test.backend
			if backend == nil {
				backend = fakebackend.New()
			}
			req := createRequest("v", volume.GiB)
			test.change(req)
			_, err := New(backend, Options{}).CreateVolume(t.Context(), req)
			volumetest.WantKind(t, err, test.kind, test.words...)
		})
	}
}

func TestCreateFromSourceChecksSize(t *testing.T) {
	t.Parallel()
	s := New(fakebackend.New(), Options{})
	source := createVolume(t, s, "source", 3*volume.GiB)
	snap, err := s.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: source})
	if err != nil {
		t.Fatal(err)
	}
	for kind, from := range map[string]*csi.VolumeContentSource{
		"snapshot": fromSnapshot(snap.GetSnapshot().GetSnapshotId()), "volume": fromVolume(source),
	} {
		for name, test := range map[string]struct {
			required, limit, want volume.Size
			kind                  volume.Kind
		}{
			"same size":                   {required: 3 * volume.GiB, want: 3 * volume.GiB},
			"larger":                      {required: 5 * volume.GiB, want: 5 * volume.GiB},
			"no size: that of the source": {want: 3 * volume.GiB},
			"smaller is refused":          {required: 3*volume.GiB - 1, kind: volume.KindOutOfRange},
			"limit below it is refused":   {limit: 2 * volume.GiB, kind: volume.KindOutOfRange},
		} {
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Parallel()
				req := createRequest(kind+name, 0)
				req.CapacityRange, req.VolumeContentSource = bytesRange(test.required, test.limit), from
				resp, err := s.CreateVolume(t.Context(), req)
				if test.want == 0 {
					volumetest.WantKind(t, err, test.kind, "3 GiB")
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if got := resp.GetVolume(); got.GetCapacityBytes() != test.want.Bytes() ||
					got.GetContentSource().String() != from.String() {
					t.Errorf("got %v, want %s from %v", got, test.want, from)
				}
			})
		}
	}
	unready, err := s.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{
		Name: "unready", SourceVolumeId: source, Parameters: map[string]string{"ready": "false"},
	})
	if err != nil {
		t.Fatal(err)
	}
	req := createRequest("early", 3*volume.GiB)
	req.VolumeContentSource = fromSnapshot(unready.GetSnapshot().GetSnapshotId())
	_, err = s.CreateVolume(t.Context(), req)
	volumetest.WantKind(t, err, volume.KindInProgress, unready.GetSnapshot().GetSnapshotId())
}

func TestCreateReturnsBackendVolume(t *testing.T) {
	t.Parallel()
	req := createRequest("v", volume.GiB)
	req.AccessibilityRequirements = &csi.TopologyRequirement{
		Requisite: []*csi.Topology{
			{Segments: map[string]string{fakebackend.TopologyKey: "a"}},
			{Segments: map[string]string{fakebackend.TopologyKey: "b"}},
		},
		Preferred: []*csi.Topology{{Segments: map[string]string{fakebackend.TopologyKey: "b"}}},
	}
	req.MutableParameters = map[string]string{"tier": "gold"}
	fake := fakebackend.New()
	resp, err := New(fake, Options{}).CreateVolume(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	v := resp.GetVolume()
	if len(v.GetAccessibleTopology()) != 1 || v.GetAccessibleTopology()[0].GetSegments()[fakebackend.TopologyKey] != "b" {
		t.Errorf("got topology %v, want the preferred zone b", v.GetAccessibleTopology())
	}
	if v.GetVolumeContext()["pool"] != "fake" || v.GetContentSource() != nil || fake.Tier(v.GetVolumeId()) != "gold" {
		t.Errorf("got %v, tier %q, want the context of the backend and tier gold", v, fake.Tier(v.GetVolumeId()))
	}
}

// wrongBackend returns another volume than requested.
type wrongBackend struct {
	*fakebackend.Backend
	volume volume.Volume
}

func (b wrongBackend) Create(context.Context, volume.CreateRequest) (volume.Volume, error) {
	return b.volume, nil
}

func (b wrongBackend) CloneVolume(context.Context, volume.CreateRequest) (volume.Volume, error) {
	return b.volume, nil
}

// A copy holds its source even if the request has no size. Its source is that of the request if the
// backend returns none.
func TestCreateChecksCopy(t *testing.T) {
	t.Parallel()
	fake := fakebackend.New()
	source := createVolume(t, New(fake, Options{}), "source", 2*volume.GiB)
	req := createRequest("copy", 0)
	req.CapacityRange, req.VolumeContentSource = nil, fromVolume(source)
	s := New(wrongBackend{fake, volume.Volume{ID: "x", Size: volume.GiB}}, Options{})
	_, err := s.CreateVolume(t.Context(), req)
	volumetest.WantKind(t, err, volume.KindUnavailable, "1 GiB, less than the required 2 GiB")
	s = New(wrongBackend{fake, volume.Volume{ID: "x", Size: 2 * volume.GiB}}, Options{})
	resp, err := s.CreateVolume(t.Context(), req)
	if got := resp.GetVolume().GetContentSource().GetVolume().GetVolumeId(); err != nil || got != source {
		t.Errorf("got source %q, %v, want %q", got, err, source)
	}
}

func TestCreateChecksBackendVolume(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		v    volume.Volume
		kind volume.Kind
	}{
		// Not final: the volume exists.
		"too small": {volume.Volume{ID: "x", Size: volume.GiB}, volume.KindUnavailable},
		"too large": {volume.Volume{ID: "x", Size: 4 * volume.GiB}, volume.KindUnavailable},
		"no id":     {volume.Volume{Size: 2 * volume.GiB}, volume.KindUnavailable},
		"another source": {
			volume.Volume{ID: "x", Size: 2 * volume.GiB, Source: volume.Source{VolumeID: "y"}}, volume.KindAlreadyExists,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req := createRequest("v", 2*volume.GiB)
			req.CapacityRange = bytesRange(2*volume.GiB, 3*volume.GiB)
			_, err := New(wrongBackend{fakebackend.New(), test.v}, Options{}).CreateVolume(t.Context(), req)
			volumetest.WantKind(t, err, test.kind, "v")
		})
	}
}

// A copy waits for other calls for its source, for instance its deletion.
func TestCreateWaitsForLockOfSource(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := New(fakebackend.New(), Options{})
		source := createVolume(t, s, "source", volume.GiB)
		snapshot, err := s.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: source})
		if err != nil {
			t.Fatal(err)
		}
		for key, from := range map[string]*csi.VolumeContentSource{
			source: fromVolume(source),
			snapshotKey(snapshot.GetSnapshot().GetSnapshotId()): fromSnapshot(snapshot.GetSnapshot().GetSnapshotId()),
		} {
			unlock, err := s.locks.Lock(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			req := createRequest("copy of "+key, volume.GiB)
			req.VolumeContentSource = from
			_, err = s.CreateVolume(ctx, req)
			volumetest.WantKind(t, err, volume.KindInProgress, key)
			unlock()
			if _, err := s.CreateVolume(t.Context(), req); err != nil {
				t.Error(err)
			}
		}
	})
}

// The answer to a creation may be lost. The retry returns the volume whatever has happened to
// the source since, unless the retry requests something else.
func TestCreateRetrySucceedsAfterSourceChanged(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*testing.T, *fakebackend.Backend, volume.Snapshot){
		"grown": func(t *testing.T, b *fakebackend.Backend, s volume.Snapshot) {
			t.Helper()
			if _, err := b.Expand(t.Context(), s.VolumeID, 4*volume.GiB); err != nil {
				t.Fatal(err)
			}
		},
		"deleted": func(t *testing.T, b *fakebackend.Backend, s volume.Snapshot) {
			t.Helper()
			if err := errors.Join(b.DeleteSnapshot(t.Context(), s.ID), b.Delete(t.Context(), s.VolumeID)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := fakebackend.New()
			s := New(fake, Options{})
			source := createVolume(t, s, "source", 2*volume.GiB)
			snapshot, err := fake.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: "s", VolumeID: source})
			if err != nil {
				t.Fatal(err)
			}
			clone, restored := createRequest("clone", 2*volume.GiB), createRequest("restored", 2*volume.GiB)
			clone.VolumeContentSource, restored.VolumeContentSource = fromVolume(source), fromSnapshot(snapshot.ID)
			for _, req := range []*csi.CreateVolumeRequest{clone, restored} {
				first, err := s.CreateVolume(t.Context(), req)
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					again, err := s.CreateVolume(t.Context(), req)
					if err != nil || again.String() != first.String() {
						t.Errorf("retry: got %v, %v, want %v", again, err, first)
					}
					req.CapacityRange = bytesRange(3*volume.GiB, 0)
					_, err = s.CreateVolume(t.Context(), req)
					volumetest.WantKind(t, err, volume.KindAlreadyExists, "2 GiB", "3 GiB")
					req.CapacityRange = bytesRange(volume.GiB, volume.GiB)
					_, err = s.CreateVolume(t.Context(), req)
					volumetest.WantKind(t, err, volume.KindAlreadyExists, "2 GiB", "1 GiB")
					req.CapacityRange, req.VolumeContentSource = nil, fromVolume("vol-9")
					_, err = s.CreateVolume(t.Context(), req)
					volumetest.WantKind(t, err, volume.KindAlreadyExists, "another source")
				}()
			}
			change(t, fake, snapshot)
		})
	}
}
