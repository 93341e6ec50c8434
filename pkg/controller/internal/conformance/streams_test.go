package conformance

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/growvol/growvol/pkg/controller"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakebackend"
)

// This file tests the services GroupController and SnapshotMetadata over a socket.

// services is a backend with the clients of a controller over it, a volume with data in every
// second block of 64 KiB, and its snapshots: the second one has a change in block 3.
type services struct {
	backend       *fakebackend.Backend
	metadata      csi.SnapshotMetadataClient
	volume        string
	first, second string
}

const dataBlocks = 3000 // more than one message can have

func newServices(t *testing.T) services {
	t.Helper()
	backend := fakebackend.New()
	conn, err := grpc.NewClient(serve(t, backend), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	v, err := backend.Create(t.Context(), volume.CreateRequest{Name: "v", Size: volume.GiB})
	if err != nil {
		t.Fatal(err)
	}
	s := services{backend: backend, metadata: csi.NewSnapshotMetadataClient(conn), volume: v.ID}
	for n := range volume.Size(dataBlocks) {
		backend.Write(v.ID, volume.BlockRange{Offset: 2 * n * fakebackend.BlockSize, Length: fakebackend.BlockSize})
	}
	s.first = s.snapshot(t, v.ID, "first")
	backend.Write(v.ID, volume.BlockRange{Offset: 3 * fakebackend.BlockSize, Length: fakebackend.BlockSize})
	s.second = s.snapshot(t, v.ID, "second")
	return s
}

func (s services) snapshot(t *testing.T, id, name string) string {
	t.Helper()
	snapshot, err := s.backend.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: name, VolumeID: id})
	if err != nil {
		t.Fatal(err)
	}
	return snapshot.ID
}

// allocated returns the offsets of a stream, and its messages.
func (s services) allocated(ctx context.Context, offset int64, maxResults int32) ([]int64, int, error) {
	stream, err := s.metadata.GetMetadataAllocated(ctx, &csi.GetMetadataAllocatedRequest{
		SnapshotId: s.first, StartingOffset: offset, MaxResults: maxResults,
	})
	if err != nil {
		return nil, 0, err
	}
	var offsets []int64
	for messages := 0; ; messages++ {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return offsets, messages, nil
		}
		if err != nil {
			return offsets, messages, err
		}
		limit := int(maxResults)
		if limit == 0 {
			limit = 1024
		}
		if len(m.GetBlockMetadata()) > limit || m.GetVolumeCapacityBytes() != volume.GiB.Bytes() ||
			m.GetBlockMetadataType() != csi.BlockMetadataType_VARIABLE_LENGTH {
			return offsets, messages, errors.New("the message has too many ranges, or another size or type")
		}
		for _, r := range m.GetBlockMetadata() {
			offsets = append(offsets, r.GetByteOffset())
		}
	}
}

func TestAllocatedBlocksAreStreamedInBoundedMessages(t *testing.T) {
	t.Parallel()
	s := newServices(t)
	for _, c := range []struct {
		offset       int64
		maxResults   int32
		want, begins int64
		messages     int
	}{
		{0, 0, dataBlocks, 0, 3},
		{0, 100, dataBlocks, 0, 30},
		{1, 2000, dataBlocks, 0, 3}, // inside of the first range
		{fakebackend.BlockSize.Bytes(), 0, dataBlocks - 1, 2 * fakebackend.BlockSize.Bytes(), 3},
		{volume.GiB.Bytes(), 0, 0, 0, 0},
	} {
		offsets, messages, err := s.allocated(t.Context(), c.offset, c.maxResults)
		if err != nil || int64(len(offsets)) != c.want || messages != c.messages || !slices.IsSorted(offsets) {
			t.Errorf("from %d: got %d ranges in %d messages (%v), want %d in %d, sorted",
				c.offset, len(offsets), messages, err, c.want, c.messages)
		}
		if len(offsets) > 0 && offsets[0] != c.begins {
			t.Errorf("from %d: the first range is at %d, want %d", c.offset, offsets[0], c.begins)
		}
	}
}

