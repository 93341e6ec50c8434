package startuptaint_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/kubeapi/kubeapitest"
	"github.com/growvol/growvol/pkg/startuptaint"
)

// remove calls Remove with a timeout and returns the log.
func remove(t *testing.T, s *apiServer, within time.Duration) (log string, err error) {
	t.Helper()
	var out bytes.Buffer
	err = removeAndLog(t, s, within, &out)
	return out.String(), err
}

func removeAndLog(t *testing.T, s *apiServer, within time.Duration, log io.Writer) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	return removeWith(ctx, s, log)
}

// removeUntil calls Remove until its log contains text, and returns the log. A short timeout could
// end before, or in a later attempt, whose error is then that of its context.
func removeUntil(t *testing.T, s *apiServer, text string) (log string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out := &watchedLog{text: text, found: cancel}
	err = removeWith(ctx, s, out)
	return out.String(), err
}

// watchedLog is a log that calls found at the first line with the text.
type watchedLog struct {
	bytes.Buffer
	text  string
	found func()
}

func (l *watchedLog) Write(line []byte) (int, error) {
	if strings.Contains(string(line), l.text) {
		l.found()
	}
	return l.Buffer.Write(line)
}

// removeCalls calls Remove until the API server has got so many calls, and returns the log.
func removeCalls(t *testing.T, s *apiServer, calls int) (log string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	before := s.before
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if len(s.calls) >= calls {
			cancel()
		}
		return before != nil && before(w, r)
	}
	var out bytes.Buffer
	err = removeWith(ctx, s, &out)
	return out.String(), err
}

func removeWith(ctx context.Context, s *apiServer, log io.Writer) error {
	return startuptaint.Remove(ctx, startuptaint.Options{
		API: s.api, Node: "node-7", Driver: driver, Interval: time.Millisecond,
		Log: slog.New(slog.NewTextHandler(log, nil)),
	})
}

// reaction is a log that calls a function at its first line.
type reaction struct {
	bytes.Buffer
	first func()
}

func (r *reaction) Write(line []byte) (int, error) {
	if r.Len() == 0 {
		r.first()
	}
	return r.Buffer.Write(line)
}

// others are the keys of the taints that must stay.
func others() []string { return []string{"dedicated", "other.example.com/agent-not-ready"} }

func checkRemoved(t *testing.T, s *apiServer, err error) {
	t.Helper()
	if err != nil || !slices.Equal(s.keys(), others()) {
		t.Errorf("taints %v, %v; want %v", s.keys(), err, others())
	}
	if s.taints[0]["fieldOfTomorrow"] != "kept" {
		t.Errorf("a field is lost: %v", s.taints[0])
	}
}

// Remove removes the taint with every effect, and no other taint.
func TestTaintIsRemoved(t *testing.T) {
	s := newServer(t)
	_, err := remove(t, s, time.Minute)
	checkRemoved(t, s, err)
	if n := s.count(patching); n != 1 {
		t.Errorf("%d patches", n)
	}
}

// A node without other taints keeps an empty list.
func TestRemoveOfTheOnlyTaint(t *testing.T) {
	s := newServer(t)
	s.taints = s.taints[1:2]
	if _, err := remove(t, s, time.Minute); err != nil || len(s.keys()) != 0 {
		t.Errorf("taints %v, %v", s.keys(), err)
	}
}

// A node without the taint, as after a restart of the plugin, is not changed.
func TestNodeWithoutTheTaintIsNotChanged(t *testing.T) {
	s := newServer(t)
	s.taints = s.taints[:1]
	if _, err := remove(t, s, time.Minute); err != nil || s.count(patching) != 0 {
		t.Errorf("%d patches, %v", s.count(patching), err)
	}
}

// The taint stays until kubelet has listed the driver.
func TestTaintStaysBeforeRegistration(t *testing.T) {
	for name, c := range map[string]struct {
		state func(*apiServer)
		cause string
	}{
		"other drivers": {
			func(s *apiServer) { s.drivers = []string{"other.example.com", driver + ".other"} },
			"has not registered",
		},
		"no driver":        {func(s *apiServer) { s.drivers = nil }, "has not registered"},
		"an earlier node":  {func(s *apiServer) { s.owner = "u0" }, "earlier node"},
		"nobody's":         {func(s *apiServer) { s.owner = "" }, "or to none"},
		"no CSINode":       {func(s *apiServer) { s.before = missing(csiPath) }, "not found"},
		"nothing readable": {func(s *apiServer) { s.before = garbage(csiPath) }, "invalid character"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			before := s.keys()
			c.state(s)
			log, err := removeCalls(t, s, 8) // four attempts at least
			if err == nil || !strings.Contains(err.Error()+log, c.cause) || s.count(patching) != 0 ||
				!slices.Equal(s.keys(), before) {
				t.Errorf("%d patches, taints %v, %v", s.count(patching), s.keys(), err)
			}
			if usual := c.cause == "has not registered"; strings.Contains(log, "level=WARN") == usual {
				t.Errorf("only what is not as usual is a warning:\n%s", log)
			}
			if n := strings.Count(log, "stays for now"); n > 2 {
				t.Errorf("the same is told %d times:\n%s", n, log)
			}
		})
	}
}

func missing(path string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method+" "+r.URL.Path != path {
			return false
		}
		kubeapitest.Refuse(w, http.StatusNotFound, "not found")
		return true
	}
}

func garbage(path string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method+" "+r.URL.Path != path {
			return false
		}
		_, _ = w.Write([]byte("not JSON"))
		return true
	}
}

