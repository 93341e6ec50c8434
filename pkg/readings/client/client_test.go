package client_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/growvol/growvol/pkg/readings"
	"github.com/growvol/growvol/pkg/readings/client"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/must"
)

const driver = "loop.growvol.io"

// apiServer answers the three requests of the client: the list of pods, tokens, and the proxy to
// the plugins.
type apiServer struct {
	t    *testing.T
	pods []corev1.Pod
	// forbidden is the request that the API server refuses: pods, token or proxy.
	forbidden string
	// proxy answers a request to the pod in place of the plugin; nil: plugin.
	proxy func(w http.ResponseWriter, pod string, r *http.Request)

	mu       sync.Mutex
	tokens   int      // issued
	accounts []string // namespace/name of those
	requests []string // path and query to the proxy
}

func (s *apiServer) client(opts client.Options) *client.Client {
	s.t.Helper()
	server := httptest.NewServer(s)
	s.t.Cleanup(server.Close)
	opts.Kubernetes = must.Value(kubernetes.NewForConfig(&rest.Config{Host: server.URL}))(s.t)
	opts.Driver = driver
	return client.New(opts)
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	w.Header().Set("Content-Type", "application/json")
	kind := "pods"
	switch {
	case strings.HasSuffix(r.URL.Path, "/token"):
		kind = "token"
	case strings.Contains(r.URL.Path, "/proxy"):
		kind = "proxy"
	}
	switch {
	case s.forbidden == kind:
		w.WriteHeader(http.StatusForbidden)
		s.encode(w, metav1.Status{
			TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
			Status:   "Failure", Reason: metav1.StatusReasonForbidden, Code: http.StatusForbidden,
		})
	case kind == "token":
		s.tokens++
		s.accounts = append(s.accounts, parts[3]+"/"+parts[5])
		w.WriteHeader(http.StatusCreated)
		s.encode(w, authenticationv1.TokenRequest{
			TypeMeta: metav1.TypeMeta{Kind: "TokenRequest", APIVersion: "authentication.k8s.io/v1"},
			Status:   authenticationv1.TokenRequestStatus{Token: fmt.Sprintf("token-%d", s.tokens)},
		})
	case kind == "proxy":
		s.requests = append(s.requests, r.URL.Path+"?"+r.URL.RawQuery)
		pod := strings.Split(parts[5], ":")[1]
		if s.proxy != nil {
			s.proxy(w, pod, r)
			return
		}
		s.answer(w, driver, r.URL.Query()[readings.IDParameter]...)
	default:
		list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}}
		for _, p := range s.pods {
			component := p.Labels["app.kubernetes.io/component"]
			if strings.HasSuffix(r.URL.Query().Get("labelSelector"), "component="+component) {
				list.Items = append(list.Items, p)
			}
		}
		s.encode(w, list)
	}
}

func (s *apiServer) encode(w http.ResponseWriter, object any) {
	if err := json.NewEncoder(w).Encode(object); err != nil {
		s.t.Error(err)
	}
}

func (s *apiServer) answer(w http.ResponseWriter, driver string, ids ...string) {
	a := readings.Answer{Driver: driver}
	for _, id := range ids {
		a.Volumes = append(a.Volumes, readings.Volume{ID: id})
	}
	s.encode(w, a)
}

// refuse answers as a plugin that refuses the request.
func refuse(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = fmt.Fprintln(w, text) // the client notices
}

func pod(component, name, node string) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "growvol", Name: name, Labels: map[string]string{"app.kubernetes.io/component": component},
		},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: "my-growvol-" + component,
			Containers: []corev1.Container{
				{Name: "other", Ports: []corev1.ContainerPort{{Name: "volumes", ContainerPort: 1}}},
				{
					Name: "growvol", Args: []string{"--backend=loop"},
					Ports: []corev1.ContainerPort{{Name: "volumes", ContainerPort: 9812}},
				},
			},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
}

func TestReadNodeReadsThePodOfTheNode(t *testing.T) {
	s := &apiServer{t: t, pods: []corev1.Pod{
		pod("node", "a", "node1"), pod("node", "b", "node2"), pod("controller", "c", "node2"),
	}}
	c := s.client(client.Options{Namespace: "growvol"})
	for range 2 {
		answer := must.Value(c.ReadNode(t.Context(), "node2", "x", "y z"))(t)
		if answer.Volume("y z") == nil || answer.Volume("other") != nil {
			t.Errorf("got %+v, want the volumes of the request", answer)
		}
	}
	want := "/api/v1/namespaces/growvol/pods/https:b:9812/proxy/volumes?id=x&id=y+z"
	if !slices.Equal(s.requests, []string{want, want}) {
		t.Errorf("got the requests %q, want two times %s", s.requests, want)
	}
	if !slices.Equal(s.accounts, []string{"growvol/my-growvol-readings"}) {
		t.Errorf("got tokens of %q, want one of the release's account", s.accounts)
	}
	if _, err := c.ReadNode(t.Context(), "node3"); !volume.IsKind(err, volume.KindNotFound) {
		t.Errorf("got %v for a node without a pod, want NotFound", err)
	}
}

func TestReadNodesReportsEachNode(t *testing.T) {
	s := &apiServer{t: t, pods: []corev1.Pod{pod("node", "a", "node1"), pod("node", "b", "node2")}}
	s.proxy = func(w http.ResponseWriter, pod string, _ *http.Request) {
		if pod == "a" {
			refuse(w, http.StatusServiceUnavailable, "off")
			return
		}
		s.answer(w, driver)
	}
	c := s.client(client.Options{})
	results := must.Value(c.ReadNodes(t.Context()))(t)
	if len(results) != 2 || !volume.IsKind(results["node1"].Err, volume.KindUnavailable) || results["node2"].Err != nil {
		t.Errorf("got %+v, want an error of node1 and an answer of node2", results)
	}
	results = must.Value(c.ReadNodes(t.Context(), "node2", "node3"))(t)
	if len(results) != 2 || results["node2"].Err != nil || !volume.IsKind(results["node3"].Err, volume.KindNotFound) {
		t.Errorf("got %+v, want an answer of node2 and none of node3", results)
	}
}

