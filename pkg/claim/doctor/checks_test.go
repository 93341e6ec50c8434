package doctor

import (
	"context"
	"errors"
	"strings"
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
	"github.com/growvol/growvol/pkg/volume"
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

func TestNoFault(t *testing.T) {
	checks := newCluster().check(t)
	if len(checks) != 13 {
		t.Errorf("got %d checks, want 13: %+v", len(checks), checks)
	}
	for _, c := range checks {
		if c.Name == "cloud" && c.Text != "API versions of cloud csi: cinder 3.0 to 3.70, nova 2.1 to 2.93" {
			t.Errorf("got %q, want the versions", c.Text)
		}
		if c.Verdict != VerdictOK || c.Next != "" {
			t.Errorf("got %+v, want ok", c)
		}
	}
}

func TestFaults(t *testing.T) {
	container := func(c *cluster, name string) *corev1.Container {
		return pluginpod.FindContainer(&c.deployment.Spec.Template.Spec, name)
	}
	without := func(pod *corev1.PodSpec, name string) {
		var rest []corev1.Container
		for _, c := range pod.Containers {
			if c.Name != name {
				rest = append(rest, c)
			}
		}
		pod.Containers = rest
	}
	for name, test := range map[string]struct {
		change  func(*cluster)
		verdict Verdict
		check   string
		want    string
	}{
		"nothing installed": {
			func(c *cluster) { c.deployment, c.daemonSet = nil, nil },
			VerdictFail, "installation", "no Deployment or DaemonSet has the labels app.kubernetes.io/name=growvol",
		},
		"no controller": {func(c *cluster) { c.deployment = nil }, VerdictFail, "controller", "has no Deployment"},
		"controller of 0 pods": {
			func(c *cluster) { *c.deployment.Spec.Replicas = 0 }, VerdictFail, "controller", "is scaled to 0",
		},
		"no pod of the controller is ready": {
			func(c *cluster) { c.deployment.Status.ReadyReplicas = 0 }, VerdictFail, "controller", "0 of 2 pods are ready",
		},
		"one pod of the controller is ready": {
			func(c *cluster) { c.deployment.Status.ReadyReplicas = 1 }, VerdictWarn, "controller", "1 of 2 pods are ready",
		},
		"old pods of the controller": {
			func(c *cluster) { c.deployment.Status.UpdatedReplicas = 1 },
			VerdictWarn, "controller", "1 have the present version",
		},
		"no node plugin": {func(c *cluster) { c.daemonSet = nil }, VerdictFail, "node plugin", "has no DaemonSet"},
		"node plugin matches no node": {
			func(c *cluster) { c.daemonSet.Status.DesiredNumberScheduled = 0 }, VerdictFail, "node plugin", "no node matches",
		},
		"node plugin not ready": {
			func(c *cluster) {
				c.daemonSet.Status.NumberReady = 1
				c.pods[1].Status.Conditions[0].Status = corev1.ConditionFalse
			},
			VerdictFail, "node plugin", "1 of 2 pods are ready; not ready on node2",
		},
		"old pods of the node plugin": {
			func(c *cluster) { c.daemonSet.Status.UpdatedNumberScheduled = 0 }, VerdictWarn, "node plugin", "0 have the present",
		},
		"no backend": {
			func(c *cluster) {
				container(c, pluginpod.Container).Args = nil
				c.daemonSet.Spec.Template.Spec.Containers[0].Args = nil
			},
			VerdictFail, "installation", "with the option --backend",
		},
		"no CSIDriver": {func(c *cluster) { c.csiDriver = nil }, VerdictFail, "CSIDriver", "does not exist"},
		"CSIDriver of another name": {
			func(c *cluster) {
				container(c, pluginpod.Container).Args = []string{"--driver-name=my.driver", "--backend=cinder"}
			},
			VerdictFail, "CSIDriver", "my.driver does not exist",
		},
		"attachRequired": {
			func(c *cluster) { *c.csiDriver.Spec.AttachRequired = false }, VerdictFail, "CSIDriver", "attachRequired: false",
		},
		"podInfoOnMount": {
			func(c *cluster) { *c.csiDriver.Spec.PodInfoOnMount = true }, VerdictWarn, "CSIDriver", "podInfoOnMount: true",
		},
		"fsGroupPolicy": {
			func(c *cluster) { *c.csiDriver.Spec.FSGroupPolicy = storagev1.NoneFSGroupPolicy },
			VerdictWarn, "CSIDriver", "fsGroupPolicy: None",
		},
		"volumeLifecycleModes": {
			func(c *cluster) { c.csiDriver.Spec.VolumeLifecycleModes[0] = storagev1.VolumeLifecycleEphemeral },
			VerdictFail, "CSIDriver", "without Persistent",
		},
		"not registered": {
			func(c *cluster) { c.csiNodes[1].Spec.Drivers = nil },
			VerdictFail, "CSINode", "is not registered on 1 of 2 nodes: node2",
		},
		"no resizer": {
			func(c *cluster) { without(&c.deployment.Spec.Template.Spec, "csi-resizer") },
			VerdictFail, "sidecars", "has no csi-resizer",
		},
		"no registrar": {
			func(c *cluster) { without(&c.daemonSet.Spec.Template.Spec, "node-driver-registrar") },
			VerdictFail, "sidecars", "has no node-driver-registrar",
		},
		"no leader election": {
			func(c *cluster) {
				container(c, "csi-resizer").Args = []string{"--timeout=180s", "--handle-volume-inuse-error=false"}
			},
			VerdictFail, "sidecars", "csi-resizer has no --leader-election",
		},
		"short timeout": {
			func(c *cluster) { container(c, "csi-attacher").Args = []string{"--timeout=15s", "--leader-election"} },
			VerdictWarn, "sidecars", "csi-attacher has --timeout=15s",
		},
		"delayed growth": {
			func(c *cluster) { container(c, "csi-resizer").Args = []string{"--timeout=180s", "--leader-election"} },
			VerdictWarn, "sidecars", "lacks --handle-volume-inuse-error=false",
		},
		"another socket": {
			func(c *cluster) { container(c, "csi-attacher").Args[2] = "--csi-address=/run/csi.sock" },
			VerdictFail, "sidecars", "csi-attacher has --csi-address=/run/csi.sock, and the plugin",
		},
		"kubelet's directory": {
			func(c *cluster) { c.daemonSet.Spec.Template.Spec.Volumes[0].HostPath.Path = "/data/kubelet/plugins/x" },
			VerdictFail, "sidecars", `gives kubelet the socket "/var/lib/kubelet/plugins/x/csi.sock"`,
		},
		"no capacity": {
			func(c *cluster) { c.csiDriver.Spec.StorageCapacity = c.csiDriver.Spec.AttachRequired },
			VerdictFail, "CSIDriver", "csi-provisioner no --enable-capacity",
		},
		"right of a sidecar": {
			func(c *cluster) { c.lacking = "patch persistentvolumeclaims/status" },
			VerdictFail, "sidecars' rights", "lacks rights of csi-resizer (patch persistentvolumeclaims/status)",
		},
		"another ServiceAccount": {
			func(c *cluster) { c.deployment.Spec.Template.Spec.ServiceAccountName = "default" },
			VerdictFail, "sidecars' rights", "csi/default lacks rights of csi-resizer (get persistentvolumeclaims/status, patch",
		},
		"right of the user": {
			func(c *cluster) { c.lacking = "get nodes/proxy" },
			VerdictWarn, "your rights", "status (get nodes/proxy)",
		},
		"other version": {
			func(c *cluster) { container(c, "csi-resizer").Image = "mirror:5000/csi-resizer:v0.9.0" },
			VerdictWarn, "sidecars", "csi-resizer v0.9.0 (the chart has v1.0.0)",
		},
		"class without expansion": {
			func(c *cluster) { *c.class.AllowVolumeExpansion = false },
			VerdictWarn, "StorageClass", "cannot grow: fast",
		},
		"no class": {
			func(c *cluster) { c.class.Provisioner = "other" }, VerdictWarn, "StorageClass", "no class has the provisioner",
		},
		"no snapshot CRDs": {func(c *cluster) { c.crds = nil }, VerdictFail, "snapshot CRDs", "lacks volumesnapshots,"},
		"part of the snapshot CRDs": {
			func(c *cluster) { c.crds = c.crds[:2] }, VerdictFail, "snapshot CRDs", "lacks volumesnapshotclasses of",
		},
		"CRDs without a snapshotter": {
			func(c *cluster) { without(&c.deployment.Spec.Template.Spec, "csi-snapshotter") },
			VerdictWarn, "snapshot CRDs", "has no csi-snapshotter",
		},
		"no nodes": {
			func(c *cluster) { c.pods = nil }, VerdictWarn, "kernel", "no node has a pod of the node plugin",
		},
		"old kernel": {
			func(c *cluster) { c.nodes[0].Status.NodeInfo.KernelVersion = "5.4.0-1" }, VerdictWarn, "kernel", "node1 (5.4.0-1)",
		},
		"requirement not met": {
			func(c *cluster) {
				c.readings.requirements = map[string]map[string]bool{
					"growvol-node-node2": {"cap_sys_resource": false, "state_dir": true},
				}
			},
			VerdictFail, "node requirements", "not met: node2 (cap_sys_resource)",
		},
		"requirements not read": {
			func(c *cluster) { c.readings.err = errors.New("the right to get pods/proxy is missing") },
			VerdictWarn, "node requirements", "not read: node1, node2: the right to get pods/proxy is missing",
		},
		"no metrics": {
			func(c *cluster) { c.daemonSet.Spec.Template.Spec.Containers[0].Ports = nil },
			VerdictWarn, "node requirements", "serves no metrics",
		},
		"slow kubelet": {
			func(c *cluster) { c.readings.syncFrequency = map[string]time.Duration{"node1": 5 * time.Minute} },
			VerdictWarn, "kubelet", "above 1m: node1 (5m0s)",
		},
		"kubelet not read": {
			func(c *cluster) { c.readings.err = errors.New("the right to get nodes/proxy is missing") },
			VerdictWarn, "kubelet", "read on 0 of 2 nodes; not read: node1, node2",
		},
		"cloud that is too old": {
			func(c *cluster) {
				apis := soundCloud()
				apis[0].Max, apis[0].Lacking = "3.41", []string{"extending a volume that is in use (needs cinder 3.42)"}
				c.readings.cloudAPIs = map[string][]CloudAPI{"growvol-controller-a": apis}
			},
			VerdictWarn, "cloud", "cinder 3.0 to 3.41, nova 2.1 to 2.93, which is too old for extending a volume that is in use",
		},
		"second cloud that is too old": {
			func(c *cluster) {
				old := CloudAPI{Cloud: "old", Service: "cinder", Lacking: []string{"extending"}}
				c.readings.cloudAPIs = map[string][]CloudAPI{"growvol-controller-a": append(soundCloud(), old)}
			},
			VerdictWarn, "cloud", "nova 2.1 to 2.93; API versions of cloud old: cinder without microversions",
		},
		"controller without a port": {
			func(c *cluster) { container(c, pluginpod.Container).Ports = nil }, VerdictUnknown, "cloud", "has no port http",
		},
		"only Cinder answers": {
			func(c *cluster) {
				c.readings.cloudAPIs = map[string][]CloudAPI{"growvol-controller-a": soundCloud()[:1]}
			},
			VerdictUnknown, "cloud", "cinder 3.0 to 3.70, nova not read by the controller",
		},
		"controller that is older than this program": {
			func(c *cluster) { c.readings.cloudAPIs = map[string][]CloudAPI{} },
			VerdictUnknown, "cloud", "do not have growvol_openstack_api_version_info",
		},
		"no pod of the controller runs": {
			func(c *cluster) {
				for _, pod := range c.controllerPods {
					pod.Status.Phase = corev1.PodPending
				}
			},
			VerdictUnknown, "cloud", "no pod runs",
		},
		"metrics do not answer": {
			func(c *cluster) { c.readings.err = errors.New("does not answer: timeout") },
			VerdictUnknown, "cloud", "does not answer: timeout",
		},
		"metrics may not be read": {
			func(c *cluster) {
				c.readings.err = volume.Errorf(volume.KindDenied, "the right to get pods/proxy is missing")
			},
			VerdictWarn, "cloud", "not checked: the right to get pods/proxy is missing",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster()
			test.change(c)
			checks := c.check(t)
			found := false
			for _, got := range checks {
				found = found || got.Name == test.check && got.Verdict == test.verdict && strings.Contains(got.Text, test.want)
			}
			if !found {
				t.Errorf("got %+v, want %s %s with %q", checks, test.verdict, test.check, test.want)
			}
			if HasFailed(checks) != (test.verdict == VerdictFail) {
				t.Errorf("got the checks %+v, want a failure only with the verdict fail", checks)
			}
		})
	}
}

