package doctor

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/growvol/growvol/pkg/pluginpod"
	"github.com/growvol/growvol/pkg/volume"
)

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
