package cloud

import (
	"encoding/json"
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
)

func discardLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

// keystone is a server that accepts every login, records the request, and answers with a catalog.
type keystone struct {
	*httptest.Server
	asked    map[string]any
	catalog  string // JSON; URL stands for the server's address
	paths    []string
	requests []string // other than logins: method, address, microversion and body, without what is empty
	version  string   // answer to version requests
}

func newKeystone(t *testing.T) *keystone {
	t.Helper()
	k := &keystone{
		catalog: `[{"type":"volumev3","endpoints":[{"interface":"public","region":"r1","url":"URL/v3/p1"}]},
			{"type":"compute","endpoints":[{"interface":"public","region":"r1","url":"URL/v2.1"}]}]`,
		version: `{"versions":[{"id":"v3.0","version":"3.70","min_version":"3.0"},
			{"id":"v2.1","version":"2.93","min_version":"2.1"}],"availabilityZoneInfo":[]}`,
	}
	k.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		k.paths = append(k.paths, q.URL.Path)
		if q.URL.Path != "/v3/auth/tokens" {
			body, _ := io.ReadAll(q.Body)
			version := q.Header.Get("X-OpenStack-Volume-API-Version") + q.Header.Get("X-OpenStack-Nova-API-Version")
			parts := []string{q.Method, q.RequestURI, version, string(body)}
			k.requests = append(k.requests, strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), " "))
			_, _ = io.WriteString(w, k.version)
			return
		}
		_ = json.NewDecoder(q.Body).Decode(&k.asked)
		w.Header().Set("X-Subject-Token", "gAAAAtoken")
		w.WriteHeader(http.StatusCreated)
		expires := time.Now().Add(time.Hour).UTC().Format("2006-01-02T15:04:05.000000Z")
		_, _ = io.WriteString(w, `{"token":{"expires_at":"`+expires+`","project":{"id":"p1"},"catalog":`+
			strings.ReplaceAll(k.catalog, "URL", k.URL)+`}}`)
	}))
	t.Cleanup(k.Close)
	return k
}

// clouds opens a client over a file; URL in its text stands for the server.
func (k *keystone) clouds(t *testing.T, name, text string) (*Clouds, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(path, []byte(strings.ReplaceAll(text, "URL", k.URL)), 0o600))
	o := Options{CloudsYAML: path, Log: discardLog()}
	if strings.HasSuffix(name, ".conf") {
		o = Options{CloudConfig: []string{path}, Log: discardLog()}
	}
	clouds, err := open(t.Context(), o, fastTuning())
	if err == nil {
		t.Cleanup(clouds.Close)
	}
	return clouds, err
}

const yamlHead = "clouds:\n  c:\n    auth: {auth_url: URL/v3, user_id: u, password: p, project_id: p1}\n"
