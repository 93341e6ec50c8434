package cinder

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

const cluster = "kubernetes"

// rig is a backend over a cloud of its own.
type rig struct {
	*Backend
	cloud *fakecloud.Cloud
}

func newRig(tb testing.TB, o fakecloud.Options, more ...func(*Options)) *rig {
	tb.Helper()
	fake := fakecloud.Start(tb, o)
	return newRigOver(tb, fake, more...)
}

func newRigOver(tb testing.TB, fake *fakecloud.Cloud, more ...func(*Options)) *rig {
	tb.Helper()
	options := Options{Clouds: CloudOptions{CloudConfig: []string{cloudConf(tb, map[string]*fakecloud.Cloud{"": fake})}}, ClusterID: cluster}
	for _, change := range more {
		change(&options)
	}
	b, err := New(tb.Context(), options)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(b.Close)
	return &rig{Backend: b, cloud: fake}
}

// cloudConf describes clouds by their names, as in a cloud.conf for
// cinder-csi-plugin.
func cloudConf(tb testing.TB, clouds map[string]*fakecloud.Cloud) string {
	tb.Helper()
	var text strings.Builder
	for name, c := range clouds {
		section := "[Global]"
		if name != "" {
			section = fmt.Sprintf("[Global %q]", name)
		}
		fmt.Fprintf(&text, "%s\nauth-url = %s/identity/v3\nusername = csi\npassword = %s\ntenant-name = csi\ndomain-name = Default\nregion = RegionOne\n",
			section, c.URL(), fakecloud.Password)
	}
	path := filepath.Join(tb.TempDir(), "cloud.conf")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// withLog makes the backend log into a text.
func withLog(log *safeText) func(*Options) {
	return func(o *Options) { o.Log = slog.New(slog.NewTextHandler(log, nil)) }
}

// add puts a volume of this cluster into the cloud.
func (r *rig) add(v fakecloud.Volume) string {
	if v.Metadata == nil {
		v.Metadata = map[string]string{metadata.Cluster: cluster}
	}
	if v.Size == 0 {
		v.Size = 1
	}
	return r.cloud.AddVolume(v)
}

// inUse puts a volume of this cluster into the cloud and has it attached to a
// server.
func (r *rig) inUse(tb testing.TB, size int) (id, server string) {
	tb.Helper()
	server = r.cloud.AddServer("")
	id = r.add(fakecloud.Volume{Size: size})
	c, err := r.clouds.Cloud(tb.Context(), "")
	if err != nil {
		tb.Fatal(err)
	}
	if err := c.Attach(tb.Context(), server, id, false); err != nil {
		tb.Fatal(err)
	}
	_, err = r.polls.Await(tb.Context(), c, id, "attach", func(v cloud.Volume) (bool, error) { return v.Status == state.InUse, nil })
	if err != nil {
		tb.Fatal(err)
	}
	r.cloud.ClearRequests()
	return id, server
}

// size is the volume's size as the cloud has it.
func (r *rig) size(tb testing.TB, id string) volume.Size {
	tb.Helper()
	v, ok := r.cloud.Volume(id)
	if !ok {
		tb.Fatalf("volume %s is gone", id)
	}
	return volume.Size(v.Size) * volume.GiB
}

// slow makes the work after a call take some time.
func (r *rig) slow(call fakecloud.Call, d time.Duration) {
	r.cloud.SetLatency(call, fakecloud.Latency{Work: fakecloud.Fixed(d)})
}

// wantCalls checks how often a call was made.
func (r *rig) wantCalls(tb testing.TB, call fakecloud.Call, want int) {
	tb.Helper()
	if got := r.cloud.Count(call); got != want {
		tb.Errorf("%d calls of %q, want %d", got, call, want)
	}
}

// wantKind checks that err is of the kind and names each of the words.
func wantKind(tb testing.TB, err error, kind volume.Kind, words ...string) {
	tb.Helper()
	if !volume.IsKind(err, kind) {
		tb.Fatalf("error %v (%s), want kind %s", err, volume.KindOf(err), kind)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			tb.Errorf("error %q does not name %q", err, w)
		}
	}
}

// request asks for a volume as CreateVolume of the controller does.
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

// within bounds a call; what it waits for in vain, it waits a part of this.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually runs f after a while, beside the test.
func eventually(t *testing.T, after time.Duration, f func()) {
	t.Helper()
	timer := time.AfterFunc(after, f)
	t.Cleanup(func() { timer.Stop() })
}

// afterNext runs f beside the test, a moment after the cloud has got the next
// such call.
func (r *rig) afterNext(t *testing.T, call fakecloud.Call, f func()) {
	t.Helper()
	before, done := r.cloud.Count(call), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(done)
		for r.cloud.Count(call) == before {
			if operation.Sleep(ctx, 5*time.Millisecond) != nil {
				return
			}
		}
		if operation.Sleep(ctx, 100*time.Millisecond) == nil {
			f()
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// wantSoon waits for what the cloud does behind its answers.
func wantSoon(t *testing.T, what string, done func() bool) {
	t.Helper()
	for ctx := within(t, 20*time.Second); !done(); {
		if operation.Sleep(ctx, 5*time.Millisecond) != nil {
			t.Fatalf("in vain: %s", what)
		}
	}
}
