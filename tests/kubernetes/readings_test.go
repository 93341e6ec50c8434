package kubernetes_test

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/readings"
	"github.com/growvol/growvol/tests/must"
)

// readingsAccount may read /volumes; the release growvol is in the namespace growvol.
const (
	releaseNamespace = "growvol"
	readingsAccount  = "growvol-readings"
	nodeVolumesPort  = "9812"
)

// volumesOf sends a request for /volumes directly to the pod's address, with the token in the
// header, and returns code and body.
func (s namespace) volumesOf(address, header, token string) string {
	s.Helper()
	return s.must(runInCluster(s.Context(), "", "curl", "--silent", "--show-error", "--insecure", "--noproxy", "*",
		"--max-time", "20", "--write-out", "%{http_code}", "--header", header+": "+token,
		"https://"+net.JoinHostPort(address, nodeVolumesPort)+"/volumes"))
}

// Only tokens of the readings account get an answer, also without the API server in between.
func TestReadingsRefuseOthers(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	address := s.kubectl("get", "pods", "--namespace", releaseNamespace, "--selector",
		"app.kubernetes.io/component=node,app.kubernetes.io/name=growvol", "--output", "jsonpath={.items[0].status.podIP}")
	token := func(namespace, account string) string {
		return s.kubectl("create", "token", account, "--namespace", namespace, "--duration", "10m")
	}
	if got := s.volumesOf(address, readings.TokenHeader, token(releaseNamespace, readingsAccount)); !strings.HasSuffix(
		got, "200") || !strings.Contains(got, `"driver":"loop.growvol.io"`) {
		t.Errorf("got %s with a token of the readings account, want the volumes", got)
	}
	for name, request := range map[string][2]string{
		"no token":               {"Accept", "*/*"},
		"a guess":                {readings.TokenHeader, "guess"},
		"the default account":    {readings.TokenHeader, token(s.name, "default")},
		"the node plugin itself": {readings.TokenHeader, token(releaseNamespace, "growvol-node")},
		"the header of Kubernetes": {
			"Authorization", "Bearer " + token(releaseNamespace, readingsAccount),
		},
	} {
		if got := s.volumesOf(address, request[0], request[1]); got != readings.Refusal+"\n401" {
			t.Errorf("%s: got %q, want 401 and the constant text", name, got)
		}
	}
}

// A user with the chart's Role sees all layers; one without it sees the right that is missing.
func TestStatusShowsAllLayers(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi"})
	s.startWriter("writer", "data", false)
	s.wantGrowvol(0, []string{"/dev/loop", "node node1", "controller", "not encrypted on the node", "xfs", "% used"},
		"status", "data", "--driver-namespace", releaseNamespace)
	// Volumes are objects of the whole cluster, which a Role of the namespace cannot allow to get.
	const user = "reader"
	s.kubectl("create", "rolebinding", user, "--clusterrole=view", "--user="+user)
	s.bindInCluster("clusterrolebinding", s.createRole("get", "persistentvolumes"), user)
	as := []string{"status", "data", "--driver-namespace", releaseNamespace, "--as", user}
	s.wantGrowvol(0, []string{"the right to list pods is missing"}, as...)
	s.bindInCluster("rolebinding", "role="+readingsAccount, user)
	s.wantGrowvol(0, []string{"/dev/loop", "node node1", "controller", "xfs, node node1"}, as...)
}

// createRole creates a ClusterRole until the end of the test. It returns the option that names it.
func (s namespace) createRole(verb, resource string) string {
	s.Helper()
	s.kubectl("create", "clusterrole", s.name, "--verb="+verb, "--resource="+resource)
	s.deleteAtEnd("clusterrole")
	return "clusterrole=" + s.name
}

// bindInCluster gives the user a role until the end of the test: that of the whole cluster, or one
// of the namespace of the plugins.
func (s namespace) bindInCluster(kind, role, user string) {
	s.Helper()
	s.kubectl("create", kind, s.name, "--namespace", releaseNamespace, "--"+role, "--user="+user)
	s.deleteAtEnd(kind)
}

func (s namespace) deleteAtEnd(kind string) {
	s.Cleanup(func() {
		_, err := kubectl(context.WithoutCancel(s.Context()), "delete", kind, s.name, "--namespace", releaseNamespace)
		must.Succeed(s.T, err)
	})
}
