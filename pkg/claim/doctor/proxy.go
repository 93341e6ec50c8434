package doctor

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/growvol/growvol/pkg/apierror"
	"github.com/growvol/growvol/pkg/volume"
)

// NodeReader reads what nodes report of themselves. This file reads it through the API server.
type NodeReader interface {
	// ReadSyncFrequency returns kubelet's syncFrequency. Kinds: Denied, Unavailable, Internal.
	ReadSyncFrequency(ctx context.Context, node string) (time.Duration, error)
	// ReadRequirements returns the requirements of the node plugin in the pod, and whether the node
	// meets them. port is the pod's port of metrics. Kinds: Denied, Unavailable.
	ReadRequirements(ctx context.Context, namespace, pod string, port int32) (map[string]bool, error)
}

// Proxy is a NodeReader that reads through the API server: nodes/proxy and pods/proxy.
type Proxy struct {
	Client rest.Interface
}

// proxyTimeout bounds one reading: a node that is lost does not answer.
const proxyTimeout = 10 * time.Second

// read returns what the path answers. resource is the one that a role must name, in the namespace;
// an empty one is the whole cluster.
func (p Proxy) read(ctx context.Context, path, resource, namespace string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, proxyTimeout)
	defer cancel()
	raw, err := p.Client.Get().AbsPath(path).DoRaw(ctx)
	switch {
	case apierrors.IsForbidden(err):
		return nil, apierror.MissingRight("get", resource, namespace)
	case err != nil:
		return nil, volume.Errorf(volume.KindUnavailable, "%s does not answer: %w", path, err)
	}
	return raw, nil
}

// ReadSyncFrequency implements NodeReader.
func (p Proxy) ReadSyncFrequency(ctx context.Context, node string) (time.Duration, error) {
	raw, err := p.read(ctx, "/api/v1/nodes/"+url.PathEscape(node)+"/proxy/configz", "nodes/proxy", "")
	if err != nil {
		return 0, err
	}
	var config struct {
		Kubelet struct {
			SyncFrequency metav1.Duration `json:"syncFrequency"`
		} `json:"kubeletconfig"`
	}
	if err := json.Unmarshal(raw, &config); err != nil {
		return 0, volume.Errorf(volume.KindInternal, "kubelet of %s: malformed configuration: %w", node, err)
	}
	if config.Kubelet.SyncFrequency.Duration <= 0 {
		return 0, volume.Errorf(volume.KindInternal, "kubelet of %s does not report its syncFrequency", node)
	}
	return config.Kubelet.SyncFrequency.Duration, nil
}

// ReadRequirements implements NodeReader.
func (p Proxy) ReadRequirements(
	ctx context.Context, namespace, pod string, port int32,
) (map[string]bool, error) {
	path := fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:%d/proxy/metrics",
		url.PathEscape(namespace), url.PathEscape(pod), port)
	raw, err := p.read(ctx, path, "pods/proxy", namespace)
	if err != nil {
		return nil, err
	}
	return parseRequirements(raw), nil
}

// parseRequirements returns the series growvol_node_requirement_met of a page of metrics, by the
// label requirement.
func parseRequirements(page []byte) map[string]bool {
	met := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(page))
	for lines.Scan() {
		rest, found := strings.CutPrefix(lines.Text(), `growvol_node_requirement_met{requirement="`)
		if !found {
			continue
		}
		if name, value, found := strings.Cut(rest, `"} `); found {
			met[name] = value == "1"
		}
	}
	return met
}
