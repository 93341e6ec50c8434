package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/growvol/growvol/deploy/charts"
	"github.com/growvol/growvol/pkg/apierror"
	"github.com/growvol/growvol/pkg/pluginpod"
)

// Doctor checks the installations of growvol in a cluster. It changes nothing.
type Doctor struct {
	Client kubernetes.Interface
	Nodes  NodeReader
	// Sidecars are the tags of the sidecars' images that the chart installs, by the name of the
	// image.
	Sidecars map[string]string
	// Options are those that the chart always gives the controller's sidecars, and Rules what it
	// lets them do, by the name of the container.
	Options map[string][]string
	Rules   map[string][]charts.Rule
}

// New returns a doctor that compares a cluster with the chart of this program.
func New(client kubernetes.Interface, nodes NodeReader) (*Doctor, error) {
	d := &Doctor{Client: client, Nodes: nodes}
	var errs [3]error
	d.Sidecars, errs[0] = charts.Sidecars()
	d.Options, errs[1] = charts.SidecarOptions()
	d.Rules, errs[2] = charts.SidecarRules()
	return d, errors.Join(errs[:]...)
}

// The selectors of the plugins' objects.
const (
	controllerLabel = pluginpod.Selector + "," + pluginpod.ComponentLabel + "=" + pluginpod.ComponentController
	nodeLabel       = pluginpod.Selector + "," + pluginpod.ComponentLabel + "=" + pluginpod.ComponentNode
)

// installation is a release of the chart: a controller and a node plugin. One of them may be nil.
type installation struct {
	namespace, name string
	driver          string // empty if no plugin names it
	controller      *appsv1.Deployment
	node            *appsv1.DaemonSet
	nodePods        []corev1.Pod
	nodePodsErr     error
}

// Check runs all checks. What cannot be read is a check of its own that warns.
func (d *Doctor) Check(ctx context.Context) []Check {
	all, err := d.findInstallations(ctx)
	if err != nil {
		return []Check{unread("installation", err)}
	}
	if len(all) == 0 {
		return []Check{fail("installation", "no Deployment or DaemonSet has the labels "+controllerLabel+" or "+nodeLabel,
			"install the chart (docs/tutorial.md), or give the objects these labels")}
	}
	var checks []Check
	for i := range all {
		checks = append(checks, d.checkInstallation(ctx, &all[i])...)
	}
	return append(checks, d.checkOwnRights(ctx))
}

func (d *Doctor) checkInstallation(ctx context.Context, in *installation) []Check {
	checks := []Check{checkController(in), checkNodePlugin(in)}
	if in.driver == "" {
		return append(checks, fail("installation", in.namespace+"/"+in.name+" has no container "+pluginpod.Container+
			" with the option --backend", "install the chart again: helm upgrade"))
	}
	checks = append(checks, d.checkCSIDriver(ctx, in), d.checkRegistration(ctx, in))
	checks = append(checks, d.checkSidecars(in)...)
	checks = append(checks, d.checkSidecarRights(ctx, in), d.checkClasses(ctx, in), d.checkSnapshots(in))
	if check, isNeeded := d.checkCloud(ctx, in); isNeeded {
		checks = append(checks, check)
	}
	return append(checks, d.checkNodes(ctx, in)...)
}

// findInstallations returns the releases of the chart in all namespaces, ordered by name.
func (d *Doctor) findInstallations(ctx context.Context) ([]installation, error) {
	deployments, err := d.Client.AppsV1().Deployments("").List(ctx, metav1.ListOptions{LabelSelector: controllerLabel})
	if err != nil {
		return nil, apierror.Of(err, "list", "deployments.apps", "")
	}
	daemonSets, err := d.Client.AppsV1().DaemonSets("").List(ctx, metav1.ListOptions{LabelSelector: nodeLabel})
	if err != nil {
		return nil, apierror.Of(err, "list", "daemonsets.apps", "")
	}
	var all []installation
	find := func(object *metav1.ObjectMeta) *installation {
		name := object.Labels[pluginpod.InstanceLabel]
		i := slices.IndexFunc(all, func(in installation) bool { return in.namespace == object.Namespace && in.name == name })
		if i < 0 {
			i = len(all)
			all = append(all, installation{namespace: object.Namespace, name: name})
		}
		return &all[i]
	}
	for i := range deployments.Items {
		o := &deployments.Items[i]
		in := find(&o.ObjectMeta)
		in.controller, in.driver = o, pluginpod.Driver(&o.Spec.Template.Spec)
	}
	for i := range daemonSets.Items {
		o := &daemonSets.Items[i]
		in := find(&o.ObjectMeta)
		in.node, in.driver = o, cmp.Or(in.driver, pluginpod.Driver(&o.Spec.Template.Spec))
		in.nodePods, in.nodePodsErr = d.podsOf(ctx, o.Namespace, o.Spec.Selector)
	}
	slices.SortFunc(all, func(a, b installation) int {
		return cmp.Or(strings.Compare(a.namespace, b.namespace), strings.Compare(a.name, b.name))
	})
	return all, nil
}

