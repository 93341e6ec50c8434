package startuptaint_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/growvol/growvol/pkg/kubeapi"
	"github.com/growvol/growvol/pkg/kubeapi/kubeapitest"
)

const (
	driver   = "csi.example.com"
	nodePath = "GET /api/v1/nodes/node-7"
	csiPath  = "GET /apis/storage.k8s.io/v1/csinodes/node-7"
	patching = "PATCH /api/v1/nodes/node-7"

	unprocessable = "the server rejected our request due to an error in our request"
)

type taint map[string]any

// apiServer has one Node and its CSINode, and does JSON patches as Kubernetes does: all
// of it, or nothing and 422.
type apiServer struct {
	api kubeapi.API

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
	s := &apiServer{uid: "u1", owner: "u1", drivers: []string{"other.example.com", driver}}
	s.taints = []taint{
		{"key": "dedicated", "value": "db", "effect": "NoSchedule", "fieldOfTomorrow": "kept"},
		{"key": driver + "/agent-not-ready", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"},
		{"key": driver + "/agent-not-ready", "effect": "NoSchedule"},
		{"key": "other.example.com/agent-not-ready", "effect": "NoExecute"},
	}
	s.api = kubeapitest.Serve(t, "127.0.0.1", s)
	write(t, s.api.Dir, "token", "good\n")
	return s
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

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
		kubeapitest.Refuse(w, http.StatusUnauthorized, "Unauthorized")
	case call == csiPath:
		drivers := []map[string]string{}
		for _, d := range s.drivers {
			drivers = append(drivers, map[string]string{"name": d, "nodeID": "n"})
		}
		kubeapitest.Answer(w, map[string]any{
			"metadata": map[string]any{"ownerReferences": []map[string]string{{"kind": "Node", "uid": s.owner}}},
			"spec":     map[string]any{"drivers": drivers},
		})
	case call == nodePath:
		kubeapitest.Answer(w, s.node())
	case call == patching && r.Header.Get("Content-Type") == "application/json-patch+json":
		s.patch(w, r)
	default:
		kubeapitest.Refuse(w, http.StatusNotFound, "there is no "+call)
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
		kubeapitest.Refuse(w, http.StatusBadRequest, err.Error())
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
				kubeapitest.Refuse(w, http.StatusUnprocessableEntity, unprocessable)
				return
			}
		case "test /spec/taints":
			if errList != nil || !reflect.DeepEqual(list, s.taints) {
				kubeapitest.Refuse(w, http.StatusUnprocessableEntity, unprocessable)
				return
			}
		case "replace /spec/taints":
			if errList != nil || list == nil {
				kubeapitest.Refuse(w, http.StatusBadRequest, "no list")
				return
			}
			taints = list
		default:
			kubeapitest.Refuse(w, http.StatusBadRequest, o.Op+" "+o.Path)
			return
		}
	}
	s.taints = slices.Clone(taints)
	kubeapitest.Answer(w, s.node())
}
