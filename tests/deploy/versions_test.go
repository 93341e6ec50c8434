package deploy_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
)

// renderFor returns the controller and the CSIDriver that the chart makes for a version of
// Kubernetes.
func (h helm) renderFor(t *testing.T, version, values string) (controller, driver object) {
	t.Helper()
	out, err := h.template(t, values, "--kube-version="+version)
	if err != nil {
		t.Fatalf("helm template: %s\nwith the values\n%s", errorOutput(err), values)
	}
	objects := parseObjects(t, out)
	controller, _ = workloads(t, objects)
	for _, o := range objects {
		if o.Kind == "CSIDriver" {
			driver = o
		}
	}
	return controller, driver
}

// boolText returns the text of a field, or "absent".
func boolText(field *bool) string {
	if field == nil {
		return "absent"
	}
	return fmt.Sprint(*field)
}

// TestUserNamespaceOfTheController checks that the controller of the Cinder backend has its own
// user namespace since the version in which these are stable, unless the values say otherwise.
func TestUserNamespaceOfTheController(t *testing.T) {
	h := newHelm(t)
	const cinder, loop = `cinder: {existingSecret: clouds}`, `backend: loop`
	for _, test := range []struct{ version, values, want string }{
		{"1.35.9", cinder, "absent"},
		{"1.36.0", cinder, "false"},
		{"v1.36.0-eks-1a2b3c", cinder, "false"},
		{"1.37.1", cinder + "\ncontroller: {hostUsers: true}", "absent"},
		{"1.34.0", cinder + "\ncontroller: {hostUsers: false}", "false"},
		{"1.37.1", loop, "absent"},
		{"1.37.1", loop + "\ncontroller: {hostUsers: false}", "false"},
	} {
		controller, _ := h.renderFor(t, test.version, test.values)
		if got := boolText(controller.Spec.Template.Spec.HostUsers); got != test.want {
			t.Errorf("Kubernetes %s, %s: hostUsers is %s, want %s", test.version, test.values, got, test.want)
		}
	}
}

// TestPreventPodSchedulingIfMissing checks that the field of CSIDriver is there on request, if the
// version of Kubernetes has it, but not for the loop backend: its driver has no limit of volumes,
// and the scheduler of Kubernetes 1.37 does not notice when such a driver is registered.
func TestPreventPodSchedulingIfMissing(t *testing.T) {
	h := newHelm(t)
	const on = "\ncsiDriver: {preventPodSchedulingIfMissing: true}"
	const cinder, loop = `cinder: {existingSecret: clouds}`, `backend: loop`
	for _, test := range []struct{ version, values, want string }{
		{"1.36.4", cinder + on, "absent"},
		{"1.37.0", cinder + on, "true"},
		{"v1.37.1-gke.100", cinder + on, "true"},
		{"1.37.1", cinder, "absent"},
		{"1.37.1", loop + on, "absent"},
	} {
		_, driver := h.renderFor(t, test.version, test.values)
		if got := boolText(driver.Spec.PreventIfMissing); got != test.want {
			t.Errorf("Kubernetes %s, %s: the field is %s, want %s", test.version, test.values, got, test.want)
		}
	}
}

// TestManifestsAreForTheOldestKubernetes checks that the manifests have no field that the oldest
// supported version does not know.
func TestManifestsAreForTheOldestKubernetes(t *testing.T) {
	for _, backend := range []string{"cinder", "loop", "rbd"} {
		for _, o := range readObjects(t, "deploy/kubernetes/"+backend+"/growvol.yaml") {
			if o.Spec.PreventIfMissing != nil || o.Spec.Template.Spec.HostUsers != nil {
				t.Errorf("%s: %s %s has a field of a newer Kubernetes", backend, o.Kind, o.Metadata.Name)
			}
		}
	}
}

