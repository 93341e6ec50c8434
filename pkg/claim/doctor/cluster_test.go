package doctor

import (
	"context"
	"errors"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/growvol/growvol/deploy/charts"
	"github.com/growvol/growvol/pkg/pluginpod"
)

// cluster has the objects of an installation without a fault, which each test changes.
type cluster struct {
	deployment     *appsv1.Deployment
	daemonSet      *appsv1.DaemonSet
	pods           []*corev1.Pod // of the node plugin
	csiDriver      *storagev1.CSIDriver
	csiNodes       []*storagev1.CSINode
	class          *storagev1.StorageClass
	nodes          []*corev1.Node
	crds           []string
	readings       fakeNodes
	controllerPods []*corev1.Pod
	denied         string // a resource that the user may not read
	lacking        string // "VERB RESOURCE" that neither the user nor the ServiceAccount has
}

// fakeNodes are nodes that report the same, except what the maps say.
type fakeNodes struct {
	syncFrequency map[string]time.Duration
	requirements  map[string]map[string]bool // by pod
	cloudAPIs     map[string][]CloudAPI      // by pod of the controller; nil: soundCloud of each
	err           error
}

func (f fakeNodes) ReadSyncFrequency(_ context.Context, node string) (time.Duration, error) {
	if frequency, found := f.syncFrequency[node]; found {
		return frequency, f.err
	}
	return time.Minute, f.err
}

func (f fakeNodes) ReadRequirements(_ context.Context, _, pod string, port int32) (map[string]bool, error) {
	if port != 9810 {
		return nil, errors.New("wrong port")
	}
	if met, found := f.requirements[pod]; found {
		return met, f.err
	}
	return map[string]bool{"cap_sys_resource": true, "state_dir": true}, f.err
}

// soundCloud is what a controller reports of a cloud that offers all.
func soundCloud() []CloudAPI {
	return []CloudAPI{
		{Cloud: "csi", Service: "cinder", Min: "3.0", Max: "3.70"}, {Cloud: "csi", Service: "nova", Min: "2.1", Max: "2.93"},
	}
}

func (f fakeNodes) ReadCloudAPIs(_ context.Context, _, pod string, port int32) ([]CloudAPI, error) {
	switch {
	case port != 9813:
		return nil, errors.New("wrong port")
	case f.err != nil:
		return nil, f.err
	case f.cloudAPIs == nil:
		return soundCloud(), nil
	}
	return f.cloudAPIs[pod], nil
}

func sidecar(name string, args ...string) corev1.Container {
	args = append(args, "--timeout=180s", "--leader-election", "--csi-address=/csi/csi.sock")
	return corev1.Container{Name: name, Image: "registry.k8s.io/sig-storage/" + name + ":v1.0.0", Args: args}
}

func metadata(component string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "csi", Name: "growvol-" + component, Labels: map[string]string{
		"app.kubernetes.io/name": "growvol", pluginpod.InstanceLabel: "growvol", pluginpod.ComponentLabel: component,
	}}
}

func newCluster() *cluster {
	two, attaches, podInfo, grows, file := int32(2), true, false, true, storagev1.FileFSGroupPolicy
	plugin := corev1.Container{
		Name: pluginpod.Container, Args: []string{"--backend=cinder", "--endpoint=unix:///csi/csi.sock"},
	}
	nodePlugin := plugin
	plugin.Ports = []corev1.ContainerPort{{Name: "healthz", ContainerPort: 9808}, {Name: "http", ContainerPort: 9813}}
	nodePlugin.Ports = []corev1.ContainerPort{{Name: "metrics", ContainerPort: 9810}}
	c := &cluster{
		deployment: &appsv1.Deployment{ObjectMeta: metadata("controller"), Spec: appsv1.DeploymentSpec{
			Replicas: &two, Selector: &metav1.LabelSelector{MatchLabels: metadata("controller").Labels},
		}},
		daemonSet: &appsv1.DaemonSet{ObjectMeta: metadata("node"), Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: metadata("node").Labels},
		}},
		csiDriver: &storagev1.CSIDriver{
			ObjectMeta: metav1.ObjectMeta{Name: "cinder.csi.openstack.org"}, Spec: storagev1.CSIDriverSpec{
				AttachRequired: &attaches, PodInfoOnMount: &podInfo, FSGroupPolicy: &file,
				VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent},
			},
		},
		class: &storagev1.StorageClass{
			ObjectMeta: metav1.ObjectMeta{Name: "fast"}, Provisioner: "cinder.csi.openstack.org", AllowVolumeExpansion: &grows,
		},
		crds: []string{"volumesnapshots", "volumesnapshotcontents", "volumesnapshotclasses"},
	}
	c.deployment.Spec.Template.Spec.Containers = []corev1.Container{
		plugin, sidecar("csi-provisioner"), sidecar("csi-attacher"),
		sidecar("csi-resizer", "--handle-volume-inuse-error=false"), sidecar("csi-snapshotter"),
	}
	c.deployment.Status = appsv1.DeploymentStatus{ReadyReplicas: 2, UpdatedReplicas: 2}
	c.daemonSet.Spec.Template.Spec.Containers = []corev1.Container{nodePlugin, sidecar(
		"node-driver-registrar", "--kubelet-registration-path=/var/lib/kubelet/plugins/x/csi.sock",
	)}
	c.daemonSet.Spec.Template.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{
		HostPath: &corev1.HostPathVolumeSource{Path: "/var/lib/kubelet/plugins/x"},
	}}}
	c.deployment.Spec.Template.Spec.ServiceAccountName = "growvol-controller"
	c.daemonSet.Status = appsv1.DaemonSetStatus{DesiredNumberScheduled: 2, NumberReady: 2, UpdatedNumberScheduled: 2}
	for _, name := range []string{"a", "b"} {
		pod := &corev1.Pod{ObjectMeta: metadata("controller")}
		pod.Name += "-" + name
		pod.Status.Phase = corev1.PodRunning
		c.controllerPods = append(c.controllerPods, pod)
	}
	for _, node := range []string{"node1", "node2"} {
		pod := &corev1.Pod{ObjectMeta: metadata("node"), Spec: corev1.PodSpec{NodeName: node}}
		pod.Name += "-" + node
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		c.pods = append(c.pods, pod)
		c.csiNodes = append(c.csiNodes, &storagev1.CSINode{
			ObjectMeta: metav1.ObjectMeta{Name: node},
			Spec:       storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{Name: "cinder.csi.openstack.org"}}},
		})
		c.nodes = append(c.nodes, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: node},
			Status:     corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{KernelVersion: "6.1.0-25-amd64"}},
		})
	}
	return c
}

