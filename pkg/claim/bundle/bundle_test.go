package bundle_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/growvol/growvol/pkg/claim/bundle"
	"github.com/growvol/growvol/pkg/claim/bundle/bundletest"
	"github.com/growvol/growvol/pkg/claim/bundle/redacted"
	"github.com/growvol/growvol/pkg/volume"
)

// secret is hidden in every answer of the server. It has no form that a rule knows: each place
// needs a rule of its own.
const secret = "hunter2zebra"

var now = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// server is an API server with fixed answers.
type server struct {
	answers map[string]any // by path: an object, or the text of a log
	status  map[string]int // by path, in place of an answer

	mutex    sync.Mutex
	requests []string
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mutex.Lock()
	s.requests = append(s.requests, r.Method+" "+r.URL.RequestURI())
	s.mutex.Unlock()
	path := r.URL.Path
	if container := r.URL.Query().Get("container"); container != "" {
		path += "?" + container
		if r.URL.Query().Get("previous") == "true" {
			path += "&previous"
		}
	}
	answer, found := s.answers[path]
	status := s.status[path]
	if status == 0 && !found {
		status = http.StatusNotFound
	}
	if status != 0 {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","code":%d,"reason":%q,"message":%q}`,
			status, map[int]string{403: "Forbidden", 404: "NotFound"}[status], "no, password="+secret)
		return
	}
	if text, isText := answer.(string); isText {
		_, _ = io.WriteString(w, text)
		return
	}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		panic(err)
	}
}

// newServer returns the cluster in testdata.
func newServer(t *testing.T) *server {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "cluster.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s := &server{status: map[string]int{}}
	if err := yaml.Unmarshal(raw, &s.answers); err != nil {
		t.Fatal(err)
	}
	return s
}

