package cinder

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// rig is a backend over a cloud of its own.
type rig struct {
	*Backend
	cloud cindertest.Cloud
}

func newRig(tb testing.TB, o fakecloud.Options, change ...func(*Options)) *rig {
	tb.Helper()
	return newRigOver(tb, cindertest.Start(tb, o).Cloud, change...)
}

func newRigOver(tb testing.TB, fake *fakecloud.Cloud, change ...func(*Options)) *rig {
	tb.Helper()
	return &rig{
		Backend: newBackend(tb, map[string]*fakecloud.Cloud{"": fake}, change...), cloud: cindertest.Cloud{Cloud: fake},
	}
}

// newBackend returns a backend over clouds by their names.
func newBackend(tb testing.TB, clouds map[string]*fakecloud.Cloud, change ...func(*Options)) *Backend {
	tb.Helper()
	o := Options{
		Clouds: CloudOptions{
			CloudConfig: []string{cindertest.Config(tb, clouds)},
			Dial:        fakecloud.Dialer(slices.Collect(maps.Values(clouds))...),
		},
		ClusterID: cindertest.ClusterID,
	}
	for _, f := range change {
		f(&o)
	}
	b, err := New(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(b.Close)
	return b
}

// withLog makes the backend log into a text.
func withLog(log *cindertest.Text) func(*Options) {
	return func(o *Options) { o.Log = slog.New(slog.NewTextHandler(log, nil)) }
}

// inUse puts a volume into the cloud and attaches it to a server without the backend.
func (r *rig) inUse(tb testing.TB, size int) (id, server string) {
	tb.Helper()
	server = r.cloud.AddServer("")
	id = r.cloud.Add(fakecloud.Volume{Size: size})
	c, err := r.clouds.Cloud(tb.Context(), "")
	if err != nil {
		tb.Fatal(err)
	}
	if err := c.Attach(tb.Context(), server, id, false); err != nil {
		tb.Fatal(err)
	}
	_, err = r.pollers.Await(tb.Context(), c, id, "attach", func(v cloud.Volume) bool { return v.Status == state.InUse })
	if err != nil {
		tb.Fatal(err)
	}
	r.cloud.ClearRequests()
	return id, server
}

// request returns a request for a volume as CreateVolume of the controller makes it.
func request(name string, size volume.Size, parameters map[string]string) volume.CreateRequest {
	return volume.CreateRequest{
		Name: name, Size: size, Range: volume.Range{Required: size}, Parameters: parameters,
		Accesses: []volume.Access{{Mode: volume.AccessSingleNodeWriter}},
	}
}

func (r *rig) create(tb testing.TB, req volume.CreateRequest) volume.Volume {
	tb.Helper()
	v, err := r.Create(tb.Context(), req)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

func (r *rig) attach(t *testing.T, id, server string) map[string]string {
	t.Helper()
	published, err := r.Attach(cindertest.Within(t, 10*time.Second), cindertest.AttachRequest(id, server))
	if err != nil {
		t.Fatal(err)
	}
	r.cloud.CheckAttached(t, id, server)
	return published
}

func (r *rig) detach(t *testing.T, id, server string) {
	t.Helper()
	if err := r.Detach(cindertest.Within(t, 10*time.Second), id, server); err != nil {
		t.Fatal(err)
	}
	r.cloud.CheckDetached(t, id, server)
}

// checkExpand checks that Expand succeeds with a volume of the wanted size.
func checkExpand(ctx context.Context, tb testing.TB, b *Backend, id string, want volume.Size) {
	tb.Helper()
	if v, err := b.Expand(ctx, id, want); err != nil || v.Size != want {
		tb.Errorf("Expand returns %s and error %v, want %s", v.Size, err, want)
	}
}
