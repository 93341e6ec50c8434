package deploy_test

import (
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/cgroup"
	"github.com/growvol/growvol/pkg/csiserver"
)

// workloads returns the Deployment of the controller and the DaemonSet of the node plugin.
func workloads(t *testing.T, objects []object) (controller, node object) {
	t.Helper()
	for _, o := range objects {
		switch component := o.Metadata.Labels["app.kubernetes.io/component"]; {
		case o.Kind == "Deployment" && component == "controller":
			controller = o
		case o.Kind == "DaemonSet":
			node = o
		}
	}
	inController, inNode := controller.Spec.Template.Spec.Containers, node.Spec.Template.Spec.Containers
	isAddons := func(c container) bool { return c.Name == "csi-addons" }
	hasAddons := slices.ContainsFunc(inController, isAddons)
	if hasAddons {
		inNode = slices.DeleteFunc(slices.Clone(inNode), isAddons)
	}
	if len(inController) < 5 || len(inNode) != 3 {
		t.Fatalf("got %d containers in the controller and %d in the node plugin (csi-addons in both: %t), "+
			"want at least 5 and 3", len(inController), len(inNode), hasAddons)
	}
	return controller, node
}

// checkPod checks the pod of a workload.
func checkPod(t *testing.T, objects []object, o object) {
	t.Helper()
	pod := o.Spec.Template.Spec
	if _, found := findObject(objects, "ServiceAccount", pod.ServiceAccountName); !found {
		t.Errorf("%s: the ServiceAccount %s does not exist", o.Kind, pod.ServiceAccountName)
	}
	seccomp := pod.SecurityContext.SeccompProfile.Type
	if pod.HostPID || seccomp != "RuntimeDefault" || !strings.HasPrefix(pod.PriorityClassName, "system-") {
		t.Errorf("%s: got hostPID %t, seccomp %q, priority %q; want false, RuntimeDefault, system-…",
			o.Kind, pod.HostPID, seccomp, pod.PriorityClassName)
	}
	if own := pod.HostUsers != nil && !*pod.HostUsers; own && (pod.HostNetwork || o.Kind == "DaemonSet") {
		t.Errorf("%s: the pods have their own user namespace, but need that of the node", o.Kind)
	}
	checkVolumes(t, pod)
	checkPorts(t, pod, 3)
	checkProbes(t, o.Kind, pod.Containers[0])
	checkGracePeriod(t, o.Kind, pod)
	for _, c := range pod.Containers {
		checkSecurityContext(t, o.Kind, c)
	}
}

// checkGracePeriod checks that Kubernetes kills a pod later than its plugin ends, which lets
// running calls finish and then cancels them.
func checkGracePeriod(t *testing.T, kind string, pod podSpec) {
	t.Helper()
	grace := csiserver.DefaultGrace
	if text, given := pod.Containers[0].option("grace"); given {
		t.Errorf("%s: got --grace=%s, want the default, to which the grace period of the pod belongs", kind, text)
	}
	if left := time.Duration(pod.GraceSeconds)*time.Second - grace - csiserver.KillTimeout; left < time.Second {
		t.Errorf("%s: terminationGracePeriodSeconds is %d, but the plugin may take %s and %s",
			kind, pod.GraceSeconds, grace, csiserver.KillTimeout)
	}
}

// checkVolumes checks that every volume is mounted and every mount has a volume.
func checkVolumes(t *testing.T, pod podSpec) {
	t.Helper()
	volumes, mounts := map[string]bool{}, map[string]bool{}
	for _, v := range pod.Volumes {
		volumes[v.Name] = true
	}
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		for _, m := range c.VolumeMounts {
			mounts[m.Name] = true
		}
	}
	if !maps.Equal(volumes, mounts) {
		t.Errorf("got the volumes %v, but the mounts %v", slices.Sorted(maps.Keys(volumes)), slices.Sorted(maps.Keys(mounts)))
	}
}

