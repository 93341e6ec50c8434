package kubectlplugin

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/growvol/growvol/pkg/claim/bundle/bundletest"
)

// emptyAPI is an API server that has only its version.
type emptyAPI struct{ err error }

func (a emptyAPI) Get(_ context.Context, uri string) (io.ReadCloser, error) {
	switch {
	case a.err != nil:
		return nil, a.err
	case uri == "/version":
		return io.NopCloser(strings.NewReader(`{"gitVersion": "v1.37.1"}`)), nil
	case strings.HasSuffix(uri, "/nodes"):
		return nil, apierrors.NewForbidden(schema.GroupResource{Resource: "nodes"}, "", errors.New("no"))
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "x"}, "")
}

// unpack returns the contents of the archive's files, by name without the directory.
func unpack(t *testing.T, path string) map[string]string {
	t.Helper()
	archive, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	files, _ := bundletest.Unpack(t, archive)
	return files
}

func TestSupportBundleIsWritten(t *testing.T) {
	objects := append(claimOf("data", "1Gi", "1Gi"), claimOf("other", "1Gi", "1Gi")...)
	c, isClaim := objects[0].(*corev1.PersistentVolumeClaim)
	if !isClaim {
		t.Fatalf("got the object %T, want a claim", objects[0])
	}
	c.Status.Conditions = []corev1.PersistentVolumeClaimCondition{{
		Type: "ControllerResizeError", Status: corev1.ConditionTrue, Message: "visible password=hunter2zebra",
	}}
	p := newTestPlugin(fixedStats{}, objects...)
	p.bundle, p.nodes = emptyAPI{}, noNodes{}
	path := filepath.Join(t.TempDir(), "b.tar.gz")
	p.want(t, exitDone, []string{
		path + " is written", "reading nodes\n", "not read: driver: no Deployment",
		"not read: cluster/nodes.yaml: the right to list nodes is missing",
		"2 things could not be read",
	}, "support-bundle", "data", "-f", path)
	if strings.Contains(p.errOut.String(), "snapshot.storage.k8s.io: ") {
		t.Errorf("what the cluster does not have is reported as an error:\n%s", p.errOut.String())
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("got the mode %v and %v, want 0600", info.Mode(), err)
	}
	files := unpack(t, path)
	status := files["claims/status.json"]
	if !strings.Contains(status, `"kind": "ClaimStatus"`) || !strings.Contains(status, "visible password=[redacted]") ||
		strings.Contains(status, "hunter2zebra") || strings.Contains(status, "other") {
		t.Errorf("got the status\n%s\nwant the one of the claim data without its secret", status)
	}
	if !strings.Contains(files["doctor.txt"], "installation") || !strings.Contains(files["plugin.json"], "goVersion") ||
		!strings.Contains(files["MANIFEST.txt"], "data of the namespace shop") {
		t.Errorf("got the files %q, want the output of doctor, the version and the manifest", files)
	}

	// A file that exists is replaced only with --force.
	p.want(t, exitRefused, []string{path + " exists", "--force"}, "support-bundle", "-f", path)
	p.want(t, exitDone, []string{"is written"}, "support-bundle", "-f", path, "--force")
	if status := unpack(t, path)["claims/status.json"]; !strings.Contains(status, "other") {
		t.Errorf("the archive was not replaced: got the status\n%s", status)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("got the files %v and %v, want only the archive", left, err)
	}
}

func TestSupportBundleIsRefused(t *testing.T) {
	p := newTestPlugin(fixedStats{}, claimOf("data", "1Gi", "1Gi")...)
	p.bundle, p.nodes = emptyAPI{err: errors.New("connection refused")}, noNodes{}
	path := filepath.Join(t.TempDir(), "b.tar.gz")
	p.want(t, exitRefused, []string{"the bundle was not written", "connection refused"}, "support-bundle", "-f", path)
	p.want(t, exitRefused, []string{"not found"}, "support-bundle", "absent", "-f", path)
	p.want(t, exitRefused, []string{"cannot be combined"}, "support-bundle", "data", "-A", "-f", path)
	p.want(t, exitRefused, []string{"is not a size"}, "support-bundle", "--log-size=x", "-f", path)
	p.want(t, exitRefused, []string{"is not above 0"}, "support-bundle", "--since=0s", "-f", path)
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) > 0 {
		t.Errorf("got the files %v and %v, want none", left, err)
	}
}

func TestSupportBundleDryRunReadsNothing(t *testing.T) {
	p := newTestPlugin(fixedStats{}, claimOf("data", "1Gi", "1Gi")...)
	p.newClients = func() (clients, error) { return clients{}, errors.New("connected") }
	p.want(t, exitDone, []string{
		"GET /api/v1/nodes\n", "GET /api/v1/namespaces/shop/persistentvolumeclaims\n", "sinceSeconds=3600",
		"doctor.txt: the output of kubectl growvol doctor\n", "data of the namespace shop",
	}, "support-bundle", "data", "--dry-run", "--since=1h")
	p.want(t, exitDone, []string{"GET /api/v1/persistentvolumeclaims\n"}, "support-bundle", "-A", "--dry-run")
}
