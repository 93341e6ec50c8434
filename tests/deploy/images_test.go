package deploy_test

import (
	"strings"
	"testing"
)

// pluginImage returns the image of the container with growvol's program.
func pluginImage(t *testing.T, workload object) string {
	t.Helper()
	for _, c := range workload.Spec.Template.Spec.Containers {
		if c.Name == "growvol" {
			return c.Image
		}
	}
	t.Fatalf("%s %s has no container growvol", workload.Kind, workload.Metadata.Name)
	return ""
}

// TestImages checks what the registry, the digest and the tag of the values become, and that the
// backend rbd has an image of its own.
func TestImages(t *testing.T) {
	h := newHelm(t)
	digest := "sha256:" + strings.Repeat("0a", 32)
	const rbd = "\nbackend: rbd\nrbd: {existingConfigMap: a, existingSecret: b}"
	for _, test := range []struct{ values, controller, node string }{
		{`backend: loop`, "growvol-controller:0.1.0", "growvol-node:0.1.0"},
		{rbd, "growvol-controller-ceph:0.1.0", "growvol-node:0.1.0"},
		{"backend: loop\nimageRegistry: r:5000/a", "r:5000/a/growvol-controller:0.1.0", "r:5000/a/growvol-node:0.1.0"},
		{
			"imageRegistry: r\ncontroller: {cephImage: {tag: v2}}\n" +
				"node: {image: {repository: mine/n, digest: '" + digest + "'}}" + rbd,
			"r/growvol-controller-ceph:v2", "r/mine/n@" + digest,
		},
		{
			"controller: {image: {tag: v2, digest: '" + digest + "'}, cephImage: {digest: ''}}\nbackend: loop",
			"growvol-controller@" + digest, "growvol-node:0.1.0",
		},
	} {
		controller, node := workloads(t, h.render(t, test.values))
		if got := pluginImage(t, controller); got != test.controller {
			t.Errorf("%s\nimage of the controller: got %s, want %s", test.values, got, test.controller)
		}
		if got := pluginImage(t, node); got != test.node {
			t.Errorf("%s\nimage of the node: got %s, want %s", test.values, got, test.node)
		}
	}
}

// TestImageRegistryLeavesSidecars checks that the registry of growvol's images is not put before
// the sidecars' repositories, which have registries.
func TestImageRegistryLeavesSidecars(t *testing.T) {
	controller, node := workloads(t, newHelm(t).render(t, "backend: loop\nimageRegistry: r"))
	for _, workload := range []object{controller, node} {
		for _, c := range workload.Spec.Template.Spec.Containers {
			if c.Name != "growvol" && !strings.HasPrefix(c.Image, "registry.k8s.io/") {
				t.Errorf("%s: got the image %s, want one of registry.k8s.io", c.Name, c.Image)
			}
		}
	}
}

// TestChartRefusesMalformedImages checks digests, tags and registries that no runtime accepts.
func TestChartRefusesMalformedImages(t *testing.T) {
	h := newHelm(t)
	for _, values := range []string{
		"node: {image: {digest: '0123'}}", "node: {image: {digest: 'sha256:0123'}}",
		"controller: {cephImage: {tag: 'sha256:0123'}}", "imageRegistry: r/", "imageRegistry: https://r",
	} {
		if out, err := h.template(t, "backend: loop\n"+values); err == nil {
			t.Errorf("%s: helm template succeeded, want an error:\n%.300s", values, out)
		}
	}
}