// The second controller pod answers when the first does not, and long lists are read in parts.
func TestReadVolumesReadsAnyController(t *testing.T) {
	s := &apiServer{t: t, pods: []corev1.Pod{pod("controller", "a", "node1"), pod("controller", "b", "node2")}}
	s.proxy = func(w http.ResponseWriter, pod string, r *http.Request) {
		if pod == "a" {
			refuse(w, http.StatusBadGateway, "gone")
			return
		}
		s.answer(w, driver, r.URL.Query()[readings.IDParameter]...)
	}
	ids := make([]string, 250)
	for i := range ids {
		ids[i] = fmt.Sprintf("id-%d", i)
	}
	answer := must.Value(s.client(client.Options{}).ReadVolumes(t.Context(), ids))(t)
	if len(answer.Volumes) != 250 || answer.Volumes[249].ID != "id-249" || len(s.requests) != 6 {
		t.Errorf("got %d volumes by %d requests, want 250 by three to each pod", len(answer.Volumes), len(s.requests))
	}
}

func TestErrorsNameTheMissingRight(t *testing.T) {
	for forbidden, words := range map[string][]string{
		"pods":  {"list pods", "the whole cluster"},
		"token": {"create serviceaccounts/token of my-growvol-readings", "namespace growvol"},
		"proxy": {"get pods/proxy", "namespace growvol"},
	} {
		s := &apiServer{t: t, pods: []corev1.Pod{pod("node", "a", "node1")}, forbidden: forbidden}
		_, err := s.client(client.Options{}).ReadNode(t.Context(), "node1")
		if !volume.IsKind(err, volume.KindDenied) {
			t.Errorf("%s: got %v, want Denied", forbidden, err)
			continue
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: got %v, want the text %q", forbidden, err, w)
			}
		}
	}
}

// A token that the plugin refuses is replaced once.
func TestRefusedTokenIsReplaced(t *testing.T) {
	s := &apiServer{t: t, pods: []corev1.Pod{pod("node", "a", "node1")}}
	c := s.client(client.Options{})
	must.Value(c.ReadNode(t.Context(), "node1"))(t)
	s.proxy = func(w http.ResponseWriter, _ string, r *http.Request) {
		if r.Header.Get(readings.TokenHeader) != "token-2" {
			refuse(w, http.StatusUnauthorized, readings.Refusal)
			return
		}
		s.answer(w, driver)
	}
	must.Value(c.ReadNode(t.Context(), "node1"))(t)
	s.proxy = func(w http.ResponseWriter, _ string, _ *http.Request) {
		refuse(w, http.StatusUnauthorized, readings.Refusal)
	}
	_, err := c.ReadNode(t.Context(), "node1")
	if !volume.IsKind(err, volume.KindUnauthenticated) || !strings.Contains(err.Error(), "rbac.create") || s.tokens != 3 {
		t.Errorf("got %v after %d tokens, want a refusal after three", err, s.tokens)
	}
}

func TestAnswerThatIsNoneIsAnError(t *testing.T) {
	for name, proxy := range map[string]func(w http.ResponseWriter, s *apiServer){
		"another driver": func(w http.ResponseWriter, s *apiServer) { s.answer(w, "other.driver") },
		"malformed":      func(w http.ResponseWriter, _ *apiServer) { refuse(w, http.StatusOK, "hello") },
	} {
		s := &apiServer{t: t, pods: []corev1.Pod{pod("node", "a", "node1")}}
		s.proxy = func(w http.ResponseWriter, _ string, _ *http.Request) { proxy(w, s) }
		if _, err := s.client(client.Options{}).ReadNode(t.Context(), "node1"); !volume.IsKind(err, volume.KindInternal) {
			t.Errorf("%s: got %v, want an internal error", name, err)
		}
	}
	s := &apiServer{t: t, pods: []corev1.Pod{pod("node", "a", "node1")}}
	s.proxy = func(w http.ResponseWriter, _ string, _ *http.Request) {
		refuse(w, http.StatusServiceUnavailable, readings.ReviewFailed)
	}
	_, err := s.client(client.Options{}).ReadNode(t.Context(), "node1")
	if !volume.IsKind(err, volume.KindUnavailable) || !strings.Contains(err.Error(), "kubectl logs a") {
		t.Errorf("got %v, want Unavailable and the command that shows the log", err)
	}
}

// Pods of other drivers, without the port, or that end are not read.
func TestOtherPodsAreNotRead(t *testing.T) {
	foreign, off, ending := pod("node", "a", "node1"), pod("node", "b", "node1"), pod("node", "c", "node1")
	foreign.Spec.Containers[1].Args = []string{"--backend=loop", "--driver-name=other.driver"}
	off.Spec.Containers[1].Ports = nil
	ending.DeletionTimestamp = &metav1.Time{}
	ending.Status.Phase = corev1.PodFailed
	s := &apiServer{t: t, pods: []corev1.Pod{foreign, off, ending}}
	_, err := s.client(client.Options{}).ReadNode(t.Context(), "node1")
	isNamed := volume.IsKind(err, volume.KindNotFound) && strings.Contains(err.Error(), "readings.enabled")
	if !isNamed || len(s.requests) > 0 {
		t.Errorf("got %v after %d requests, want NotFound and the value of the chart", err, len(s.requests))
	}
}
