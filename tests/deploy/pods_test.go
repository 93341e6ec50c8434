package deploy_test

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// workloads returns the controller and the node plugin's objects.
func workloads(t *testing.T, objects []object) (controller, node object) {
	t.Helper()
	for _, o := range objects {
		switch o.Kind {
		case "Deployment":
			controller = o
		case "DaemonSet":
			node = o
		}
	}
	if len(controller.Spec.Template.Spec.Containers) < 5 || len(node.Spec.Template.Spec.Containers) != 3 {
		t.Fatalf("%d containers in the controller, %d in the node plugin", len(controller.Spec.Template.Spec.Containers), len(node.Spec.Template.Spec.Containers))
	}
	return controller, node
}

// Whatever the values are: the parts of a pod fit together, and no container
// has a right that it does not need.
func TestPods(t *testing.T) {
	for name, values := range sets() {
		t.Run(name, func(t *testing.T) {
			objects := render(t, values)
			controller, node := workloads(t, objects)
			for _, o := range []object{controller, node} {
				pod := o.Spec.Template.Spec
				if _, found := find(objects, "ServiceAccount", pod.ServiceAccountName); !found {
					t.Errorf("%s: there is no ServiceAccount %s", o.Kind, pod.ServiceAccountName)
				}
				if pod.HostPID || pod.SecurityContext.SeccompProfile.Type != "RuntimeDefault" || !strings.HasPrefix(pod.PriorityClassName, "system-") {
					t.Errorf("%s: %+v", o.Kind, pod)
				}
				checkVolumes(t, pod)
				checkPorts(t, pod)
				for _, c := range pod.Containers {
					checkRights(t, o.Kind, c)
				}
			}
			checkSelectors(t, objects, controller, node)
		})
	}
}

// Every volume is mounted, and every mount has a volume.
func checkVolumes(t *testing.T, pod podSpec) {
	t.Helper()
	volumes, mounts := map[string]bool{}, map[string]bool{}
	for _, v := range pod.Volumes {
		volumes[v.Name] = true
	}
	for _, c := range pod.Containers {
		for _, m := range c.VolumeMounts {
			mounts[m.Name] = true
		}
	}
	if !maps.Equal(volumes, mounts) {
		t.Errorf("volumes %v, mounted %v", slices.Sorted(maps.Keys(volumes)), slices.Sorted(maps.Keys(mounts)))
	}
}

// No two containers listen on one port, and what is probed exists.
func checkPorts(t *testing.T, pod podSpec) {
	t.Helper()
	names, numbers := map[string]bool{}, map[int]bool{}
	for _, c := range pod.Containers {
		for _, p := range c.Ports {
			if names[p.Name] || numbers[p.Number] {
				t.Errorf("port %s %d is there twice", p.Name, p.Number)
			}
			names[p.Name], numbers[p.Number] = true, true
		}
	}
	probes := 0
	for _, c := range pod.Containers {
		for _, p := range []probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
			if p.HTTPGet.Port == "" {
				continue
			}
			if probes++; !names[p.HTTPGet.Port] {
				t.Errorf("%s is probed at port %s, which nobody has", c.Name, p.HTTPGet.Port)
			}
		}
	}
	if probes < 3 {
		t.Errorf("%d probes", probes)
	}
}

func checkRights(t *testing.T, kind string, c container) {
	t.Helper()
	s := c.SecurityContext
	if !s.ReadOnlyRootFilesystem {
		t.Errorf("%s %s may write to its image", kind, c.Name)
	}
	if kind == "DaemonSet" && c.Name == "growvol" {
		if !s.Privileged {
			t.Error("the node plugin is not privileged: its mounts would not reach the host")
		}
		return
	}
	if s.Privileged || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || !slices.Equal(s.Capabilities.Drop, []string{"ALL"}) {
		t.Errorf("%s %s has rights: %+v", kind, c.Name, s)
	}
}

// What selects pods selects those of one component.
func checkSelectors(t *testing.T, objects []object, pods ...object) {
	t.Helper()
	for _, o := range objects {
		var labels map[string]string
		var selector struct {
			MatchLabels map[string]string `yaml:"matchLabels"`
		}
		switch o.Kind {
		case "Service":
			if err := o.Spec.Selector.Decode(&labels); err != nil {
				t.Fatal(err)
			}
		case "Deployment", "DaemonSet", "PodDisruptionBudget":
			if err := o.Spec.Selector.Decode(&selector); err != nil {
				t.Fatal(err)
			}
			labels = selector.MatchLabels
		default:
			continue
		}
		var selected []string
		for _, pod := range pods {
			has := pod.Spec.Template.Metadata.Labels
			if !slices.ContainsFunc(slices.Collect(maps.Keys(labels)), func(key string) bool { return has[key] != labels[key] }) {
				selected = append(selected, has["app.kubernetes.io/component"])
			}
		}
		if len(labels) < 3 || !slices.Equal(selected, []string{o.Metadata.Labels["app.kubernetes.io/component"]}) {
			t.Errorf("%s %s selects %v with %v", o.Kind, o.Metadata.Name, selected, labels)
		}
	}
}

