// Package client reads what the plugins of a CSI driver answer at /volumes, through the API server:
// the sizes of the layers of a volume, and how full its filesystem is. The plugins answer only if
// the release of the chart has readings.enabled.
//
// The caller needs three rights in the namespace of the release, which the chart's Role with the
// suffix readings.AccountSuffix has: to list pods, to get pods/proxy, and to create tokens of one
// ServiceAccount. This file has the readings, pods.go finds the pods, token.go gets the tokens.
package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/growvol/growvol/pkg/apierror"
	"github.com/growvol/growvol/pkg/pluginpod"
	"github.com/growvol/growvol/pkg/readings"
	"github.com/growvol/growvol/pkg/volume"
)

const (
	// readTimeout bounds the reading of one pod. It is longer than a plugin needs for an answer
	// (package endpoint), so that the plugin can say what it could not read.
	readTimeout = 20 * time.Second
	// maxPodsAtOnce bounds the pods that are read at the same time.
	maxPodsAtOnce = 16
)

// Options say whose readings are read; Kubernetes and Driver are required.
type Options struct {
	Kubernetes kubernetes.Interface
	Driver     string // name of the CSI driver
	Namespace  string // of the release of the chart; empty: all namespaces are searched
	Selector   string // of the pods, as labels; empty: those of all releases of the chart
	Account    string // the ServiceAccount whose tokens may read; empty: that of the release
}

// Client reads the plugins of one driver. It is safe for concurrent use.
type Client struct {
	opts   Options
	tokens tokens
}

// New returns a client. It sends no request.
func New(opts Options) *Client {
	opts.Selector = cmp.Or(opts.Selector, pluginpod.Selector)
	return &Client{opts: opts, tokens: newTokens(opts.Kubernetes)}
}

// Result is the answer of one node, or the error of reading it.
type Result struct {
	Answer readings.Answer
	Err    error
}

// ReadNode returns the volumes that are staged on the Kubernetes node: those of ids, or all. A
// volume that the plugin could not read is in the answer with its Problem, one that is not staged
// there is not.
//
// Kinds: NotFound (no plugin of the driver gives readings there), Denied (a right is missing, which
// the error names), Unauthenticated, Unavailable, Deadline, Canceled, Internal (the answer is
// malformed).
func (c *Client) ReadNode(ctx context.Context, node string, ids ...string) (readings.Answer, error) {
	pods, err := c.nodePods(ctx, node)
	if err != nil {
		return readings.Answer{}, err
	}
	if len(pods) == 0 {
		return readings.Answer{}, c.noPodError("node " + node)
	}
	if len(ids) > readings.MaxIDs {
		ids = nil
	}
	return c.readFirst(ctx, pods, ids)
}

// ReadNodes reads the named Kubernetes nodes, or all that have a pod of the driver, several at
// once. The map has a Result for each of them, whose error is as that of ReadNode.
//
// Kinds: as ReadNode, if no node could be read because the pods are not known.
func (c *Client) ReadNodes(ctx context.Context, nodes ...string) (map[string]Result, error) {
	pods, err := c.nodePods(ctx, "")
	if err != nil {
		return nil, err
	}
	byNode := map[string][]*corev1.Pod{}
	for _, p := range pods {
		byNode[p.Spec.NodeName] = append(byNode[p.Spec.NodeName], p)
	}
	if len(nodes) == 0 {
		for node := range byNode {
			nodes = append(nodes, node)
		}
	}
	var (
		group   errgroup.Group
		mutex   sync.Mutex
		results = map[string]Result{}
	)
	group.SetLimit(maxPodsAtOnce)
	for _, node := range nodes {
		group.Go(func() error {
			r := Result{Err: c.noPodError("node " + node)}
			if len(byNode[node]) > 0 {
				r.Answer, r.Err = c.readFirst(ctx, byNode[node], nil)
			}
			mutex.Lock()
			defer mutex.Unlock()
			results[node] = r
			return nil
		})
	}
	_ = group.Wait() // each error is in its result
	return results, nil
}

// ReadVolumes returns what the controller reads of the volumes in the storage system. A volume that
// it could not read is in the answer with its Problem. Kinds: as ReadNode.
func (c *Client) ReadVolumes(ctx context.Context, ids []string) (readings.Answer, error) {
	pods, err := c.controllerPods(ctx)
	if err != nil {
		return readings.Answer{}, err
	}
	if len(pods) == 0 {
		return readings.Answer{}, c.noPodError("controller")
	}
	var all readings.Answer
	for part := range slices.Chunk(ids, readings.MaxIDs) {
		answer, err := c.readFirst(ctx, pods, part)
		if err != nil {
			return readings.Answer{}, err
		}
		answer.Volumes = append(all.Volumes, answer.Volumes...)
		all = answer
	}
	return all, nil
}