// Remove waits for the registration and then removes the taint.
func TestRemoveWaitsForRegistration(t *testing.T) {
	s := newServer(t)
	s.drivers = nil
	s.before = func(http.ResponseWriter, *http.Request) bool {
		if len(s.calls) == 5 {
			s.drivers = []string{driver}
		}
		return false
	}
	_, err := remove(t, s, time.Minute)
	checkRemoved(t, s, err)
}

// A taint that another client adds between the reading and the patch stays, and one that it
// removes does not come back.
func TestConcurrentChangeOfTaintsIsKept(t *testing.T) {
	s := newServer(t)
	s.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch && len(s.taints) == 4 {
			s.taints = append(s.taints[1:], taint{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"},
				taint{"key": "new", "effect": "NoSchedule"})
		}
		return false
	}
	_, err := remove(t, s, time.Minute)
	want := []string{"other.example.com/agent-not-ready", "node.kubernetes.io/unreachable", "new"}
	if err != nil || !slices.Equal(s.keys(), want) || s.count(patching) != 2 {
		t.Errorf("taints %v after %d patches, %v; want %v", s.keys(), s.count(patching), err, want)
	}
}

// A new node that has replaced the node of the same name keeps its taint: the driver is not
// registered there.
func TestReplacedNodeIsNotChanged(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch {
			s.uid = "u2"
		}
		return false
	}
	before := s.keys()
	if _, err := removeCalls(t, s, 12); err == nil || s.count(patching) != 1 || !slices.Equal(s.keys(), before) {
		t.Errorf("%d patches, taints %v, %v", s.count(patching), s.keys(), err)
	}
}

// Status 200 is not enough: the node must be read without the taint.
func TestRemoveReadsTheNodeBack(t *testing.T) {
	s := newServer(t)
	ignored := 0
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPatch || ignored == 3 {
			return false
		}
		ignored++
		kubeapitest.Answer(w, s.node())
		return true
	}
	log, err := remove(t, s, time.Minute)
	checkRemoved(t, s, err)
	if s.count(patching) != 4 || !strings.Contains(log, "still has the taint") {
		t.Errorf("%d patches, log:\n%s", s.count(patching), log)
	}
}

// Remove retries after every error of the API server.
func TestErrorsAreRetried(t *testing.T) {
	s := newServer(t)
	s.before = func(w http.ResponseWriter, _ *http.Request) bool {
		switch len(s.calls) {
		case 1:
			kubeapitest.Refuse(w, http.StatusForbidden, `nodes "node-7" is forbidden`)
		case 2:
			w.WriteHeader(http.StatusBadGateway)
		case 3:
			panic(http.ErrAbortHandler) // the connection breaks
		case 4:
			_, _ = w.Write([]byte("{"))
		default:
			return false
		}
		return true
	}
	log, err := remove(t, s, time.Minute)
	checkRemoved(t, s, err)
	for _, want := range []string{`nodes \"node-7\" is forbidden`, "403 Forbidden", "502 Bad Gateway", "EOF"} {
		if !strings.Contains(log, want) {
			t.Errorf("%q is not in\n%s", want, log)
		}
	}
}

// The token and the authority change, so every attempt reads them again.
func TestTokenAndAuthorityAreReadAgain(t *testing.T) {
	s := newServer(t)
	good, err := os.ReadFile(filepath.Join(s.api.Dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(s.api.Dir, "ca.crt")); err != nil {
		t.Fatal(err)
	}
	write(t, s.api.Dir, "token", "old")
	s.before = func(http.ResponseWriter, *http.Request) bool {
		if len(s.calls) == 3 {
			write(t, s.api.Dir, "token", "good")
		}
		return false
	}
	log := &reaction{first: func() { write(t, s.api.Dir, "ca.crt", string(good)) }} // once it was missed
	err = removeAndLog(t, s, time.Minute, log)
	checkRemoved(t, s, err)
	if !strings.Contains(log.String(), "ca.crt: no such file") || !strings.Contains(log.String(), "401 Unauthorized") {
		t.Error(log)
	}
}

// Without an authority to verify the server, no token is sent.
func TestNoTokenWithoutAnAuthority(t *testing.T) {
	s := newServer(t)
	write(t, s.api.Dir, "ca.crt", "")
	if _, err := removeUntil(t, s, "contains no certificate"); err == nil ||
		!strings.Contains(err.Error(), "contains no certificate") || len(s.calls) != 0 {
		t.Errorf("%v after %v", err, s.calls)
	}
}

// The client does not follow redirections, so that no server gets the token unless the
// authority of the API server has signed its certificate.
func TestTokenIsNotSentToAnotherServer(t *testing.T) {
	s := newServer(t)
	otherServer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("%s has been asked, with the authorization %q", r.Host, r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusNotFound)
	}))
	defer otherServer.Close()
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, otherServer.URL, http.StatusTemporaryRedirect)
		return true
	}
	log, err := removeUntil(t, s, "307 Temporary Redirect")
	if err == nil || !strings.Contains(log, "307 Temporary Redirect") {
		t.Errorf("%v, log:\n%s", err, log)
	}
}

// An answer to the patch that is not the Node does not prove that the taint is gone.
func TestRemoveFailsWithoutTheNodeInTheAnswer(t *testing.T) {
	s := newServer(t)
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch {
			kubeapitest.Answer(w, map[string]any{})
		}
		return r.Method == http.MethodPatch
	}
	if _, err := removeUntil(t, s, "did not answer with this node"); err == nil || s.count(patching) == 0 ||
		!strings.Contains(err.Error(), "did not answer with this node") {
		t.Errorf("after %d patches: got %v, want an error", s.count(patching), err)
	}
}