// checkProbes checks which probes ask what. Kubernetes must not restart the controller for a cause
// outside of it, such as an outage of Keystone. It must restart the node plugin, whose mounts show
// changes of the host only after a restart.
func checkProbes(t *testing.T, kind string, plugin container) {
	t.Helper()
	health, alive := [2]string{"/healthz", "healthz"}, [2]string{"/healthz", "healthz"}
	ready := [2]string{}
	if kind == "Deployment" {
		alive, ready = [2]string{"/livez", "http"}, health
		if at, _ := plugin.option("http-endpoint"); !slices.ContainsFunc(plugin.Ports, func(p port) bool {
			return p.Name == "http" && at == ":"+strconv.Itoa(p.Number)
		}) {
			t.Errorf("%s: /livez is at %q, but the ports are %v", kind, at, plugin.Ports)
		}
	}
	for name, p := range map[string]struct {
		probe probe
		want  [2]string
	}{
		"startup":   {plugin.StartupProbe, alive},
		"liveness":  {plugin.LivenessProbe, alive},
		"readiness": {plugin.ReadinessProbe, ready},
	} {
		if got := [2]string{p.probe.HTTPGet.Path, p.probe.HTTPGet.Port}; got != p.want {
			t.Errorf("%s: the %s probe requests %v, want %v", kind, name, got, p.want)
		}
	}
}

// checkPorts checks that no two containers listen on the same port, and that every probed port
// exists.
func checkPorts(t *testing.T, pod podSpec, minProbes int) {
	t.Helper()
	names, numbers := map[string]bool{}, map[int]bool{}
	for _, c := range pod.Containers {
		for _, p := range c.Ports {
			if names[p.Name] || numbers[p.Number] {
				t.Errorf("two containers have the port %s or %d", p.Name, p.Number)
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
				t.Errorf("%s is probed at the port %s, which no container has", c.Name, p.HTTPGet.Port)
			}
		}
	}
	if probes < minProbes {
		t.Errorf("got %d probes, want at least %d", probes, minProbes)
	}
}

// checkSecurityContext checks that only the node plugin is privileged.
func checkSecurityContext(t *testing.T, kind string, c container) {
	t.Helper()
	s := c.SecurityContext
	if !s.ReadOnlyRootFilesystem {
		t.Errorf("%s %s may write to its root filesystem", kind, c.Name)
	}
	if kind == "DaemonSet" && c.Name == "growvol" {
		if !s.Privileged {
			t.Error("the node plugin is not privileged, so its mounts would not reach the host")
		}
		return
	}
	escalates := s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation
	if s.Privileged || escalates || !slices.Equal(s.Capabilities.Drop, []string{"ALL"}) {
		t.Errorf("%s %s has privileges: %+v", kind, c.Name, s)
	}
}

// checkSelectors checks that every selector selects the pods of one component.
func checkSelectors(t *testing.T, objects []object, pods ...object) {
	t.Helper()
	for _, o := range objects {
		labels := podSelector(t, o)
		if labels == nil {
			continue
		}
		var selected []string
		for _, pod := range pods {
			if podLabels := pod.Spec.Template.Metadata.Labels; selects(labels, podLabels) {
				selected = append(selected, podLabels["app.kubernetes.io/component"])
			}
		}
		component := o.Metadata.Labels["app.kubernetes.io/component"]
		if len(labels) < 3 || !slices.Equal(selected, []string{component}) || !strings.Contains(o.Metadata.Name, component) {
			t.Errorf("%s %s selects the components %v with %v", o.Kind, o.Metadata.Name, selected, labels)
		}
	}
}

// checkMetrics checks that the ports of the Services exist in the pods, and that Prometheus reads
// each of these ports.
func checkMetrics(t *testing.T, objects []object, pods ...object) {
	t.Helper()
	for i, component := range []string{"controller", "node"} {
		podPorts := map[string]bool{}
		for _, c := range pods[i].Spec.Template.Spec.Containers {
			for _, p := range c.Ports {
				podPorts[p.Name] = true
			}
		}
		service, found := findObject(objects, "Service", "storage-"+component+"-metrics")
		monitor, monitored := findObject(objects, "ServiceMonitor", "storage-"+component)
		var ports, read []string
		for _, p := range service.Spec.Ports {
			if ports = append(ports, p.Name); !podPorts[p.TargetPort] {
				t.Errorf("the Service of the %s has the port %s, which its pods do not have", component, p.TargetPort)
			}
		}
		for _, e := range monitor.Spec.Endpoints {
			if read = append(read, e.Port); !e.HonorLabels {
				t.Errorf("%s: honorLabels of %s is false, so Prometheus would replace labels such as service", component, e.Port)
			}
		}
		slices.Sort(ports)
		slices.Sort(read)
		if !found || !monitored || len(ports) == 0 || !slices.Equal(ports, read) {
			t.Errorf("%s: the Service has the ports %v, but Prometheus reads %v", component, ports, read)
		}
	}
}

// hostPaths returns the directories of the host in a pod, by the name of the volume.
func hostPaths(pod podSpec) map[string]string {
	all := map[string]string{}
	for _, v := range pod.Volumes {
		if v.HostPath.Path != "" {
			all[v.Name] = v.HostPath.Path
		}
	}
	return all
}