func (d *Doctor) podsOf(ctx context.Context, namespace string, of *metav1.LabelSelector) ([]corev1.Pod, error) {
	selector := metav1.FormatLabelSelector(of)
	list, err := d.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, apierror.Of(err, "list", "pods", namespace)
	}
	return list.Items, nil
}

// checkController checks the controller's Deployment.
func checkController(in *installation) Check {
	const name = "controller"
	o := in.controller
	if o == nil {
		return fail(name, in.namespace+"/"+in.name+" has no Deployment: no volume is created or grows",
			"install the chart again: helm upgrade")
	}
	object := fmt.Sprintf("Deployment %s/%s", o.Namespace, o.Name)
	want := int32(1)
	if o.Spec.Replicas != nil {
		want = *o.Spec.Replicas
	}
	text := fmt.Sprintf("%s: %d of %d pods are ready", object, o.Status.ReadyReplicas, want)
	next := fmt.Sprintf("read the log: kubectl logs deployment/%s --namespace %s --container %s",
		o.Name, o.Namespace, pluginpod.Container)
	switch {
	case want == 0:
		return fail(name, object+" is scaled to 0: no volume is created or grows",
			fmt.Sprintf("kubectl scale deployment/%s --namespace %s --replicas=2", o.Name, o.Namespace))
	case o.Status.ReadyReplicas == 0:
		return fail(name, text+": no volume is created or grows", next)
	case o.Status.ReadyReplicas < want || o.Status.UpdatedReplicas < want:
		return warn(name, fmt.Sprintf("%s, %d have the present version", text, o.Status.UpdatedReplicas), next)
	}
	return ok(name, text)
}

// checkNodePlugin checks the node plugin's DaemonSet.
func checkNodePlugin(in *installation) Check {
	const name = "node plugin"
	o := in.node
	if o == nil {
		return fail(name, in.namespace+"/"+in.name+" has no DaemonSet: no volume is mounted or grows on a node",
			"install the chart again: helm upgrade")
	}
	s := &o.Status
	text := fmt.Sprintf("DaemonSet %s/%s: %d of %d pods are ready", o.Namespace, o.Name,
		s.NumberReady, s.DesiredNumberScheduled)
	next := fmt.Sprintf("read why: kubectl get pods --namespace %s --selector %s --output wide", o.Namespace,
		metav1.FormatLabelSelector(o.Spec.Selector))
	switch {
	case s.DesiredNumberScheduled == 0:
		return fail(name, text+": no node matches its node selector and tolerations",
			"compare node.nodeSelector and node.tolerations of the chart with the nodes: kubectl get nodes --show-labels")
	case s.NumberReady < s.DesiredNumberScheduled:
		if nodes := unreadyNodes(in.nodePods); len(nodes) > 0 {
			text += "; not ready on " + joinNames(nodes)
		}
		return fail(name, text, next)
	case s.UpdatedNumberScheduled < s.DesiredNumberScheduled:
		return warn(name, fmt.Sprintf("%s, %d have the present version", text, s.UpdatedNumberScheduled), next)
	}
	return ok(name, text)
}

// unreadyNodes returns the nodes of the pods that are not ready.
func unreadyNodes(pods []corev1.Pod) []string {
	var nodes []string
	for i := range pods {
		isReady := slices.ContainsFunc(pods[i].Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
		if !isReady {
			nodes = append(nodes, cmp.Or(pods[i].Spec.NodeName, "no node (pod "+pods[i].Name+")"))
		}
	}
	slices.Sort(nodes)
	return nodes
}
