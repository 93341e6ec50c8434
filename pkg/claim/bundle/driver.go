package bundle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/growvol/growvol/pkg/volume"
)

// maxLogs is the size of all logs together. This file collects what concerns the driver.
const maxLogs = 512 * volume.MiB

// addDriver adds the driver's objects, logs and metrics.
func (r *run) addDriver(ctx context.Context) error {
	s := newDriverSources()
	namespaces := map[string]bool{}
	names := map[string]bool{} // of the objects, whose events are stored
	var pods []corev1.Pod
	for _, s := range []source{s.deployments, s.daemonSets, s.pods} {
		r.Progress("the driver's " + s.resource)
		list, err := r.list(ctx, s, nil)
		if err != nil {
			r.notRead(s.file, err)
			continue
		}
		for i := range list.Items {
			o := &list.Items[i]
			namespaces[o.GetNamespace()], names[o.GetName()] = true, true
		}
		if s.resource == "pods" {
			pods = r.decodePods(list)
		}
		if err := r.archive.AddObject(s.file, list.UnstructuredContent()); err != nil {
			return err
		}
	}
	if len(namespaces) == 0 {
		r.notRead("driver", errors.New(
			"no Deployment, DaemonSet or pod with the label app.kubernetes.io/name=growvol was found"))
	}
	for _, namespace := range slices.Sorted(maps.Keys(namespaces)) {
		if err := r.addDriverNamespace(ctx, s, namespace, names); err != nil {
			return err
		}
	}
	return r.addPods(ctx, s, pods)
}

// decodePods returns the pods of the list.
func (r *run) decodePods(list *unstructured.UnstructuredList) []corev1.Pod {
	pods := make([]corev1.Pod, len(list.Items))
	for i := range list.Items {
		o := &list.Items[i]
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &pods[i]); err != nil {
			r.notRead("logs of the pod "+o.GetName(), err)
		}
	}
	return pods
}

// addDriverNamespace adds leases and events of a namespace with objects of the driver.
func (r *run) addDriverNamespace(
	ctx context.Context, s driverSources, namespace string, names map[string]bool,
) error {
	values := map[string]string{"namespace": namespace}
	isOfDriver := func(event *unstructured.Unstructured) bool {
		name := textAt(event, "involvedObject", "name")
		for known := range names {
			if name == known || strings.HasPrefix(name, known+"-") { // a ReplicaSet, or a pod that is gone
				return true
			}
		}
		return false
	}
	all := func(*unstructured.Unstructured) bool { return true }
	return cmp.Or(r.addList(ctx, s.leases, values, all), r.addList(ctx, s.events, values, isOfDriver))
}

// addList adds the objects of a list that isWanted returns true for. It may change the object.
func (r *run) addList(
	ctx context.Context, s source, values map[string]string, isWanted func(*unstructured.Unstructured) bool,
) error {
	r.Progress(s.resource + " of " + cmp.Or(s.namespace(values), "the cluster"))
	list, err := r.list(ctx, s, values)
	if err != nil {
		r.notRead(s.filePath(values), err)
		return nil
	}
	var wanted []unstructured.Unstructured
	for i := range list.Items {
		if o := &list.Items[i]; isWanted(o) { // it may reduce the object
			wanted = append(wanted, *o)
		}
	}
	list.Items = wanted
	return r.archive.AddObject(s.filePath(values), list.UnstructuredContent())
}

// addPods adds logs and metrics of the pods: those of the controller first, which the limit of all
// logs then does not leave out.
func (r *run) addPods(ctx context.Context, s driverSources, pods []corev1.Pod) error {
	const component = "app.kubernetes.io/component"
	slices.SortFunc(pods, func(a, b corev1.Pod) int {
		return cmp.Or(
			strings.Compare(a.Labels[component], b.Labels[component]), strings.Compare(a.Namespace, b.Namespace),
			strings.Compare(a.Name, b.Name),
		)
	})
	for i := range pods {
		pod := &pods[i]
		r.Progress("logs and metrics of pod " + pod.Namespace + "/" + pod.Name)
		if err := r.addLogs(ctx, s, pod); err != nil {
			return err
		}
		if err := r.addMetrics(ctx, s.metrics, pod); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) addLogs(ctx context.Context, s driverSources, pod *corev1.Pod) error {
	restarts := map[string]int32{}
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		restarts[status.Name] = status.RestartCount
	}
	for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		logs := []source{s.log}
		if restarts[container.Name] > 0 {
			logs = append(logs, s.previousLog)
		}
		for _, log := range logs {
			if err := r.addLog(ctx, log, pod, container.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// addLog adds the log of a container.
func (r *run) addLog(ctx context.Context, s source, pod *corev1.Pod, container string) error {
	values := map[string]string{
		"namespace": pod.Namespace, "pod": pod.Name, "container": container, "seconds": r.seconds(),
	}
	file := s.filePath(values)
	if r.logBytes >= int(maxLogs) {
		r.notRead(file, volume.Errorf(volume.KindOutOfRange, "all logs together have %s", maxLogs))
		return nil
	}
	tail, isCut, err := r.getTail(ctx, s, values, r.Logs.Bytes)
	if err != nil {
		r.notRead(file, err)
		return nil
	}
	if isCut {
		r.notRead(file, volume.Errorf(volume.KindOutOfRange, "the lines before the last %s", r.Logs.Bytes))
	}
	r.logBytes += len(tail)
	return r.archive.AddText(file, string(tail))
}

// addMetrics adds the metrics of the plugin, if the pod serves them.
func (r *run) addMetrics(ctx context.Context, s source, pod *corev1.Pod) error {
	for _, container := range pod.Spec.Containers {
		for _, port := range container.Ports {
			if port.Name != "metrics" && port.Name != "http" { // of the node plugin; of controller and operator
				continue
			}
			values := map[string]string{
				"namespace": pod.Namespace, "pod": pod.Name, "port": fmt.Sprint(port.ContainerPort),
			}
			raw, err := r.get(ctx, s, values)
			if err != nil {
				r.notRead(s.filePath(values), err)
				return nil
			}
			return r.archive.AddText(s.filePath(values), string(raw))
		}
	}
	return nil
}
