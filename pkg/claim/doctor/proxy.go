package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/growvol/growvol/pkg/apierror"
	"github.com/growvol/growvol/pkg/volume"
)

// NodeReader reads what nodes and the controller report. This file reads it through the API server.
type NodeReader interface {
	// ReadSyncFrequency returns kubelet's syncFrequency. Kinds: Denied, Unavailable, Internal.
	ReadSyncFrequency(ctx context.Context, node string) (time.Duration, error)
	// ReadRequirements returns the requirements of the node plugin in the pod, and whether the node
	// meets them. port is the pod's port of metrics. Kinds: Denied, Unavailable.
	ReadRequirements(ctx context.Context, namespace, pod string, port int32) (map[string]bool, error)
	// ReadCloudAPIs returns what the pod of a controller reports of the APIs of its clouds, ordered by
	// cloud and service; services that have not answered to it are not in it. port is as before.
	// Kinds: Denied, Unavailable.
	ReadCloudAPIs(ctx context.Context, namespace, pod string, port int32) ([]CloudAPI, error)
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

// readMetrics returns the metrics of a pod.
func (p Proxy) readMetrics(ctx context.Context, namespace, pod string, port int32) ([]byte, error) {
	path := fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:%d/proxy/metrics",
		url.PathEscape(namespace), url.PathEscape(pod), port)
	return p.read(ctx, path, "pods/proxy", namespace)
}

// ReadRequirements implements NodeReader.
func (p Proxy) ReadRequirements(
	ctx context.Context, namespace, pod string, port int32,
) (map[string]bool, error) {
	page, err := p.readMetrics(ctx, namespace, pod, port)
	if err != nil {
		return nil, err
	}
	met := map[string]bool{}
	for labels, value := range series(page, "growvol_node_requirement_met") {
		met[labels["requirement"]] = value == "1"
	}
	return met, nil
}

// ReadCloudAPIs implements NodeReader.
func (p Proxy) ReadCloudAPIs(ctx context.Context, namespace, pod string, port int32) ([]CloudAPI, error) {
	page, err := p.readMetrics(ctx, namespace, pod, port)
	if err != nil {
		return nil, err
	}
	var all []CloudAPI
	for labels := range series(page, "growvol_openstack_api_version_info") {
		all = append(all, CloudAPI{
			Cloud: labels["cloud"], Service: labels["service"], Min: labels["min"], Max: labels["max"],
		})
	}
	for labels, value := range series(page, "growvol_openstack_api_feature_offered") {
		i := slices.IndexFunc(all, func(a CloudAPI) bool {
			return a.Cloud == labels["cloud"] && a.Service == labels["service"]
		})
		if i >= 0 && value == "0" {
			all[i].Lacking = append(all[i].Lacking,
				fmt.Sprintf("%s (needs %s %s)", labels["feature"], labels["service"], labels["version"]))
		}
	}
	slices.SortFunc(all, func(a, b CloudAPI) int {
		return cmp.Or(strings.Compare(a.Cloud, b.Cloud), strings.Compare(a.Service, b.Service))
	})
	return all, nil
}

// series returns the labels and values of the series of a name on a page of metrics, in their
// order. Lines that do not have the form of a series with labels are left out.
func series(page []byte, name string) iter.Seq2[map[string]string, string] {
	label := regexp.MustCompile(`(\w+)=("(?:[^"\\]|\\.)*")`)
	return func(yield func(map[string]string, string) bool) {
		for line := range strings.Lines(string(page)) {
			rest, isOfName := strings.CutPrefix(line, name+"{")
			end := strings.LastIndex(rest, "} ")
			if !isOfName || end < 0 {
				continue
			}
			labels := map[string]string{}
			for _, m := range label.FindAllStringSubmatch(rest[:end], -1) {
				if value, err := strconv.Unquote(m[2]); err == nil {
					labels[m[1]] = value
				}
			}
			if !yield(labels, strings.TrimSpace(rest[end+2:])) {
				return
			}
		}
	}
}
