package cloud

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/growvol/growvol/pkg/cinder/internal/transport"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/tests/fakecloud"
)

// rig is a client of a fake cloud.
type rig struct {
	fake    *fakecloud.Cloud
	clouds  *Clouds
	*Cloud  // the cloud "csi"
	log     *logRecorder
	metrics *prometheus.Registry
	dir     string // holds clouds.yaml
}

// fastTuning makes pauses short, so that tests of retries take no time.
func fastTuning() tuning {
	return tuning{
		transport: transport.Options{Backoff: time.Millisecond, Timeout: 5 * time.Second},
		timeouts:  defaultTimeouts(),
	}
}

// newRig returns a rig whose cloud is reached by fakecloud.Dialer alone.
func newRig(t *testing.T, o fakecloud.Options) *rig {
	t.Helper()
	o.InMemory = true
	r := &rig{fake: fakecloud.Start(t, o), log: &logRecorder{}, metrics: prometheus.NewRegistry(), dir: t.TempDir()}
	path, err := r.fake.WriteCloudsYAML(r.dir)
	must(t, err)
	r.clouds, err = open(t.Context(), Options{
		CloudsYAML: path, Default: "csi", UserAgent: "growvol/test", Registerer: r.metrics,
		Dial: fakecloud.Dialer(r.fake),
		Log:  slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}, fastTuning())
	must(t, err)
	t.Cleanup(r.clouds.Close)
	r.Cloud, err = r.clouds.Cloud(t.Context(), "")
	must(t, err)
	t.Cleanup(func() { r.log.checkNoSecret(t) })
	return r
}

// volume makes a volume that is ready for use.
func (r *rig) volume(t *testing.T, name string, gib int) Volume {
	t.Helper()
	v, err := r.CreateVolume(t.Context(), NewVolume{Name: name, Size: gib})
	must(t, err)
	return r.await(t, v.ID, "available")
}

// await waits until a volume has a status.
func (r *rig) await(t *testing.T, id, status string) Volume {
	t.Helper()
	for range 500 {
		v, err := r.Volume(t.Context(), id)
		must(t, err)
		if v.Status == status {
			return v
		}
		must(t, operation.Sleep(t.Context(), 2*time.Millisecond))
	}
	t.Fatalf("volume %s did not become %s", id, status)
	return Volume{}
}

// logRecorder keeps a log.
type logRecorder struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *logRecorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *logRecorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func (r *logRecorder) wantLine(t *testing.T, words ...string) {
	t.Helper()
	for line := range strings.Lines(r.String()) {
		if containsAll(line, words) {
			return
		}
	}
	t.Errorf("no line of the log has %q:\n%s", words, r)
}

// checkNoSecret fails the test if a password or token was logged.
func (r *logRecorder) checkNoSecret(t *testing.T) {
	t.Helper()
	text := r.String()
	for _, secret := range []string{fakecloud.Password, "gAAAA", "X-Auth-Token"} {
		if strings.Contains(text, secret) {
			t.Errorf("the log holds %q:\n%s", secret, text)
		}
	}
}

var _ io.Writer = (*logRecorder)(nil)

func containsAll(text string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