func (s services) delta(t *testing.T, base, target string) ([]*csi.BlockMetadata, error) {
	t.Helper()
	stream, err := s.metadata.GetMetadataDelta(t.Context(), &csi.GetMetadataDeltaRequest{
		BaseSnapshotId: base, TargetSnapshotId: target,
	})
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.Recv()
	return m.GetBlockMetadata(), err
}

func TestDeltaHasTheChangedBlocks(t *testing.T) {
	t.Parallel()
	s := newServices(t)
	ranges, err := s.delta(t, s.first, s.second)
	if err != nil || len(ranges) != 1 || ranges[0].GetByteOffset() != 3*fakebackend.BlockSize.Bytes() {
		t.Errorf("got %v (%v), want block 3 alone", ranges, err)
	}
	if _, err := s.delta(t, s.first, s.first); !errors.Is(err, io.EOF) {
		t.Errorf("a snapshot compared with itself: got %v, want an empty stream", err)
	}
}

func TestErrorsOfStreamsBecomeCodes(t *testing.T) {
	t.Parallel()
	s := newServices(t)
	other, err := s.backend.Create(t.Context(), volume.CreateRequest{Name: "other", Size: volume.GiB})
	if err != nil {
		t.Fatal(err)
	}
	foreign := s.snapshot(t, other.ID, "foreign")
	wantCode := func(what string, err error, want codes.Code) {
		t.Helper()
		if got := status.Code(err); got != want {
			t.Errorf("%s: got %s (%v), want %s", what, got, err, want)
		}
	}
	_, err = s.delta(t, "", s.second)
	wantCode("no base", err, codes.InvalidArgument)
	_, err = s.delta(t, s.first, "gone")
	wantCode("missing snapshot", err, codes.NotFound)
	_, err = s.delta(t, foreign, s.second)
	wantCode("snapshots of two volumes", err, codes.InvalidArgument)
	for _, offset := range []int64{-1, volume.GiB.Bytes() + 1} {
		_, _, err = s.allocated(t.Context(), offset, 0)
		wantCode("offset", err, codes.OutOfRange)
	}
	_, _, err = s.allocated(t.Context(), 0, -1)
	wantCode("max_results", err, codes.InvalidArgument)
}

// blockingBackend has a listing of blocks that goes on until its context ends.
type blockingBackend struct {
	*fakebackend.Backend

	ended chan error
}

func (b blockingBackend) Blocks(
	ctx context.Context, _ volume.BlocksRequest, each func(volume.BlockRange) error,
) error {
	for offset := volume.Size(0); ; offset += fakebackend.BlockSize {
		err := each(volume.BlockRange{Offset: offset, Length: fakebackend.BlockSize})
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			b.ended <- err
			return err
		}
	}
}

func TestCanceledStreamEnds(t *testing.T) {
	t.Parallel()
	s := newServices(t)
	backend := blockingBackend{s.backend, make(chan error, 1)}
	conn, err := grpc.NewClient(serve(t, backend), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := csi.NewSnapshotMetadataClient(conn).GetMetadataAllocated(ctx,
		&csi.GetMetadataAllocatedRequest{SnapshotId: s.first})
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-backend.ended; err == nil {
		t.Error("the listing ended without an error")
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}

// Advertised services follow from the interfaces of the backend.
func TestServicesFollowFromTheBackend(t *testing.T) {
	t.Parallel()
	want := []csi.PluginCapability_Service_Type{
		csi.PluginCapability_Service_GROUP_CONTROLLER_SERVICE, csi.PluginCapability_Service_SNAPSHOT_METADATA_SERVICE,
	}
	if got := controller.New(fakebackend.New(), controller.Options{}).PluginServices(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	minimal := controller.New(fakebackend.Nop{}, controller.Options{})
	if got := minimal.PluginServices(); len(got) != 0 {
		t.Errorf("got %v of a backend without the interfaces, want none", got)
	}
	resp, err := minimal.GroupControllerGetCapabilities(t.Context(), nil)
	if err != nil || len(resp.GetCapabilities()) != 0 {
		t.Errorf("got %v (%v), want no capabilities", resp, err)
	}
}