// checkLoop checks that the controller of the loop backend has only the volumes' directory of the
// host, and that the node plugin has it with the same path and the same node ID.
func checkLoop(t *testing.T, name string, controller, node object) {
	t.Helper()
	pod := controller.Spec.Template.Spec
	dir, _ := pod.Containers[0].option("loop-dir")
	fromHost := slices.Collect(maps.Values(hostPaths(pod)))
	if controller.Spec.Replicas != 1 || pod.HostNetwork || dir == "" || !slices.Equal(fromHost, []string{dir}) {
		t.Errorf("got %d replicas with the host's %v and --loop-dir=%s", controller.Spec.Replicas, fromHost, dir)
	}
	for _, o := range []object{controller, node} {
		plugin := o.Spec.Template.Spec.Containers[0]
		loopDir, _ := plugin.option("loop-dir")
		id, _ := plugin.option("node-id")
		isMounted := slices.ContainsFunc(plugin.VolumeMounts, func(m mount) bool { return m.MountPath == dir })
		if loopDir != dir || id != "$(NODE_NAME)" || !isMounted {
			t.Errorf("%s: got --loop-dir=%s --node-id=%s and the mounts %v", o.Kind, loopDir, id, plugin.VolumeMounts)
		}
		host := o.Spec.Template.Spec.NodeSelector["kubernetes.io/hostname"]
		if (host == "node-7") != (name == "loop on a node") {
			t.Errorf("%s: runs on the node %q", o.Kind, host)
		}
	}
}

// checkCinder checks that the controller of the Cinder backend has nothing of the host, but the
// Secret that its options name, and that the node plugin has no Secret.
func checkCinder(t *testing.T, name string, objects []object, controller, node object) {
	t.Helper()
	pod := controller.Spec.Template.Spec
	if len(hostPaths(pod)) > 0 || pod.HostNetwork || !pod.SecurityContext.RunAsNonRoot {
		t.Errorf("the controller: got the host's %v and %+v, want nothing of the host and no root",
			hostPaths(pod), pod.SecurityContext)
	}
	want := struct {
		secret, yaml, conf string
		keys               []string
	}{"clouds", "/etc/openstack/clouds.yaml", "", nil}
	switch name {
	case "cinder-csi's Secret":
		want.secret, want.yaml, want.conf = "cloud-config", "", "/etc/openstack/cloud.conf"
	case "cinder with its Secret":
		want.secret, want.conf = "growvol-clouds", "/etc/openstack/cloud.conf"
		want.keys = []string{"cloud.conf", "clouds.yaml"}
	}
	yaml, _ := pod.Containers[0].option("clouds-yaml")
	conf, _ := pod.Containers[0].option("cloud-config")
	if yaml != want.yaml || conf != want.conf {
		t.Errorf("got --clouds-yaml=%s --cloud-config=%s, want %s and %s", yaml, conf, want.yaml, want.conf)
	}
	hasSecret := func(v podVolume) bool { return v.Secret.SecretName == want.secret }
	if !slices.ContainsFunc(pod.Volumes, hasSecret) {
		t.Errorf("no volume has the Secret %s: %+v", want.secret, pod.Volumes)
	}
	secret, found := findObject(objects, "Secret", want.secret)
	if found != (want.keys != nil) || !slices.Equal(slices.Sorted(maps.Keys(secret.Data)), want.keys) {
		t.Errorf("the Secret has the keys %v, want %v", slices.Sorted(maps.Keys(secret.Data)), want.keys)
	}
	for _, v := range node.Spec.Template.Spec.Volumes {
		if v.Secret.SecretName != "" {
			t.Errorf("the node plugin has the Secret %s", v.Secret.SecretName)
		}
	}
}

