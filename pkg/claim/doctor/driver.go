package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/growvol/growvol/pkg/apierror"
	"github.com/growvol/growvol/pkg/pluginpod"
)

// checkCSIDriver checks that the cluster's CSIDriver object has the fields that the chart gives it.
// This file has the checks of the objects that name the driver.
func (d *Doctor) checkCSIDriver(ctx context.Context, in *installation) Check {
	const name = "CSIDriver"
	object, err := d.Client.StorageV1().CSIDrivers().Get(ctx, in.driver, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return fail(name, in.driver+" does not exist: Kubernetes uses its defaults instead of what the driver needs",
			"install the chart with csiDriver.create: true")
	case err != nil:
		return unread(name, apierror.Of(err, "get", "csidrivers.storage.k8s.io", ""))
	}
	if check, isNeeded := checkCapacity(in, object); isNeeded {
		return check
	}
	spec := &object.Spec
	const recreate = "delete the object and install the chart again, " +
		"with csiDriver.create: true: kubectl delete csidriver "
	isPersistent := len(spec.VolumeLifecycleModes) == 0 ||
		slices.Contains(spec.VolumeLifecycleModes, storagev1.VolumeLifecyclePersistent)
	switch {
	case spec.AttachRequired != nil && !*spec.AttachRequired:
		return fail(name, in.driver+" has attachRequired: false: Kubernetes does not attach volumes before it mounts them",
			recreate+in.driver)
	case !isPersistent:
		return fail(name, in.driver+" has volumeLifecycleModes without Persistent: claims cannot use it", recreate+in.driver)
	case spec.FSGroupPolicy == nil || *spec.FSGroupPolicy != storagev1.FileFSGroupPolicy:
		policy := "no fsGroupPolicy"
		if spec.FSGroupPolicy != nil {
			policy = "fsGroupPolicy: " + string(*spec.FSGroupPolicy)
		}
		return warn(name, in.driver+" has "+policy+", the chart sets File: "+
			"kubelet may not give the files to the pod's fsGroup",
			fmt.Sprintf(`kubectl patch csidriver %s --patch '{"spec":{"fsGroupPolicy":"File"}}'`, in.driver))
	case spec.PodInfoOnMount != nil && *spec.PodInfoOnMount:
		return warn(name, in.driver+" has podInfoOnMount: true, the chart sets false: the plugin does not use it",
			fmt.Sprintf(`kubectl patch csidriver %s --patch '{"spec":{"podInfoOnMount":false}}'`, in.driver))
	}
	return ok(name, in.driver+": attachRequired, fsGroupPolicy, podInfoOnMount and volumeLifecycleModes "+
		"are as the chart sets them")
}

// checkRegistration checks that kubelet has registered the driver on each node that has a pod of
// the node plugin.
func (d *Doctor) checkRegistration(ctx context.Context, in *installation) Check {
	const name = "CSINode"
	switch {
	case in.nodePodsErr != nil:
		return unread(name, in.nodePodsErr)
	case in.node == nil:
		return warn(name, "not checked: there is no DaemonSet", "")
	}
	list, err := d.Client.StorageV1().CSINodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return unread(name, apierror.Of(err, "list", "csinodes.storage.k8s.io", ""))
	}
	registered := map[string]bool{}
	for i := range list.Items {
		for _, driver := range list.Items[i].Spec.Drivers {
			if driver.Name == in.driver {
				registered[list.Items[i].Name] = true
			}
		}
	}
	nodes := nodesOf(in)
	missing := slices.DeleteFunc(slices.Clone(nodes), func(node string) bool { return registered[node] })
	if len(missing) > 0 {
		return fail(name, fmt.Sprintf("%s is not registered on %d of %d nodes: %s: kubelet cannot mount its volumes there",
			in.driver, len(missing), len(nodes), joinNames(missing)),
			fmt.Sprintf("read the log of node-driver-registrar on these nodes, and compare the chart's kubeletDir "+
				"with kubelet's --root-dir: kubectl logs daemonset/%s --namespace %s --container node-driver-registrar",
				in.node.Name, in.namespace))
	}
	return ok(name, fmt.Sprintf("%s is registered on all %d nodes with a pod of the node plugin", in.driver, len(nodes)))
}

// nodesOf returns the nodes that have a pod of the node plugin, ordered by name.
func nodesOf(in *installation) []string {
	var nodes []string
	for i := range in.nodePods {
		if node := in.nodePods[i].Spec.NodeName; node != "" {
			nodes = append(nodes, node)
		}
	}
	slices.Sort(nodes)
	return slices.Compact(nodes)
}

// checkClasses checks that the driver's StorageClasses allow expansion.
func (d *Doctor) checkClasses(ctx context.Context, in *installation) Check {
	const name = "StorageClass"
	list, err := d.Client.StorageV1().StorageClasses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return unread(name, apierror.Of(err, "list", "storageclasses.storage.k8s.io", ""))
	}
	var all, fixed []string
	for i := range list.Items {
		class := &list.Items[i]
		if class.Provisioner != in.driver {
			continue
		}
		all = append(all, class.Name)
		if class.AllowVolumeExpansion == nil || !*class.AllowVolumeExpansion {
			fixed = append(fixed, class.Name)
		}
	}
	switch {
	case len(all) == 0:
		return warn(name, "no class has the provisioner "+in.driver, "create one, such as with storageClasses of the chart")
	case len(fixed) > 0:
		return warn(name, "claims of these classes cannot grow: "+joinNames(fixed),
			fmt.Sprintf(`kubectl patch storageclass %s --patch '{"allowVolumeExpansion":true}'`,
				strings.Join(fixed[:min(len(fixed), maxNames)], " ")))
	}
	return ok(name, "claims of all classes can grow: "+joinNames(all))
}

// checkSnapshots checks that the cluster has the resources that csi-snapshotter needs.
func (d *Doctor) checkSnapshots(in *installation) Check {
	const name, group = "snapshot CRDs", "snapshot.storage.k8s.io/v1"
	if in.controller == nil {
		return warn(name, "not checked: there is no Deployment", "")
	}
	hasSidecar := pluginpod.FindContainer(&in.controller.Spec.Template.Spec, "csi-snapshotter") != nil
	resources, err := d.Client.Discovery().ServerResourcesForGroupVersion(group)
	if err != nil && !apierrors.IsNotFound(err) {
		return unread(name, apierror.Of(err, "get", "/apis/"+group, ""))
	}
	var missing []string
	for _, resource := range []string{"volumesnapshots", "volumesnapshotcontents", "volumesnapshotclasses"} {
		hasResource := err == nil && slices.ContainsFunc(resources.APIResources, func(r metav1.APIResource) bool {
			return r.Name == resource
		})
		if !hasResource {
			missing = append(missing, resource)
		}
	}
	switch {
	case len(missing) == 0 && hasSidecar:
		return ok(name, group+" is installed")
	case len(missing) == 0:
		return warn(name, group+" is installed, but the controller has no csi-snapshotter: snapshots of its volumes wait",
			"install the chart with sidecars.snapshotter.enabled: true")
	case hasSidecar:
		return fail(name, "the cluster lacks "+strings.Join(missing, ", ")+" of "+group+", which csi-snapshotter needs",
			"install the snapshot controller and its CRDs (github.com/kubernetes-csi/external-snapshotter), "+
				"or the chart with sidecars.snapshotter.enabled: false")
	}
	return ok(name, "none, and the controller has no csi-snapshotter: snapshots are turned off")
}