// collector returns a collector that reads the claim data from the server.
func (s *server) collector(t *testing.T) *bundle.Collector {
	t.Helper()
	listener := httptest.NewServer(s)
	t.Cleanup(listener.Close)
	client, err := kubernetes.NewForConfig(&rest.Config{Host: listener.URL, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	return &bundle.Collector{
		API:    bundle.Server{Client: client.CoreV1().RESTClient()},
		Claims: bundle.Selection{Namespace: "shop", Names: []string{"data"}},
		Logs:   bundle.Logs{Since: time.Hour, Bytes: volume.MiB}, MadeAt: now, Progress: func(string) {},
		Documents: []bundle.Document{
			{File: "doctor.txt", Read: func(context.Context) (any, error) { return "doctor-text password=" + secret, nil }},
			{File: "status.json", Read: func(context.Context) (any, error) {
				return map[string]any{"message": "token=" + secret, "sizeBytes": 1 << 60}, nil
			}},
			{File: "broken.txt", Read: func(context.Context) (any, error) { return nil, errors.New("password=" + secret) }},
		},
	}
}

// collect returns the files of the bundle, by name.
func collect(t *testing.T, c *bundle.Collector) (files map[string]string, unread []bundle.Unread, archive []byte) {
	t.Helper()
	var out bytes.Buffer
	a := redacted.New(&out, "b", now)
	unread, err := c.Collect(t.Context(), a)
	if err := errors.Join(err, a.Close()); err != nil {
		t.Fatal(err)
	}
	files, _ = bundletest.Unpack(t, out.Bytes())
	return files, unread, out.Bytes()
}

func TestBundleHasNoSecret(t *testing.T) {
	s := newServer(t)
	c := s.collector(t)
	files, unread, archive := collect(t, c)
	for name, content := range files {
		if strings.Contains(content, secret) {
			t.Errorf("%s has the secret:\n%s", name, content)
		}
	}
	for _, u := range unread {
		if strings.HasPrefix(u.What, "broken") {
			continue // the caller's own error
		}
		if !u.IsAbsent {
			t.Errorf("got %s, want everything read", u)
		}
	}
	for _, request := range s.requests {
		if regexp.MustCompile(`(?i)secret|configmap`).MatchString(request) || !strings.HasPrefix(request, "GET ") {
			t.Errorf("got the request %s", request)
		}
	}
	_, _, again := collect(t, c)
	if !bytes.Equal(archive, again) {
		t.Error("the same cluster made two different bundles")
	}
}

func TestBundleHasWhatConcernsTheClaims(t *testing.T) {
	files, _, _ := collect(t, newServer(t).collector(t))
	for name, want := range map[string][]string{
		"kubernetes.json":                                     {"v1.37.1"},
		"cluster/nodes.yaml":                                  {"kernelVersion: 6.1.0"},
		"cluster/csidrivers.yaml":                             {"audience: visible"},
		"cluster/storageclasses.yaml":                         {"node-stage-secret-name: luks", "adminPassword"},
		"driver/deployments.yaml":                             {"growvol-controller"},
		"driver/daemonsets.yaml":                              {"growvol-node"},
		"driver/pods.yaml":                                    {"--backend=loop", "--token=", "OS_PASSWORD"},
		"driver/leases/csi.yaml":                              {"holderIdentity: growvol-controller-1"},
		"driver/events/csi.yaml":                              {"visible-event"},
		"claims/persistentvolumeclaims.yaml":                  {"name: data"},
		"claims/persistentvolumes.yaml":                       {"name: pv-data"},
		"claims/volumeattachments.yaml":                       {"csi-1", "attachError"},
		"claims/pods.yaml":                                    {"name: db-0", "claimName: data", "name: config"},
		"claims/events.yaml":                                  {"claim-event", "mount-event"},
		"doctor.txt":                                          {"doctor-text"},
		"status.json":                                         {"1152921504606846976"},
		"driver/logs/csi/growvol-node-1/growvol.log":          {"visible-line"},
		"driver/logs/csi/growvol-node-1/growvol.previous.log": {"previous-line"},
		"driver/logs/csi/growvol-node-1/csi-resizer.log":      {"resizer-line"},
		"driver/metrics/csi/growvol-node-1.txt":               {"growvol_x"},
		"MANIFEST.txt": {
			"data of the namespace shop", "growvol.previous.log", "broken.txt: password=[redacted]",
			"volumesnapshotclasses.yaml: the cluster does not have this resource", "last 1h0m0s",
		},
	} {
		content, found := files[name]
		if !found {
			t.Errorf("the bundle has no %s", name)
			continue
		}
		for _, w := range want {
			if !strings.Contains(content, w) {
				t.Errorf("%s does not contain %q:\n%s", name, w, content)
			}
		}
		for _, foreign := range []string{"pv-other", "csi-2", "other-event", "foreign-event", "name: web", "private/"} {
			if strings.Contains(content, foreign) {
				t.Errorf("%s contains %q, which does not concern the claim:\n%s", name, foreign, content)
			}
		}
		if name != "MANIFEST.txt" && !strings.Contains(files["MANIFEST.txt"], " "+name+"\n") {
			t.Errorf("the manifest does not list %s", name)
		}
	}
	if len(files) != 22 {
		t.Errorf("got %d files, want 22", len(files))
	}
}

func TestPlanHasAllRequests(t *testing.T) {
	s := newServer(t)
	c := s.collector(t)
	collect(t, c)
	var patterns []*regexp.Regexp
	for _, line := range c.Plan() {
		_, uri, isRequest := strings.Cut(line, ": GET ")
		if isRequest {
			pattern := regexp.MustCompile(`\\\{\w+\\\}`).ReplaceAllString(regexp.QuoteMeta(uri), `[^/?&]+`)
			patterns = append(patterns, regexp.MustCompile("^GET "+pattern+"$"))
		}
	}
	for _, request := range s.requests {
		if !slices.ContainsFunc(patterns, func(p *regexp.Regexp) bool { return p.MatchString(request) }) {
			t.Errorf("the plan does not have %s:\n%s", request, strings.Join(c.Plan(), "\n"))
		}
	}
	before := len(s.requests)
	if c.Plan(); len(s.requests) != before {
		t.Error("the plan has sent a request")
	}
}

func TestManifestNamesTheMissingRights(t *testing.T) {
	s := newServer(t)
	for _, path := range []string{
		"/version", "/api/v1/nodes", "/api/v1/namespaces/shop/events", "/api/v1/persistentvolumes",
		"/api/v1/namespaces/csi/pods/growvol-node-1/log?growvol",
		"/api/v1/namespaces/csi/pods/growvol-node-1:9810/proxy/metrics",
	} {
		s.status[path] = http.StatusForbidden
	}
	files, unread, _ := collect(t, s.collector(t))
	for _, want := range []string{
		"kubernetes.json: the right to get /version is missing",
		"cluster/nodes.yaml: the right to list nodes is missing (next step: ask for a role with the verb list for the " +
			"resource nodes in the whole cluster)",
		"claims/persistentvolumes.yaml: the right to list persistentvolumes is missing (next step: ask for a role with the " +
			"verb list for the resource persistentvolumes in the whole cluster)",
		"claims/events.yaml: the right to list events is missing (next step: ask for a role with the verb list for the " +
			"resource events in namespace shop)",
		"driver/logs/csi/growvol-node-1/growvol.log: the right to get pods/log is missing",
		"driver/metrics/csi/growvol-node-1.txt: the right to get pods/proxy is missing",
	} {
		if !strings.Contains(files["MANIFEST.txt"], want) {
			t.Errorf("the manifest does not contain %q:\n%s", want, files["MANIFEST.txt"])
		}
	}
	if !slices.ContainsFunc(unread, func(u bundle.Unread) bool { return u.What == "cluster/nodes.yaml" && !u.IsAbsent }) {
		t.Errorf("got %v, want the nodes among what was not read", unread)
	}
	// Without the right to read PersistentVolumes, the claim names its own, so that its attachment is
	// found.
	if !strings.Contains(files["claims/volumeattachments.yaml"], "csi-1") {
		t.Errorf("the attachment is missing:\n%s", files["claims/volumeattachments.yaml"])
	}
}

func TestLogsAreBounded(t *testing.T) {
	s := newServer(t)
	const path = "/api/v1/namespaces/csi/pods/growvol-node-1/log?growvol"
	s.answers[path] = "password: of several words\n" + strings.Repeat("line 0123456789\n", 200) + "last line\n"
	c := s.collector(t)
	c.Logs.Bytes = 1000
	files, _, _ := collect(t, c)
	log := files["driver/logs/csi/growvol-node-1/growvol.log"]
	if len(log) > 1000 || !strings.HasPrefix(log, "line ") || !strings.HasSuffix(log, "last line\n") {
		t.Errorf("got a log of %d bytes, want whole lines of at most 1000 bytes:\n%s", len(log), log)
	}
	if !strings.Contains(files["MANIFEST.txt"], "growvol.log: the lines before the last 1000 B") {
		t.Errorf("the manifest does not say that lines are left out:\n%s", files["MANIFEST.txt"])
	}
	for _, request := range s.requests {
		uri, err := url.Parse(strings.TrimPrefix(request, "GET "))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(uri.Path, "/log") && uri.Query().Get("sinceSeconds") != "3600" {
			t.Errorf("got the request %s, want the log of an hour", request)
		}
	}
}

func TestNoBundleWithoutAnAPIServer(t *testing.T) {
	s := newServer(t)
	s.status["/version"] = http.StatusInternalServerError
	a := redacted.New(io.Discard, "b", now)
	if _, err := s.collector(t).Collect(t.Context(), a); err == nil || len(a.Files()) > 0 {
		t.Errorf("got the error %v and the files %v, want an error and no file", err, a.Files())
	}
	ctx, cancel := context.WithCancel(t.Context())
	c := newServer(t).collector(t)
	c.Progress = func(text string) {
		if strings.Contains(text, "logs") {
			cancel() // as Ctrl-C does
		}
	}
	if _, err := c.Collect(ctx, redacted.New(io.Discard, "b", now)); !errors.Is(err, context.Canceled) {
		t.Errorf("got the error %v, want that the context is canceled", err)
	}
}