// check runs the checks on the cluster.
func (c *cluster) check(t *testing.T) []Check {
	t.Helper()
	var objects []runtime.Object
	for _, pod := range append(c.controllerPods, c.pods...) {
		objects = append(objects, pod)
	}
	for i := range c.nodes {
		objects = append(objects, c.nodes[i], c.csiNodes[i])
	}
	if c.deployment != nil {
		objects = append(objects, c.deployment)
	}
	if c.daemonSet != nil {
		objects = append(objects, c.daemonSet)
	}
	if c.csiDriver != nil {
		objects = append(objects, c.csiDriver)
	}
	// Another component of the chart, which sorts after the controller.
	operator := &appsv1.Deployment{ObjectMeta: metadata("operator")}
	client := fake.NewClientset(append(objects, c.class, operator)...)
	if len(c.crds) > 0 {
		list := &metav1.APIResourceList{GroupVersion: "snapshot.storage.k8s.io/v1"}
		for _, name := range c.crds {
			list.APIResources = append(list.APIResources, metav1.APIResource{Name: name})
		}
		client.Resources = append(client.Resources, list)
	}
	c.answerReviews(client)
	if c.denied != "" {
		client.PrependReactor("*", c.denied, func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: c.denied}, "", errors.New("no"))
		})
	}
	d := Doctor{Client: client, Nodes: c.readings, Sidecars: map[string]string{
		"csi-provisioner": "v1.0.0", "csi-attacher": "v1.0.0", "csi-resizer": "v1.0.0", "csi-snapshotter": "v1.0.0",
		"node-driver-registrar": "v1.0.0",
	}, Options: map[string][]string{"csi-resizer": {"--handle-volume-inuse-error=false"}}, Rules: map[string][]charts.Rule{
		"csi-resizer": {{
			APIGroups: []string{""}, Resources: []string{"persistentvolumeclaims/status"}, Verbs: []string{"get", "patch"},
		}},
	}}
	return d.Check(t.Context())
}

// answerReviews lets the API server answer about rights: all but the lacking one are there.
func (c *cluster) answerReviews(client *fake.Clientset) {
	answer := func(a *authorizationv1.ResourceAttributes) authorizationv1.SubjectAccessReviewStatus {
		resource := a.Resource
		if a.Subresource != "" {
			resource += "/" + a.Subresource
		}
		return authorizationv1.SubjectAccessReviewStatus{Allowed: a.Verb+" "+resource != c.lacking}
	}
	client.PrependReactor("create", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		created, isCreate := a.(clienttesting.CreateAction)
		if !isCreate {
			return false, nil, nil
		}
		switch o := created.GetObject().(type) {
		case *authorizationv1.SelfSubjectAccessReview:
			o.Status = answer(o.Spec.ResourceAttributes)
			return true, o, nil
		case *authorizationv1.SubjectAccessReview:
			if o.Status = answer(o.Spec.ResourceAttributes); o.Spec.User != "system:serviceaccount:csi:growvol-controller" {
				o.Status.Allowed = false
			}
			return true, o, nil
		}
		return false, nil, nil
	})
}
