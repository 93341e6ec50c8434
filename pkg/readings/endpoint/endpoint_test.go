package endpoint

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/kubeapi"
	"github.com/growvol/growvol/pkg/kubeapi/kubeapitest"
	"github.com/growvol/growvol/pkg/readings"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/must"
)

const secretID = "the id of a volume"

// apiServer reviews tokens: "reader" may get the path, "user" may not, others are not accepted.
type apiServer struct {
	mu      sync.Mutex
	reviews int
	answer  func(w http.ResponseWriter) // nil: as above
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reviews++
	var review map[string]any
	if r.URL.Path != kubeapi.SelfReviewsPath || json.NewDecoder(r.Body).Decode(&review) != nil {
		kubeapitest.Refuse(w, http.StatusNotFound, "not found")
		return
	}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case s.answer != nil:
		s.answer(w)
	case token == "reader", token == "user":
		review["status"] = map[string]bool{"allowed": token == "reader"}
		w.WriteHeader(http.StatusCreated)
		kubeapitest.Answer(w, review)
	default:
		kubeapitest.Refuse(w, http.StatusUnauthorized, "Unauthorized")
	}
}

// plugin is a running listener.
type plugin struct {
	t       *testing.T
	api     *apiServer
	address string
	log     *bytes.Buffer
	reads   atomic.Int64
}

func startPlugin(t *testing.T) *plugin {
	t.Helper()
	p := &plugin{t: t, api: &apiServer{}, log: &bytes.Buffer{}}
	port := must.Value(new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0"))(t)
	p.address = port.Addr().String()
	must.Succeed(t, port.Close())
	stop := must.Value(Start(t.Context(), Options{
		Address: p.address, API: kubeapitest.Serve(t, "127.0.0.1", p.api), Answer: readings.Answer{Driver: "d"},
		Read: func(_ context.Context, ids []string) ([]readings.Volume, error) {
			p.reads.Add(1)
			if len(ids) == 1 && ids[0] == "invalid" {
				return nil, volume.Errorf(volume.KindInvalid, "name a volume")
			}
			return []readings.Volume{{ID: secretID}}, nil
		},
		Log: slog.New(slog.NewTextHandler(p.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}))(t)
	t.Cleanup(stop)
	return p
}

// request sends a request and returns the code and the body; the code is 0 without an answer.
func (p *plugin) request(method, path string, header http.Header) (code int, body string) {
	p.t.Helper()
	r := must.Value(http.NewRequestWithContext(p.t.Context(), method, "https://"+p.address+path, http.NoBody))(p.t)
	r.Header = header
	unverified := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // as the API server
	transport := &http.Transport{TLSClientConfig: unverified}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close() //nolint:errcheck // only read from
	return response.StatusCode, string(must.Value(io.ReadAll(response.Body))(p.t))
}

func withToken(token string) http.Header { return http.Header{readings.TokenHeader: {token}} }

func TestReaderGetsTheVolumes(t *testing.T) {
	p := startPlugin(t)
	for range 3 {
		code, body := p.request(http.MethodGet, "/volumes?id=a", withToken("reader"))
		if code != http.StatusOK || !strings.Contains(body, secretID) {
			t.Errorf("got %d and %s, want the volumes", code, body)
		}
	}
	if p.api.reviews != 1 {
		t.Errorf("the token was reviewed %d times, want once", p.api.reviews)
	}
}

// Without a token that may get the path, nothing is read, and all answers are the same.
func TestOthersGetNothing(t *testing.T) {
	p := startPlugin(t)
	for name, header := range map[string]http.Header{
		"no token":               {},
		"empty token":            withToken(""),
		"unknown token":          withToken("guess"),
		"token without right":    withToken("user"),
		"in Authorization":       {"Authorization": {"Bearer reader"}},
		"with the scheme":        withToken("Bearer reader"),
		"two tokens":             {readings.TokenHeader: {"user", "reader"}},
		"claims of a proxy":      {"X-Remote-User": {"admin"}, "X-Remote-Group": {"system:masters"}},
		"token that is too long": withToken("reader" + strings.Repeat("x", maxTokenLength)),
	} {
		for _, request := range [][2]string{
			{http.MethodGet, "/volumes"},
			{http.MethodGet, "/volumes?id=a"},
			{http.MethodPost, "/volumes"},
			{http.MethodGet, "/metrics"},
			{http.MethodGet, "//volumes"},
			{http.MethodHead, "/volumes"},
		} {
			code, body := p.request(request[0], request[1], header)
			wantBody := readings.Refusal + "\n"
			if request[0] == http.MethodHead {
				wantBody = ""
			}
			if code != http.StatusUnauthorized || body != wantBody {
				t.Errorf("%s, %s: got %d and %q, want 401 and the constant text", name, request, code, body)
			}
		}
	}
	if p.reads.Load() != 0 {
		t.Errorf("%d requests were read, want none", p.reads.Load())
	}
	if strings.Contains(p.log.String(), "guess") {
		t.Errorf("the log has a token: %s", p.log)
	}
}

func TestReaderMayOnlyGetVolumes(t *testing.T) {
	p := startPlugin(t)
	many := "/volumes?id=a" + strings.Repeat("&id=a", readings.MaxIDs)
	for request, want := range map[[2]string]int{
		{http.MethodPost, "/volumes"}:            http.StatusMethodNotAllowed,
		{http.MethodDelete, "/volumes"}:          http.StatusMethodNotAllowed,
		{http.MethodGet, "/metrics"}:             http.StatusNotFound,
		{http.MethodGet, "/volumes/"}:            http.StatusNotFound,
		{http.MethodGet, many}:                   http.StatusBadRequest,
		{http.MethodGet, "/volumes?id="}:         http.StatusBadRequest,
		{http.MethodGet, "/volumes?other=a"}:     http.StatusBadRequest,
		{http.MethodGet, "/volumes?id=%zz"}:      http.StatusBadRequest,
		{http.MethodGet, "/volumes?id=invalid"}:  http.StatusBadRequest,
		{http.MethodGet, "/volumes?id=a;id=b&c"}: http.StatusBadRequest,
	} {
		if code, body := p.request(request[0], request[1], withToken("reader")); code != want {
			t.Errorf("%s: got %d and %s, want %d", request, code, body, want)
		}
	}
	huge := http.Header{readings.TokenHeader: {"reader"}, "Other": {strings.Repeat("x", 2*maxHeaderBytes)}}
	if code, body := p.request(http.MethodGet, "/volumes", huge); code != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("got %d and %.100s for a huge header, want 431", code, body)
	}
}

// An API server that does not answer, or answers something else, allows nothing.
func TestNothingIsServedWithoutReview(t *testing.T) {
	for name, answer := range map[string]func(http.ResponseWriter){
		"error":     func(w http.ResponseWriter) { kubeapitest.Refuse(w, http.StatusInternalServerError, "oh") },
		"malformed": func(w http.ResponseWriter) { _, _ = fmt.Fprint(w, "<html>") },
	} {
		p := startPlugin(t)
		p.api.answer = answer
		code, body := p.request(http.MethodGet, "/volumes", withToken("reader"))
		if code != http.StatusServiceUnavailable || body != readings.ReviewFailed+"\n" || p.reads.Load() != 0 {
			t.Errorf("%s: got %d and %q, want 503 and the constant text", name, code, body)
		}
	}
	for name, answer := range map[string]string{
		"no status": `{}`,
		"denied too": `{"spec":{"nonResourceAttributes":{"path":"/volumes","verb":"get"}},` +
			`"status":{"allowed":true,"denied":true}}`,
		"another question": `{"spec":{"nonResourceAttributes":{"path":"/","verb":"get"}},"status":{"allowed":true}}`,
	} {
		p := startPlugin(t)
		p.api.answer = func(w http.ResponseWriter) { _, _ = fmt.Fprint(w, answer) }
		if code, _ := p.request(http.MethodGet, "/volumes", withToken("reader")); code != http.StatusUnauthorized {
			t.Errorf("%s: got %d, want 401", name, code)
		}
	}
}

// A right that was taken away ends with the verdict, and a new right counts soon.
func TestVerdictsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		isAllowed := true
		r := newReviewer(func(context.Context, string, string) (bool, error) { return isAllowed, nil },
			slog.New(slog.DiscardHandler))
		want := func(after time.Duration, want bool) {
			t.Helper()
			time.Sleep(after) //nolint:forbidigo // the clock of synctest
			if got := must.Value(r.mayRead(t.Context(), []string{"token"}))(t); got != want {
				t.Errorf("got %t, want %t", got, want)
			}
		}
		want(0, true)
		isAllowed = false
		want(allowedFor-time.Second, true)
		want(time.Second, false)
		isAllowed = true
		want(deniedFor-time.Second, false)
		want(time.Second, true)
		if _, err := r.mayRead(t.Context(), []string{"token"}); err != nil {
			t.Error(err)
		}
	})
}

