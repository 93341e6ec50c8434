// Package cindertest has what the tests of the backend's packages share: a fake cloud with the
// volumes of a cluster, and checks of errors and waits.
package cindertest

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// ClusterID is the cluster of the tests.
const ClusterID = "kubernetes"

// Cloud is a fake cloud.
type Cloud struct{ *fakecloud.Cloud }

// Start starts a fake cloud, which ends with the test. It is reached by fakecloud.Dialer alone,
// except in benchmarks, which measure with sockets.
func Start(tb testing.TB, o fakecloud.Options) Cloud {
	tb.Helper()
	_, isBenchmark := tb.(*testing.B)
	o.InMemory = !isBenchmark
	return Cloud{fakecloud.Start(tb, o)}
}

// Config writes a cloud.conf for clouds by their names and returns its path. The name "" stands for
// the section [Global].
func Config(tb testing.TB, clouds map[string]*fakecloud.Cloud) string {
	tb.Helper()
	var text strings.Builder
	for name, c := range clouds {
		section := "[Global]"
		if name != "" {
			section = fmt.Sprintf("[Global %q]", name)
		}
		fmt.Fprintf(&text, "%s\nauth-url = %s/identity/v3\nusername = csi\npassword = %s\n"+
			"tenant-name = csi\ndomain-name = Default\nregion = RegionOne\n", section, c.URL(), fakecloud.Password)
	}
	path := filepath.Join(tb.TempDir(), "cloud.conf")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// Open logs in to the cloud.
func (c Cloud) Open(tb testing.TB) *cloud.Clouds {
	tb.Helper()
	path := Config(tb, map[string]*fakecloud.Cloud{"": c.Cloud})
	clouds, err := cloud.Open(tb.Context(), cloud.Options{CloudConfig: []string{path}, Dial: fakecloud.Dialer(c.Cloud)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(clouds.Close)
	return clouds
}

// Add puts a volume of the cluster into the cloud and returns its id. It has 1 GiB if v has no
// size.
func (c Cloud) Add(v fakecloud.Volume) string {
	if v.Metadata == nil {
		v.Metadata = Own()
	}
	if v.Size == 0 {
		v.Size = 1
	}
	return c.AddVolume(v)
}

// SizeOf returns the size of a volume in the cloud.
func (c Cloud) SizeOf(tb testing.TB, id string) volume.Size {
	tb.Helper()
	v, ok := c.Volume(id)
	if !ok {
		tb.Fatalf("volume %s is gone", id)
	}
	return volume.Size(v.Size) * volume.GiB
}

// OnCall makes the cloud answer the next calls with faults; see fakecloud.Cloud.On.
func (c Cloud) OnCall(call fakecloud.Call, faults ...fakecloud.Fault) *fakecloud.Rule {
	return c.On(fakecloud.Match{Call: call}, faults...)
}

// Denied is the answer of a cloud whose policy does not allow a call.
func Denied() fakecloud.Fault {
	return fakecloud.Status(http.StatusForbidden, "Policy doesn't allow it")
}

// Broken is an answer 500 without a reason.
func Broken() fakecloud.Fault { return fakecloud.Status(http.StatusInternalServerError, "") }

// Own returns the metadata of the cluster's volumes.
func Own() map[string]string { return map[string]string{metadata.Cluster: ClusterID} }

// SetDuration makes the work after a call take d.
func (c Cloud) SetDuration(call fakecloud.Call, d time.Duration) {
	c.SetLatency(call, fakecloud.Latency{Work: fakecloud.Fixed(d)})
}

// CheckCalls checks how often the cloud got a call.
func (c Cloud) CheckCalls(tb testing.TB, call fakecloud.Call, want int) {
	tb.Helper()
	if got := c.Count(call); got != want {
		tb.Errorf("%d calls of %q, want %d", got, call, want)
	}
}

// CheckState checks the state of a volume.
func (c Cloud) CheckState(tb testing.TB, id, want string) {
	tb.Helper()
	if v, _ := c.Volume(id); v.Status != want {
		tb.Errorf("the volume is %s, want %s", v.Status, want)
	}
}

// CheckAttached checks that the guest of a server has the disk.
func (c Cloud) CheckAttached(tb testing.TB, id, server string) {
	tb.Helper()
	if _, ok := c.GuestSize(server, id); !ok {
		v, _ := c.Volume(id)
		tb.Errorf("the guest %s has no disk; the volume is %s with %+v", server, v.Status, v.Attachments)
	}
}

// CheckDetached checks that neither the guest of a server nor Cinder has the volume there.
func (c Cloud) CheckDetached(tb testing.TB, id, server string) {
	tb.Helper()
	if _, ok := c.GuestSize(server, id); ok {
		tb.Errorf("the guest %s still has the disk", server)
	}
	v, _ := c.Volume(id)
	for _, a := range v.Attachments {
		if a.ServerID == server {
			tb.Errorf("Cinder still has %+v; the volume is %s", a, v.Status)
		}
	}
}

// AfterNext runs f in the background, 100 ms after the cloud has got the next such call.
func (c Cloud) AfterNext(tb testing.TB, call fakecloud.Call, f func()) {
	tb.Helper()
	before, done := c.Count(call), make(chan struct{})
	ctx, cancel := context.WithCancel(tb.Context())
	go func() {
		defer close(done)
		for c.Count(call) == before {
			if operation.Sleep(ctx, 5*time.Millisecond) != nil {
				return
			}
		}
		if operation.Sleep(ctx, 100*time.Millisecond) == nil {
			f()
		}
	}()
	tb.Cleanup(func() { cancel(); <-done })
}

// OnlyInCinder returns a volume with an attachment to a server that Nova does not have.
func OnlyInCinder(server string) fakecloud.Volume {
	return fakecloud.Volume{
		Status: "in-use", Attachments: []fakecloud.Attachment{{ID: "rest-1", ServerID: server, Status: "attached"}},
	}
}

// AttachRequest returns a request for a server that has the volume alone.
func AttachRequest(id, server string) volume.AttachRequest {
	return volume.AttachRequest{VolumeID: id, Node: server, Access: volume.Access{Mode: volume.AccessSingleNodeWriter}}
}

// CheckKind checks that err is of a kind and contains each of the words.
func CheckKind(tb testing.TB, err error, kind volume.Kind, words ...string) {
	tb.Helper()
	if !volume.IsKind(err, kind) {
		tb.Fatalf("error %v of kind %s, want kind %s", err, volume.KindOf(err), kind)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			tb.Errorf("error %q does not contain %q", err, word)
		}
	}
}

// Within returns a context of the test that ends after d. A wait that stalls takes a share of d.
func Within(tb testing.TB, d time.Duration) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), d)
	tb.Cleanup(cancel)
	return ctx
}

// After runs f in the background after a delay.
func After(tb testing.TB, delay time.Duration, f func()) {
	tb.Helper()
	timer := time.AfterFunc(delay, f)
	tb.Cleanup(func() { timer.Stop() })
}

// Eventually waits until done reports true, and fails the test after 20 s. what says what it waits
// for.
func Eventually(tb testing.TB, what string, done func() bool) {
	tb.Helper()
	for ctx := Within(tb, 20*time.Second); !done(); {
		if operation.Sleep(ctx, 5*time.Millisecond) != nil {
			tb.Fatalf("did not happen within 20 s: %s", what)
		}
	}
}

// Text is a log that may be written and read at the same time. The zero value is ready to use.
type Text struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements io.Writer.
func (t *Text) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.Write(p)
}

// String returns what was written so far.
func (t *Text) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}