// The controller of Cinder has nothing of the host; that of loop its volumes
// alone, which the node plugin sees at the same path and under the same name.
func TestControllerAndHost(t *testing.T) {
	for name, values := range sets() {
		controller, node := workloads(t, render(t, values))
		pod := controller.Spec.Template.Spec
		var paths []string
		for _, v := range pod.Volumes {
			if v.HostPath.Path != "" {
				paths = append(paths, v.HostPath.Path)
			}
		}
		if pod.HostNetwork {
			t.Errorf("%s: the controller is on the host's network", name)
		}
		if !strings.HasPrefix(name, "loop") {
			if len(paths) > 0 || !pod.SecurityContext.RunAsNonRoot {
				t.Errorf("%s: the controller has %v of the host; it must not be root: %+v", name, paths, pod.SecurityContext)
			}
			continue
		}
		c, n := pod.Containers[0], node.Spec.Template.Spec.Containers[0]
		dir, _ := c.option("loop-dir")
		ofNode, _ := n.option("loop-dir")
		if controller.Spec.Replicas != 1 || !slices.Equal(paths, []string{dir}) || dir != ofNode || dir == "" {
			t.Errorf("%s: %d replicas with %v of the host, --loop-dir=%s and %s", name, controller.Spec.Replicas, paths, dir, ofNode)
		}
		for _, side := range []container{c, n} {
			if id, _ := side.option("node-id"); id != "$(NODE_NAME)" || !slices.ContainsFunc(side.VolumeMounts, func(m struct {
				Name        string `yaml:"name"`
				MountPath   string `yaml:"mountPath"`
				Propagation string `yaml:"mountPropagation"`
			},
			) bool {
				return m.MountPath == dir
			}) {
				t.Errorf("%s: %s: --node-id=%s, mounts %v", name, side.Image, id, side.VolumeMounts)
			}
		}
		if !maps.Equal(pod.NodeSelector, map[string]string{"kubernetes.io/hostname": "node-7"}) && name == "loop on a node" {
			t.Errorf("%s: the controller's node is %v", name, pod.NodeSelector)
		}
	}
}

// kubelet finds the plugin's socket where the registrar says it is, and sees
// what the plugin mounts.
func TestNodeAndKubelet(t *testing.T) {
	for name, values := range sets() {
		_, node := workloads(t, render(t, values))
		pod := node.Spec.Template.Spec
		paths := map[string]string{}
		for _, v := range pod.Volumes {
			paths[v.Name] = v.HostPath.Path
		}
		kubelet, driver := "/var/lib/kubelet", "cinder.csi.openstack.org"
		switch {
		case name == "everything":
			kubelet, driver = "/data/kubelet", "csi.example.com"
		case strings.HasPrefix(name, "loop"):
			driver = "loop.growvol.io"
		}
		socket, _ := pod.Containers[1].option("kubelet-registration-path")
		if want := filepath.Join(kubelet, "plugins", driver, "csi.sock"); socket != want || filepath.Dir(want) != paths["socket"] {
			t.Errorf("%s: the registrar says %s, the socket is in %s, want %s", name, socket, paths["socket"], want)
		}
		propagation := ""
		for _, m := range pod.Containers[0].VolumeMounts {
			if m.MountPath == kubelet {
				propagation = m.Propagation
			}
		}
		if propagation != "Bidirectional" || paths["kubelet"] != kubelet || paths["registration"] != kubelet+"/plugins_registry" || paths["dev"] != "/dev" {
			t.Errorf("%s: propagation %q, paths %v", name, propagation, paths)
		}
	}
}

// The Secret has what the options name, and the volume is that Secret.
func TestCredentials(t *testing.T) {
	for name, want := range map[string]struct {
		secret, yaml, conf string
		keys               []string
	}{
		"cinder":                 {"clouds", "/etc/openstack/clouds.yaml", "", nil},
		"cinder-csi's Secret":    {"cloud-config", "", "/etc/openstack/cloud.conf", nil},
		"cinder with its Secret": {"growvol-clouds", "/etc/openstack/clouds.yaml", "/etc/openstack/cloud.conf", []string{"cloud.conf", "clouds.yaml"}},
	} {
		objects := render(t, sets()[name])
		controller, node := workloads(t, objects)
		plugin := controller.Spec.Template.Spec.Containers[0]
		yaml, _ := plugin.option("clouds-yaml")
		conf, _ := plugin.option("cloud-config")
		if yaml != want.yaml || conf != want.conf {
			t.Errorf("%s: --clouds-yaml=%s --cloud-config=%s", name, yaml, conf)
		}
		if secret := controller.Spec.Template.Spec.Volumes[1].Secret.SecretName; secret != want.secret {
			t.Errorf("%s: the volume is of the Secret %s", name, secret)
		}
		secret, found := find(objects, "Secret", want.secret)
		if found != (want.keys != nil) || !slices.Equal(slices.Sorted(maps.Keys(secret.Data)), want.keys) {
			t.Errorf("%s: Secret %v", name, slices.Sorted(maps.Keys(secret.Data)))
		}
		for _, v := range node.Spec.Template.Spec.Volumes {
			if v.Secret.SecretName != "" {
				t.Errorf("%s: the node plugin has the Secret %s", name, v.Secret.SecretName)
			}
		}
	}
}