// A pod that has started just now has not read the versions; another pod may know them.
func TestVersionsComeFromThePodThatKnowsMost(t *testing.T) {
	c := newCluster()
	c.readings.cloudAPIs = map[string][]CloudAPI{
		"growvol-controller-a": soundCloud()[:1], "growvol-controller-b": soundCloud(),
	}
	for _, got := range c.check(t) {
		if got.Name == "cloud" && got.Verdict != VerdictOK {
			t.Errorf("got %+v, want ok", got)
		}
	}
}

func TestChecksNameTheMissingRight(t *testing.T) {
	for resource, check := range map[string]string{
		"deployments": "installation", "daemonsets": "installation", "pods": "CSINode", "csidrivers": "CSIDriver",
		"csinodes": "CSINode", "storageclasses": "StorageClass", "nodes": "kernel",
		"subjectaccessreviews": "sidecars' rights", "selfsubjectaccessreviews": "your rights",
	} {
		c := newCluster()
		c.denied = resource
		checks := c.check(t)
		found := false
		for _, got := range checks {
			isDenied := strings.Contains(got.Text, "the right to") && strings.Contains(got.Text, resource)
			found = found || got.Name == check && got.Verdict == VerdictWarn && isDenied
		}
		if !found || HasFailed(checks) {
			t.Errorf("without the right to %s: got %+v, want a warning of %s", resource, checks, check)
		}
	}
}

func TestOptionsAreComparedByTheirMeaning(t *testing.T) {
	for _, test := range []struct {
		args, name, value string
		want              bool
	}{
		{"--a=1", "a", "1", true},
		{"--a=2", "a", "1", false},
		{"--b=1", "a", "1", false},
		{"--a", "a", "true", true},
		{"--a=true", "a", "", true},
		{"--a=false", "a", "true", false},
		{"--a=false", "a", "", false},
	} {
		c := &corev1.Container{Args: strings.Fields(test.args)}
		if got := hasOption(c, test.name, test.value); got != test.want {
			t.Errorf("%s has --%s=%s: got %t, want %t", test.args, test.name, test.value, got, test.want)
		}
	}
}