// checkCeph checks that both plugins have the clusters and the keys where their options say, each
// its own keys; that the controller has nothing of the host; and that the node plugin uses the
// host's network, in which the kernel's connections to Ceph stay.
func checkCeph(t *testing.T, name string, objects []object, controller, node object) {
	t.Helper()
	pod := controller.Spec.Template.Spec
	if len(hostPaths(pod)) > 0 || pod.HostNetwork || !pod.SecurityContext.RunAsNonRoot {
		t.Errorf("the controller: got the host's %v and %+v, want nothing of the host and no root",
			hostPaths(pod), pod.SecurityContext)
	}
	if !node.Spec.Template.Spec.HostNetwork {
		t.Error("the node plugin does not use the host's network")
	}
	checkCgroups(t, node)
	hasClusters := name == "rbd with its clusters"
	configMap, want := "clusters", map[string][]string{"Deployment": {"keys"}, "DaemonSet": {"keys"}}
	if hasClusters {
		configMap = "growvol-ceph"
		want = map[string][]string{
			"Deployment": {"keys", "keys-b b/userID b/userKey"},
			"DaemonSet":  {"keys-of-nodes", "keys-b-of-nodes b/userID b/userKey"},
		}
	}
	made, found := findObject(objects, "ConfigMap", "growvol-ceph")
	if found != hasClusters || found && !strings.Contains(made.Data["config.json"], `"clusterID":"b"`) {
		t.Errorf("the ConfigMap: got found %t with %v, want %t", found, made.Data, hasClusters)
	}
	for _, o := range []object{controller, node} {
		pod := o.Spec.Template.Spec
		config, _ := pod.Containers[0].option("ceph-config")
		keys, _ := pod.Containers[0].option("ceph-keys")
		for volume, path := range map[string]string{"clusters": filepath.Dir(config), "keys": keys} {
			if !slices.ContainsFunc(pod.Containers[0].VolumeMounts, func(m mount) bool {
				return m.Name == volume && m.MountPath == path
			}) {
				t.Errorf("%s: %s is not mounted at %s", o.Kind, volume, path)
			}
		}
		var secrets []string
		for _, v := range pod.Volumes {
			if v.Name == "clusters" && v.ConfigMap.Name != configMap {
				t.Errorf("%s: got the ConfigMap %s, want %s", o.Kind, v.ConfigMap.Name, configMap)
			}
			for _, source := range v.Projected.Sources {
				text := source.Secret.Name
				for _, item := range source.Secret.Items {
					text += " " + item.Path
				}
				if v.Name == "keys" {
					secrets = append(secrets, text)
				}
			}
		}
		if !slices.Equal(secrets, want[o.Kind]) {
			t.Errorf("%s: got the Secrets %q, want %q", o.Kind, secrets, want[o.Kind])
		}
	}
}

// checkCgroups checks that the plugin has the control groups of the node where its option says.
func checkCgroups(t *testing.T, node object) {
	t.Helper()
	cgroups, _ := node.Spec.Template.Spec.Containers[0].option("cgroup-root")
	at := slices.ContainsFunc(node.Spec.Template.Spec.Containers[0].VolumeMounts, func(m mount) bool {
		return m.Name == "cgroup" && m.MountPath == cgroups
	})
	if from := hostPaths(node.Spec.Template.Spec)["cgroup"]; !at || from != cgroup.DefaultRoot {
		t.Errorf("the node plugin has the host's %s at --cgroup-root=%s: got %t, want %s there",
			from, cgroups, at, cgroup.DefaultRoot)
	}
}

// checkKubeletPaths checks that kubelet finds the socket where the registrar says, that kubelet
// sees the mounts of the plugin, and that the plugin checks its mounts and capabilities.
func checkKubeletPaths(t *testing.T, name string, node object) {
	t.Helper()
	pod := node.Spec.Template.Spec
	kubelet := "/var/lib/kubelet"
	if name == "everything" {
		kubelet = "/data/kubelet"
	}
	host := hostPaths(pod)
	socket, _ := pod.Containers[1].option("kubelet-registration-path")
	want := filepath.Join(kubelet, "plugins", driverName(name), "csi.sock")
	if socket != want || filepath.Dir(want) != host["socket"] {
		t.Errorf("the registrar has %s and the socket is in %s, want %s", socket, host["socket"], want)
	}
	checked, _ := pod.Containers[0].option("kubelet-dir")
	required, _ := pod.Containers[0].option("require-sys-resource")
	if checked != kubelet || required != strconv.FormatBool(name != "everything") {
		t.Errorf("got --kubelet-dir=%s --require-sys-resource=%s, want the directory %s", checked, required, kubelet)
	}
	if shared, _ := pod.Containers[0].option("require-shared-mounts"); shared != "true" {
		t.Errorf("got --require-shared-mounts=%s, want true", shared)
	}
	shared := slices.ContainsFunc(pod.Containers[0].VolumeMounts, func(m mount) bool {
		return m.MountPath == kubelet && m.Propagation == "Bidirectional"
	})
	registry := kubelet + "/plugins_registry"
	if !shared || host["kubelet"] != kubelet || host["registration"] != registry || host["dev"] != "/dev" {
		t.Errorf("got shared mounts %t and the host's directories %v", shared, host)
	}
}
