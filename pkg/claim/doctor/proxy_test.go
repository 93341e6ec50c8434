package doctor

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// newProxy returns a reader of an API server that answers the paths, and others with 403.
func newProxy(t *testing.T, answers map[string]string) Proxy {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, found := answers[r.URL.Path]
		if !found {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = fmt.Fprint(w, answer)
	}))
	t.Cleanup(server.Close)
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return Proxy{Client: client.CoreV1().RESTClient()}
}

func TestReadSyncFrequency(t *testing.T) {
	p := newProxy(t, map[string]string{
		"/api/v1/nodes/node1/proxy/configz":  `{"kubeletconfig":{"syncFrequency":"1m30s","fileCheckFrequency":"20s"}}`,
		"/api/v1/nodes/broken/proxy/configz": `<html>`,
		"/api/v1/nodes/empty/proxy/configz":  `{}`,
	})
	if got, err := p.ReadSyncFrequency(t.Context(), "node1"); err != nil || got != 90*time.Second {
		t.Errorf("got %s and %v, want 1m30s", got, err)
	}
	_, err := p.ReadSyncFrequency(t.Context(), "broken")
	volumetest.WantKind(t, err, volume.KindInternal)
	_, err = p.ReadSyncFrequency(t.Context(), "empty")
	volumetest.WantKind(t, err, volume.KindInternal)
	_, err = p.ReadSyncFrequency(t.Context(), "denied")
	volumetest.WantKind(t, err, volume.KindDenied)
}

func TestReadRequirements(t *testing.T) {
	p := newProxy(t, map[string]string{
		"/api/v1/namespaces/csi/pods/growvol-node-1:9810/proxy/metrics": `# HELP growvol_node_requirement_met Whether
# TYPE growvol_node_requirement_met gauge
growvol_node_requirement_met{requirement="cap_sys_resource"} 0
growvol_node_requirement_met{requirement="state_dir"} 1
growvol_node_trims_total{result="ok"} 0
`,
	})
	met, err := p.ReadRequirements(t.Context(), "csi", "growvol-node-1", 9810)
	if err != nil || len(met) != 2 || met["cap_sys_resource"] || !met["state_dir"] {
		t.Errorf("got %v and %v, want state_dir met and cap_sys_resource not met", met, err)
	}
	_, err = p.ReadRequirements(t.Context(), "csi", "growvol-node-2", 9810)
	volumetest.WantKind(t, err, volume.KindDenied)
}

func TestReadCloudAPIs(t *testing.T) {
	p := newProxy(t, map[string]string{
		"/api/v1/namespaces/csi/pods/growvol-controller-1:9810/proxy/metrics": `# TYPE growvol_openstack gauge
growvol_openstack_api_feature_offered{cloud="a \"b\"",feature="extending } a volume",service="cinder",version="3.42"} 0
growvol_openstack_api_feature_offered{cloud="a \"b\"",feature="attaching",service="nova",version="2.60"} 1
growvol_openstack_api_feature_offered{cloud="other",feature="attaching",service="nova",version="2.60"} 0
growvol_openstack_api_version_info{cloud="a \"b\"",max="2.93",min="2.1",service="nova"} 1
growvol_openstack_api_version_info{cloud="a \"b\"",max="3.41",min="3.0",service="cinder"} 1
growvol_openstack_api_version_info
growvol_openstack_api_version_info{garbage
<html>
`,
		"/api/v1/namespaces/csi/pods/growvol-controller-2:9810/proxy/metrics": "<html>",
	})
	apis, err := p.ReadCloudAPIs(t.Context(), "csi", "growvol-controller-1", 9810)
	want := []CloudAPI{
		{`a "b"`, "cinder", "3.0", "3.41", []string{"extending } a volume (needs cinder 3.42)"}},
		{`a "b"`, "nova", "2.1", "2.93", nil},
	}
	if err != nil || !reflect.DeepEqual(apis, want) {
		t.Errorf("got %+v and %v, want %+v", apis, err, want)
	}
	if apis, err := p.ReadCloudAPIs(t.Context(), "csi", "growvol-controller-2", 9810); err != nil || len(apis) > 0 {
		t.Errorf("a page without metrics: got %+v and %v, want nothing", apis, err)
	}
	_, err = p.ReadCloudAPIs(t.Context(), "csi", "growvol-controller-3", 9810)
	volumetest.WantKind(t, err, volume.KindDenied)
}