// noPodError is the error for a driver without a pod that gives readings.
func (c *Client) noPodError(where string) error {
	return volume.Errorf(volume.KindNotFound, "no pod of the driver %s gives readings: %s", c.opts.Driver, where).
		WithRemedy("if it is a driver of growvol, install its chart with readings.enabled: true")
}

// readFirst returns the answer of the first pod that gives one.
func (c *Client) readFirst(ctx context.Context, pods []*corev1.Pod, ids []string) (readings.Answer, error) {
	var err error
	for _, p := range pods {
		answer, readErr := c.readPod(ctx, p, ids)
		if readErr == nil {
			return answer, nil
		}
		if err = cmp.Or(err, readErr); !volume.IsKind(readErr, volume.KindUnavailable) || ctx.Err() != nil {
			break
		}
	}
	return readings.Answer{}, err
}

// readPod reads one pod. A token that the plugin refuses is replaced once: the ServiceAccount may
// have been created again.
func (c *Client) readPod(ctx context.Context, pod *corev1.Pod, ids []string) (readings.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	account := c.account(pod)
	token, isNew, err := c.tokens.get(ctx, account)
	if err != nil {
		return readings.Answer{}, err
	}
	answer, err := c.request(ctx, pod, token, ids)
	if volume.IsKind(err, volume.KindUnauthenticated) && !isNew {
		c.tokens.forget(ctx, account, token)
		if token, _, err = c.tokens.get(ctx, account); err == nil {
			answer, err = c.request(ctx, pod, token, ids)
		}
	}
	if err == nil && answer.Driver != c.opts.Driver {
		err = volume.Errorf(volume.KindInternal, "pod %s/%s answers for the driver %q, not for %s",
			pod.Namespace, pod.Name, answer.Driver, c.opts.Driver)
	}
	return answer, err
}

// request sends one request to the plugin in the pod.
func (c *Client) request(
	ctx context.Context, pod *corev1.Pod, token string, ids []string,
) (answer readings.Answer, err error) {
	path := fmt.Sprintf("/api/v1/namespaces/%s/pods/https:%s:%d/proxy%s", url.PathEscape(pod.Namespace),
		url.PathEscape(pod.Name), pluginpod.Port(&pod.Spec, readings.Port), readings.Path)
	r := c.opts.Kubernetes.CoreV1().RESTClient().Get().AbsPath(path).SetHeader(readings.TokenHeader, token)
	for _, id := range ids {
		r.Param(readings.IDParameter, id)
	}
	raw, err := r.DoRaw(ctx)
	if err != nil {
		return answer, requestError(ctx, err, pod)
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return answer, volume.Errorf(volume.KindInternal, "pod %s/%s: malformed readings: %w", pod.Namespace, pod.Name, err)
	}
	return answer, nil
}

// requestError returns the error of a request that the API server or the plugin has answered with
// an error, or that had no answer.
func requestError(ctx context.Context, err error, pod *corev1.Pod) error {
	where := "pod " + pod.Namespace + "/" + pod.Name
	code, body := errorAnswer(err)
	switch {
	case ctx.Err() != nil:
		return volume.Errorf(volume.KindOf(context.Cause(ctx)), "%s gives no readings in time: %w", where, err)
	case code == http.StatusUnauthorized && body == readings.Refusal:
		return volume.Errorf(volume.KindUnauthenticated, "%s refuses the token: %s", where, body).
			WithRemedy("install the chart with rbac.create: true, " +
				"or create its ClusterRole and ClusterRoleBinding for " + readings.Path + " yourself")
	case code == http.StatusServiceUnavailable && body == readings.ReviewFailed:
		return volume.Errorf(volume.KindUnavailable, "%s: %s", where, body).
			WithRemedy("read the log of the plugin: " +
				fmt.Sprintf("kubectl logs %s --namespace %s --container %s", pod.Name, pod.Namespace, pluginpod.Container))
	case apierrors.IsForbidden(err):
		return apierror.MissingRight("get", "pods/proxy", pod.Namespace)
	case apierrors.IsUnauthorized(err):
		return volume.Errorf(volume.KindUnauthenticated, "the API server does not accept the credentials: %w", err)
	case code == http.StatusBadRequest && body != "":
		return volume.Errorf(volume.KindInvalid, "%s: %s", where, body)
	}
	return volume.Errorf(volume.KindUnavailable, "%s gives no readings: %w", where, err)
}

// errorAnswer returns the HTTP code of the answer that err is made from, and its body if the plugin
// has sent it: the API server's own errors are no plain text.
func errorAnswer(err error) (code int32, body string) {
	status, ok := errors.AsType[*apierrors.StatusError](err)
	if !ok {
		return 0, ""
	}
	if status.ErrStatus.Details != nil {
		for _, cause := range status.ErrStatus.Details.Causes {
			if cause.Type == metav1.CauseTypeUnexpectedServerResponse {
				body = cause.Message
			}
		}
	}
	return status.ErrStatus.Code, body
}