// The memory and the requests to the API server are bounded, whatever callers send.
func TestReviewsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, maxRunning atomic.Int64
		r := newReviewer(func(context.Context, string, string) (bool, error) {
			defer running.Add(-1)
			maxRunning.Store(max(maxRunning.Load(), running.Add(1)))
			return false, nil
		}, slog.New(slog.DiscardHandler))
		for i := range 3 * maxVerdicts {
			_, err := r.mayRead(t.Context(), []string{fmt.Sprint(i)})
			must.Succeed(t, err)
			if len(r.verdicts) > maxVerdicts {
				t.Fatalf("%d verdicts, want at most %d", len(r.verdicts), maxVerdicts)
			}
		}
		if maxRunning.Load() > maxReviews {
			t.Errorf("%d reviews at once, want at most %d", maxRunning.Load(), maxReviews)
		}
		r.mayGet = func(ctx context.Context, _, _ string) (bool, error) { <-ctx.Done(); return true, ctx.Err() }
		var waiting sync.WaitGroup
		for i := range 20 {
			waiting.Go(func() {
				if isAllowed, err := r.mayRead(t.Context(), []string{fmt.Sprint("slow", i)}); isAllowed || err == nil {
					t.Errorf("got %t, %v, want an error in time", isAllowed, err)
				}
			})
		}
		began := time.Now()
		waiting.Wait()
		if d := time.Since(began); d > 2*reviewTimeout {
			t.Errorf("the callers waited %s, want at most %s", d, reviewTimeout)
		}
	})
}

func TestStartFailsOutsideOfAPod(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := StartInCluster(t.Context(), Options{Address: "127.0.0.1:0"}, ""); err == nil {
		t.Error("got success, want an error")
	}
	stop, err := StartInCluster(t.Context(), Options{}, "")
	if err != nil {
		t.Fatal(errors.New("an empty address starts nothing"), err)
	}
	stop()
}
