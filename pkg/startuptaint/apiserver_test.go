package startuptaint_test

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/growvol/growvol/pkg/kubeapi"
)

const (
	driver   = "csi.example.com"
	nodePath = "GET /api/v1/nodes/node-7"
	csiPath  = "GET /apis/storage.k8s.io/v1/csinodes/node-7"
	patching = "PATCH /api/v1/nodes/node-7"
)

type taint map[string]any

// apiServer has one Node and its CSINode, and does JSON patches as Kubernetes does: all
// of it, or nothing and 422.
type apiServer struct {
	*httptest.Server
	dir string // of the service account

	mu      sync.Mutex
	uid     string
	taints  []taint
	owner   string // UID of the Node that the CSINode is of
	drivers []string
	calls   []string
	// before sees a request first, and may change the server's state or answer; it is
	// called with the lock held.
	before func(w http.ResponseWriter, r *http.Request) (answered bool)
}

func newServer(t *testing.T) *apiServer {
	t.Helper()
	s := &apiServer{dir: t.TempDir(), uid: "u1", owner: "u1", drivers: []string{"other.example.com", driver}}
	s.taints = []taint{
		{"key": "dedicated", "value": "db", "effect": "NoSchedule", "fieldOfTomorrow": "kept"},
		{"key": driver + "/agent-not-ready", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"},
		{"key": driver + "/agent-not-ready", "effect": "NoSchedule"},
		{"key": "other.example.com/agent-not-ready", "effect": "NoExecute"},
	}
	s.Server = httptest.NewTLSServer(s)
	t.Cleanup(s.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	write(t, s.dir, "ca.crt", string(ca))
	write(t, s.dir, "token", "good\n")
	return s
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *apiServer) api() kubeapi.API { return kubeapi.API{URL: s.URL, Dir: s.dir} }

// keys returns the keys of the node's taints.
func (s *apiServer) keys() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, t := range s.taints {
		all = append(all, fmt.Sprint(t["key"]))
	}
	return all
}

// count returns the number of requests of a kind.
func (s *apiServer) count(call string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.calls {
		if c == call {
			n++
		}
	}
	return n
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	call := r.Method + " " + r.URL.Path
	s.calls = append(s.calls, call)
	if s.before != nil && s.before(w, r) {
		return
	}
	switch {
	case r.Header.Get("Authorization") != "Bearer good":
		refuse(w, http.StatusUnauthorized, "Unauthorized")
	case call == csiPath:
		drivers := []map[string]string{}
		for _, d := range s.drivers {
			drivers = append(drivers, map[string]string{"name": d, "nodeID": "n"})
		}
		answer(w, map[string]any{
			"metadata": map[string]any{"ownerReferences": []map[string]string{{"kind": "Node", "uid": s.owner}}},
			"spec":     map[string]any{"drivers": drivers},
		})
	case call == nodePath:
		answer(w, s.node())
	case call == patching && r.Header.Get("Content-Type") == "application/json-patch+json":
		s.patch(w, r)
	default:
		refuse(w, http.StatusNotFound, "there is no "+call)
	}
}

func (s *apiServer) node() map[string]any {
	return map[string]any{"metadata": map[string]any{"uid": s.uid}, "spec": map[string]any{"taints": s.taints}}
}

func (s *apiServer) patch(w http.ResponseWriter, r *http.Request) {
	var operations []struct {
		Op, Path string
		Value    json.RawMessage
	}
	if err := json.NewDecoder(r.Body).Decode(&operations); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	taints := s.taints
	for _, o := range operations {
		var uid string
		var list []taint
		errUID, errList := json.Unmarshal(o.Value, &uid), json.Unmarshal(o.Value, &list)
		switch o.Op + " " + o.Path {
		case "test /metadata/uid":
			if errUID != nil || uid != s.uid {
				refuse(w, http.StatusUnprocessableEntity, "the server rejected our request due to an error in our request")
				return
			}
		case "test /spec/taints":
			if errList != nil || !reflect.DeepEqual(list, s.taints) {
				refuse(w, http.StatusUnprocessableEntity, "the server rejected our request due to an error in our request")
				return
			}
		case "replace /spec/taints":
			if errList != nil || list == nil {
				refuse(w, http.StatusBadRequest, "no list")
				return
			}
			taints = list
		default:
			refuse(w, http.StatusBadRequest, o.Op+" "+o.Path)
			return
		}
	}
	s.taints = slices.Clone(taints)
	answer(w, s.node())
}

func answer(w http.ResponseWriter, object any) {
	_ = json.NewEncoder(w).Encode(object) // the client notices
}

func refuse(w http.ResponseWriter, code int, message string) {
	w.WriteHeader(code)
	answer(w, map[string]string{"kind": "Status", "message": message})
}
