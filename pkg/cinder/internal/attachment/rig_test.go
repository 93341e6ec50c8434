package attachment

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/poll"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// rig attaches and detaches the volumes of a cloud of its own.
type rig struct {
	cloud cindertest.Cloud
	api   *cloud.Cloud
	polls *poll.Group
}

func newRig(t *testing.T, o fakecloud.Options) *rig {
	t.Helper()
	fake := cindertest.Start(t, o)
	api, err := fake.Open(t).Cloud(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	return &rig{cloud: fake, api: api, polls: poll.NewGroup(slog.New(slog.DiscardHandler))}
}

func (r *rig) attachment(id, server string) Attachment {
	return Attachment{
		API: r.api, Pollers: r.polls, Log: slog.New(slog.DiscardHandler), VolumeID: id, ServerID: server,
	}
}

// Attach attaches a volume as Backend.Attach does.
func (r *rig) Attach(ctx context.Context, req volume.AttachRequest) error {
	a := r.attachment(req.VolumeID, req.Node)
	a.Shared = req.Access.IsShared()
	_, err := a.Attach(ctx)
	return volume.Wrap(err, "attach", req.VolumeID)
}

// Detach detaches a volume as Backend.Detach does.
func (r *rig) Detach(ctx context.Context, id, server string) error {
	return volume.Wrap(r.attachment(id, server).Detach(ctx), "detach", id)
}

func (r *rig) attach(t *testing.T, req volume.AttachRequest) {
	t.Helper()
	if err := r.Attach(cindertest.Within(t, 10*time.Second), req); err != nil {
		t.Fatal(err)
	}
	r.cloud.CheckAttached(t, req.VolumeID, req.Node)
}

func (r *rig) detach(t *testing.T, id, server string) {
	t.Helper()
	if err := r.Detach(cindertest.Within(t, 10*time.Second), id, server); err != nil {
		t.Fatal(err)
	}
	r.cloud.CheckDetached(t, id, server)
}

// attachedVolume returns a volume that the rig has attached to a server.
func (r *rig) attachedVolume(t *testing.T) (id, server string) {
	t.Helper()
	server, id = r.cloud.AddServer(""), r.cloud.Add(fakecloud.Volume{})
	r.attach(t, cindertest.AttachRequest(id, server))
	r.cloud.ClearRequests()
	return id, server
}

// reservation is the attachment of a reservedVolume.
const reservation = "rest-1"

// reservedVolume returns a volume that is reserved for a server, as an attachment that has not
// finished leaves it.
func (r *rig) reservedVolume(server string) (id string) {
	return r.cloud.Add(fakecloud.Volume{
		Status:      state.Reserved,
		Attachments: []fakecloud.Attachment{{ID: reservation, ServerID: server, Status: state.Reserved}},
	})
}
