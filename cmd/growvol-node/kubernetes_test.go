package main

import (
	"bytes"
	"context"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/kubeapi/kubeapitest"
	"github.com/growvol/growvol/pkg/rbd/noderecord"
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
	return s, config{kubernetesNode: "n", serviceAccountDir: s.API().Dir}
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
		"needs --kubernetes-node": {crushLabels: "a"},
		"set one of the two":      {kubernetesNode: "n", crushLabels: "a", crushLocation: "host:a"},
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
