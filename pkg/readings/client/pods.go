package client

import (
	"cmp"
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"github.com/growvol/growvol/pkg/apierror"
	"github.com/growvol/growvol/pkg/pluginpod"
	"github.com/growvol/growvol/pkg/readings"
)

// nodePods returns the pods of the node plugin that give readings, those that run first: on the
// node, or on all nodes if it is empty. This file finds the pods.
func (c *Client) nodePods(ctx context.Context, node string) ([]*corev1.Pod, error) {
	options := metav1.ListOptions{}
	if node != "" {
		options.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", node).String()
	}
	pods, err := c.pods(ctx, pluginpod.ComponentNode, options)
	if node != "" {
		pods = slices.DeleteFunc(pods, func(p *corev1.Pod) bool { return p.Spec.NodeName != node })
	}
	return pods, err
}

// controllerPods returns the pods of the controller that give readings, those that are ready first.
func (c *Client) controllerPods(ctx context.Context) ([]*corev1.Pod, error) {
	return c.pods(ctx, pluginpod.ComponentController, metav1.ListOptions{})
}

// pods returns the pods of a component that give readings of the driver.
func (c *Client) pods(ctx context.Context, component string, options metav1.ListOptions) ([]*corev1.Pod, error) {
	options.LabelSelector = c.opts.Selector + "," + pluginpod.ComponentLabel + "=" + component
	list, err := c.opts.Kubernetes.CoreV1().Pods(c.opts.Namespace).List(ctx, options)
	if err != nil {
		return nil, apierror.Of(err, "list", "pods", c.opts.Namespace)
	}
	var pods []*corev1.Pod
	for i := range list.Items {
		p := &list.Items[i]
		isRead := pluginpod.Port(&p.Spec, readings.Port) != 0 && pluginpod.Driver(&p.Spec) == c.opts.Driver
		if isRead && p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil {
			pods = append(pods, p)
		}
	}
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(cmp.Compare(readyRank(b), readyRank(a)), strings.Compare(a.Name, b.Name))
	})
	return pods, nil
}

// readyRank is 1 for a pod that is ready, otherwise 0.
func readyRank(pod *corev1.Pod) int {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
			return 1
		}
	}
	return 0
}

// account returns the ServiceAccount whose tokens may read the pod. It is in the pod's namespace,
// and its name has readings.AccountSuffix where that of the pod has the component.
func (c *Client) account(pod *corev1.Pod) types.NamespacedName {
	name := c.opts.Account
	if name == "" {
		component := "-" + pod.Labels[pluginpod.ComponentLabel]
		name = strings.TrimSuffix(pod.Spec.ServiceAccountName, component) + readings.AccountSuffix
	}
	return types.NamespacedName{Namespace: pod.Namespace, Name: name}
}