// TestStrictTopology checks that the provisioner passes only the topology of the chosen node if
// zones matter.
func TestStrictTopology(t *testing.T) {
	h := newHelm(t)
	for values, want := range map[string]bool{
		`cinder: {existingSecret: clouds}`: true,
		`{cinder: {existingSecret: clouds}, sidecars: {provisioner: {strictTopology: false}}}`: false,
		`cinder: {existingSecret: clouds, topology: false}`:                                    false,
		`cinder: {existingSecret: clouds, ignoreVolumeAZ: true}`:                               false,
		`backend: loop`: false,
		`{cinder: {existingSecret: clouds}, csiDriver: {storageCapacity: true}}`:                              true,
		`{cinder: {existingSecret: clouds}, sidecars: {provisioner: {extraArgs: [--retry-interval-max=1m]}}}`: true,
	} {
		controller, _ := workloads(t, h.render(t, values))
		for _, c := range controller.Spec.Template.Spec.Containers {
			_, strict := c.option("strict-topology")
			if wantStrict := want && c.Name == "csi-provisioner"; strict != wantStrict {
				t.Errorf("%s: %s: got --strict-topology %t, want %t", values, c.Name, strict, wantStrict)
			}
		}
	}
}

// reportedNode has the fields of a Node that kubelet reports.
type reportedNode struct {
	os, kernel string
	userns     any // userNamespaces of the default runtime; nil: not reported
}

// apiServer starts a server that answers Helm's lookup of nodes, and returns its URL.
func apiServer(t *testing.T, nodes []reportedNode) string {
	t.Helper()
	items := []any{}
	for i, n := range nodes {
		status := map[string]any{"nodeInfo": map[string]any{"operatingSystem": n.os, "kernelVersion": n.kernel}}
		if n.userns != nil {
			status["runtimeHandlers"] = []any{
				map[string]any{"name": "", "features": map[string]any{"userNamespaces": n.userns}},
				map[string]any{"name": "kata", "features": map[string]any{"userNamespaces": true}},
			}
		}
		items = append(items, map[string]any{
			"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{"name": fmt.Sprintf("node-%d", i)}, "status": status,
		})
	}
	answers := map[string]any{
		"/version": map[string]any{"major": "1", "minor": "37", "gitVersion": "v1.37.1"},
		"/api":     map[string]any{"kind": "APIVersions", "versions": []string{"v1"}},
		"/apis":    map[string]any{"kind": "APIGroupList", "apiVersion": "v1", "groups": []any{}},
		"/api/v1": map[string]any{"kind": "APIResourceList", "groupVersion": "v1", "resources": []any{
			map[string]any{"name": "nodes", "kind": "Node", "namespaced": false, "verbs": []string{"get", "list"}},
		}},
		"/api/v1/nodes": map[string]any{"kind": "NodeList", "apiVersion": "v1", "metadata": map[string]any{}, "items": items},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, found := answers[r.URL.Path]
		if !found {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// TestUserNamespacesOfTheNodes checks that one node without user namespaces is enough to leave the
// controller in the user namespace of the node, if Helm can ask the cluster: the pods would not
// start on that node.
func TestUserNamespacesOfTheNodes(t *testing.T) {
	h := newHelm(t)
	supported := reportedNode{"linux", "6.8.0-40-generic", true}
	for name, test := range map[string]struct {
		nodes []reportedNode
		want  string
	}{
		"all":            {[]reportedNode{supported, {"linux", "6.3", true}, {"linux", "10.1.2", true}}, "false"},
		"old kernel":     {[]reportedNode{supported, {"linux", "5.15.0-91-generic", true}}, "absent"},
		"kernel of RHEL": {[]reportedNode{{"linux", "5.14.0-427.el9.x86_64", true}}, "absent"},
		"old runtime":    {[]reportedNode{supported, {"linux", "6.12.1", false}}, "absent"},
		"no report":      {[]reportedNode{supported, {"linux", "", nil}}, "absent"},
		"Windows":        {[]reportedNode{supported, {"windows", "10.0.20348.2227", nil}}, "false"},
	} {
		t.Run(name, func(t *testing.T) {
			server := "--kube-apiserver=" + apiServer(t, test.nodes)
			out, err := h.template(t, `cinder: {existingSecret: clouds}`, "--dry-run=server", server)
			if err != nil {
				t.Fatal(errorOutput(err))
			}
			controller, _ := workloads(t, parseObjects(t, out))
			if got := boolText(controller.Spec.Template.Spec.HostUsers); got != test.want {
				t.Errorf("hostUsers is %s, want %s", got, test.want)
			}
		})
	}
}
