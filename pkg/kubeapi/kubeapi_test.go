package kubeapi_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/kubeapi"
	"github.com/growvol/growvol/pkg/kubeapi/kubeapitest"
	"github.com/growvol/growvol/tests/must"
)

func TestInCluster(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	if api, err := kubeapi.InCluster(); err == nil || !strings.Contains(err.Error(), "KUBERNETES_SERVICE_HOST") {
		t.Errorf("got %v, %v, want an error that names the variable", api, err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
	if api, err := kubeapi.InCluster(); err != nil || api.URL != "https://[fd00::1]:443" ||
		api.Dir != "/var/run/secrets/kubernetes.io/serviceaccount" {
		t.Errorf("got %v, %v, want the address and the directory of the pod", api, err)
	}
}

func TestReadNodeReadsLabelsTaintsAndReadiness(t *testing.T) {
	s := kubeapitest.New(t)
	s.AddNode("n")
	s.Change("n", func(n *kubeapitest.Node) { n.Labels["zone"] = "a" })
	n := must.Value(s.API().ReadNode(t.Context(), "n"))(t)
	if n.Metadata.Labels["zone"] != "a" || n.IsOutOfService() || !n.IsReady() {
		t.Errorf("got %+v, want a ready Node with the label", n)
	}
	s.Change("n", func(n *kubeapitest.Node) { n.IsReady, n.Taints = false, []string{"other", kubeapi.OutOfServiceTaint} })
	n = must.Value(s.API().ReadNode(t.Context(), "n"))(t)
	if !n.IsOutOfService() || n.IsReady() {
		t.Errorf("got %+v, want a Node that is out of service", n)
	}
	if _, err := s.API().ReadNode(t.Context(), "other"); !kubeapi.IsNotFound(err) {
		t.Errorf("got %v, want not found", err)
	}
}

func TestAnnotateUnchangedFailsAfterAChange(t *testing.T) {
	s := kubeapitest.New(t)
	s.AddNode("n")
	api, ctx := s.API(), t.Context()
	n := must.Value(api.ReadNode(ctx, "n"))(t)
	must.Succeed(t, api.Annotate(ctx, "n", "a", "1"))
	if err := api.AnnotateUnchanged(ctx, n, "b", "2"); !isConflict(err) || s.Annotation("n", "b") != "" {
		t.Errorf("got %v and the annotation %q, want a conflict", err, s.Annotation("n", "b"))
	}
	n = must.Value(api.ReadNode(ctx, "n"))(t)
	must.Succeed(t, api.AnnotateUnchanged(ctx, n, "b", "2"))
	if n.Metadata.Annotations["a"] != "1" || s.Annotation("n", "a") != "1" || s.Annotation("n", "b") != "2" {
		t.Errorf("got the annotations %q and %q, want both", s.Annotation("n", "a"), s.Annotation("n", "b"))
	}
	s.AddNode("n")
	if err := api.AnnotateUnchanged(ctx, n, "b", "3"); !isConflict(err) {
		t.Errorf("got %v for another Node of the name, want a conflict", err)
	}
}

// An API server, or what stands before it, that ignores the patch does not pass for success.
func TestAnnotateReadsTheNodeBack(t *testing.T) {
	s := kubeapitest.New(t)
	s.AddNode("n")
	s.Before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch {
			_, _ = w.Write([]byte(`{"metadata":{"name":"n"}}`))
		}
		return r.Method == http.MethodPatch
	}
	if err := s.API().Annotate(t.Context(), "n", "a", "1"); err == nil {
		t.Error("got success, want an error")
	}
}

func TestErrorsAreToldApart(t *testing.T) {
	s := kubeapitest.New(t)
	code := 0
	s.Before = func(w http.ResponseWriter, _ *http.Request) bool {
		kubeapitest.Refuse(w, code, "because")
		return true
	}
	for code = range map[int]bool{403: true, 401: true, 404: true, 409: true, 500: true} {
		_, err := s.API().ReadNode(t.Context(), "n")
		if err == nil || kubeapi.IsNotFound(err) != (code == 404) || isConflict(err) != (code == 409) ||
			kubeapi.IsDenied(err) != (code == 401 || code == 403) || !strings.Contains(err.Error(), "because") {
			t.Errorf("%d: got %v", code, err)
		}
	}
}

// The name is the one that Kubernetes gives: sha256sum of "handle", "driver" and "node".
func TestVolumeAttachmentHasTheNameOfKubernetes(t *testing.T) {
	const want = "csi-fdef298eb16db6fa42906ef1ff09a93a7f3028f8290cc9d71628ff91c237bfa7"
	if got := kubeapi.VolumeAttachmentName("driver", "handle", "node"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAnswerAboutAnotherAttachmentIsAnError(t *testing.T) {
	s := kubeapitest.New(t)
	s.AttachEverything("driver", "other")
	if isAttached, err := s.API().IsAttached(t.Context(), "driver", "handle", "node"); err == nil {
		t.Errorf("got %t, want an error", isAttached)
	}
}

// isConflict reports whether another client changed the object since it was read.
func isConflict(err error) bool {
	e, ok := errors.AsType[*kubeapi.Error](err)
	return ok && e.Code == http.StatusConflict
}
