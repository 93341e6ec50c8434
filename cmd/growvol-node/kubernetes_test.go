package main

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/kubeapi/kubeapitest"
	"github.com/growvol/growvol/pkg/rbd/noderecord"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/must"
)

// inPod makes the environment that of a pod in a Kubernetes with the Node n.
func inPod(t *testing.T) (s *kubeapitest.Server, c config) {
	t.Helper()
	s = kubeapitest.New(t)
	s.AddNode("n")
	address := must.Value(url.Parse(s.API().URL))(t)
	t.Setenv("KUBERNETES_SERVICE_HOST", address.Hostname())
	t.Setenv("KUBERNETES_SERVICE_PORT", address.Port())
	return s, config{kubernetesNode: "n", serviceAccountDir: s.API().Dir, recordClients: true}
}

func TestRecordIsWrittenAtTheStart(t *testing.T) {
	s, c := inPod(t)
	n := must.Value(openKubernetesNode(t.Context(), c, slog.New(slog.DiscardHandler)))(t)
	if n.krbdRecorder() == nil {
		t.Error("got no recorder")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stop := n.start(ctx)
	for s.Annotation("n", noderecord.ClientsAnnotation) == "" {
		must.Succeed(t, t.Context().Err())
	}
	stop()
}

// The VolumeAttachments are those of the name under which kubelet knows the driver.
func TestAttachmentsAreThoseOfTheDriver(t *testing.T) {
	s, c := inPod(t)
	for name, flag := range map[string]string{"rbd.csi.ceph.com": "", "rbd.example.com": "rbd.example.com"} {
		c.DriverName = flag
		n := must.Value(openKubernetesNode(t.Context(), c, slog.New(slog.DiscardHandler)))(t)
		s.SetAttached(name, "v-"+name, "n", true)
		must.Succeed(t, n.krbdRecorder().CheckAttached(t.Context(), "v-"+name))
	}
}

func TestNodeIsReadForTheCRUSHLocation(t *testing.T) {
	s, c := inPod(t)
	s.Change("n", func(n *kubeapitest.Node) { n.Labels["topology.kubernetes.io/zone"] = "eu.1" })
	c.crushLabels = "topology.kubernetes.io/zone,rack"
	var log bytes.Buffer
	n := must.Value(openKubernetesNode(t.Context(), c, slog.New(slog.NewTextHandler(&log, nil))))(t)
	if n.location != "zone:eu-1" || !strings.Contains(log.String(), "missing=[rack]") {
		t.Errorf("got the location %q, want zone:eu-1; log:\n%s", n.location, log.String())
	}
	s.RemoveNode("n")
	n = must.Value(openKubernetesNode(t.Context(), c, slog.New(slog.NewTextHandler(&log, nil))))(t)
	if n.location != "" || !strings.Contains(log.String(), "primary replicas") {
		t.Errorf("got the location %q without a Node; log:\n%s", n.location, log.String())
	}
}

func TestTopologyIsThatOfTheDomainLabels(t *testing.T) {
	s, c := inPod(t)
	log := slog.New(slog.DiscardHandler)
	c.domainLabels = "topology.kubernetes.io/region, topology.kubernetes.io/zone"
	s.Change("n", func(n *kubeapitest.Node) { n.Labels["topology.kubernetes.io/region"] = "eu" })
	_, err := openKubernetesNode(t.Context(), c, log)
	if err == nil || !strings.Contains(err.Error(), "kubectl label node n topology.kubernetes.io/zone=NAME") {
		t.Errorf("got %v without a label, want the command that sets it", err)
	}
	s.Change("n", func(n *kubeapitest.Node) { n.Labels["topology.kubernetes.io/zone"] = "eu.1" })
	n := must.Value(openKubernetesNode(t.Context(), c, log))(t)
	want := volume.Topology{"topology.rbd.csi.ceph.com/region": "eu", "topology.rbd.csi.ceph.com/zone": "eu.1"}
	if !maps.Equal(n.topology, want) {
		t.Errorf("got the topology %v, want %v", n.topology, want)
	}
	c.domainLabels = "topology.kubernetes.io/zone,example.org/zone"
	s.Change("n", func(n *kubeapitest.Node) { n.Labels["example.org/zone"] = "a" })
	_, err = openKubernetesNode(t.Context(), c, log)
	if err == nil || !strings.Contains(err.Error(), "two labels end in zone") {
		t.Errorf("got %v for two labels of one name, want an error", err)
	}
	s.RemoveNode("n")
	if _, err := openKubernetesNode(t.Context(), c, log); err == nil || !strings.Contains(err.Error(), "--domain-labels") {
		t.Errorf("got %v without a Node, want an error", err)
	}
}

func TestNodeHasTheTopologyOfLabelsAndOptions(t *testing.T) {
	s, c := inPod(t)
	s.Change("n", func(n *kubeapitest.Node) { n.Labels["zone"] = "a" })
	c.backend, c.cephConfig, c.stateDir, c.domainLabels = rbdcsi.Name, "config.json", t.TempDir(), "zone"
	must.Succeed(t, c.addTopology("example.org/rack=7"))
	b := must.Value(newBackend(t.Context(), c, slog.New(slog.DiscardHandler)))(t)
	info := must.Value(b.connector.Node(t.Context()))(t)
	want := volume.Topology{"topology.rbd.csi.ceph.com/zone": "a", "example.org/rack": "7"}
	if !maps.Equal(info.Topology, want) {
		t.Errorf("got the topology %v, want %v", info.Topology, want)
	}
}

func TestNothingIsRecordedWithoutFencing(t *testing.T) {
	s, c := inPod(t)
	c.recordClients, c.domainLabels = false, "zone"
	s.Change("n", func(n *kubeapitest.Node) { n.Labels["zone"] = "a" })
	n := must.Value(openKubernetesNode(t.Context(), c, slog.New(slog.DiscardHandler)))(t)
	if n.krbdRecorder() != nil || n.topology["topology.rbd.csi.ceph.com/zone"] != "a" {
		t.Errorf("got %+v, want the topology and no recorder", n)
	}
}

func TestPluginWorksWithoutKubernetes(t *testing.T) {
	var log bytes.Buffer
	n, err := openKubernetesNode(t.Context(), config{}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil || n.krbdRecorder() != nil || strings.Count(log.String(), "cannot fence this node") != 1 {
		t.Errorf("got %+v, %v, want no recorder; log:\n%s", n, err, log.String())
	}
	n.start(t.Context())()
}

func TestOptionsThatExcludeEachOther(t *testing.T) {
	_, c := inPod(t)
	for want, c := range map[string]config{
		"--crush-location-labels needs": {crushLabels: "a"},
		"--domain-labels needs":         {domainLabels: "a"},
		"set one of the two":            {kubernetesNode: "n", crushLabels: "a", crushLocation: "host:a"},
	} {
		if _, err := openKubernetesNode(t.Context(), c, slog.New(slog.DiscardHandler)); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := openKubernetesNode(t.Context(), c, slog.New(slog.DiscardHandler)); err == nil ||
		!strings.Contains(err.Error(), "--kubernetes-node: KUBERNETES_SERVICE_HOST") {
		t.Errorf("got %v outside of a pod, want an error", err)
	}
}

func TestCRUSHLocationFollowsTheOrderOfTheKeys(t *testing.T) {
	labels := map[string]string{"kubernetes.io/hostname": "n.example", "topology.kubernetes.io/zone": "a", "rack": "7"}
	keys := []string{"topology.kubernetes.io/zone", " rack", "kubernetes.io/hostname", "x/row"}
	got, missing := crushLocation(labels, keys)
	if got != "zone:a|rack:7|hostname:n-example" || !slices.Equal(missing, []string{"x/row"}) {
		t.Errorf("got %q, missing %v", got, missing)
	}
	if got, missing := crushLocation(nil, []string{"a"}); got != "" || len(missing) != 1 {
		t.Errorf("got %q, missing %v, want no location", got, missing)
	}
}
