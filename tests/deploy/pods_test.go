package deploy_test

import (
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/csiserver"
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

// checkPod looks at the pod of a workload as a whole.
func checkPod(t *testing.T, objects []object, o object) {
	t.Helper()
	pod := o.Spec.Template.Spec
	if _, found := find(objects, "ServiceAccount", pod.ServiceAccountName); !found {
		t.Errorf("%s: there is no ServiceAccount %s", o.Kind, pod.ServiceAccountName)
	}
	if pod.HostPID || pod.SecurityContext.SeccompProfile.Type != "RuntimeDefault" || !strings.HasPrefix(pod.PriorityClassName, "system-") {
		t.Errorf("%s: %+v", o.Kind, pod)
	}
	if own := pod.HostUsers != nil && !*pod.HostUsers; own && (pod.HostNetwork || o.Kind == "DaemonSet") {
		t.Errorf("%s: the pods have a user namespace of their own, and need the node's", o.Kind)
	}
	checkVolumes(t, pod)
	checkPorts(t, pod)
	checkProbes(t, o.Kind, pod.Containers[0])
	checkGrace(t, o.Kind, pod)
	for _, c := range pod.Containers {
		checkRights(t, o.Kind, c)
	}
}

// Kubernetes kills a pod later than its plugin has ended: with what it lets go
// on, and the cancellation of that.
func checkGrace(t *testing.T, kind string, pod podSpec) {
	t.Helper()
	grace := csiserver.DefaultGrace
	if text, given := pod.Containers[0].option("grace"); given {
		t.Errorf("%s: --grace=%s is given; the default is what the pod's grace period is made for", kind, text)
	}
	if left := time.Duration(pod.GraceSeconds)*time.Second - grace - csiserver.KillTimeout; left < time.Second {
		t.Errorf("%s: terminationGracePeriodSeconds is %d; the plugin may take %s and %s", kind, pod.GraceSeconds, grace, csiserver.KillTimeout)
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

// The controller is not restarted for what is outside of it, such as an outage of
// Keystone. The node plugin is: its mounts show what the host has changed only after a
// restart.
func checkProbes(t *testing.T, kind string, plugin container) {
	t.Helper()
	health, alive := [2]string{"/healthz", "healthz"}, [2]string{"/healthz", "healthz"}
	ready := [2]string{}
	if kind == "Deployment" {
		alive, ready = [2]string{"/livez", "http"}, health
		if at, _ := plugin.option("http-endpoint"); !slices.ContainsFunc(plugin.Ports, func(p port) bool {
			return p.Name == "http" && at == ":"+strconv.Itoa(p.Number)
		}) {
			t.Errorf("%s: /livez is at %q, and the ports are %v", kind, at, plugin.Ports)
		}
	}
	for name, p := range map[string]struct {
		probe probe
		want  [2]string
	}{"startup": {plugin.StartupProbe, alive}, "liveness": {plugin.LivenessProbe, alive}, "readiness": {plugin.ReadinessProbe, ready}} {
		if got := [2]string{p.probe.HTTPGet.Path, p.probe.HTTPGet.Port}; got != p.want {
			t.Errorf("%s: the %s probe asks %v, want %v", kind, name, got, p.want)
		}
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
		labels := selector(t, o)
		if labels == nil {
			continue
		}
		var selected []string
		for _, pod := range pods {
			if has := pod.Spec.Template.Metadata.Labels; selects(labels, has) {
				selected = append(selected, has["app.kubernetes.io/component"])
			}
		}
		component := o.Metadata.Labels["app.kubernetes.io/component"]
		if len(labels) < 3 || !slices.Equal(selected, []string{component}) || !strings.Contains(o.Metadata.Name, component) {
			t.Errorf("%s %s selects %v with %v", o.Kind, o.Metadata.Name, selected, labels)
		}
	}
}

// checkMetrics: Services are of ports that the pods have, and Prometheus reads
// each of those ports.
func checkMetrics(t *testing.T, objects []object, pods ...object) {
	t.Helper()
	for i, component := range []string{"controller", "node"} {
		has := map[string]bool{}
		for _, c := range pods[i].Spec.Template.Spec.Containers {
			for _, p := range c.Ports {
				has[p.Name] = true
			}
		}
		service, found := find(objects, "Service", "storage-"+component+"-metrics")
		monitor, monitored := find(objects, "ServiceMonitor", "storage-"+component)
		var ports, read []string
		for _, p := range service.Spec.Ports {
			if ports = append(ports, p.Name); !has[p.TargetPort] {
				t.Errorf("the Service of the %s has the port %s, which its pods have not", component, p.TargetPort)
			}
		}
		for _, e := range monitor.Spec.Endpoints {
			if read = append(read, e.Port); !e.HonorLabels {
				t.Errorf("%s: Prometheus replaces labels of %s by its own, such as service", component, e.Port)
			}
		}
		slices.Sort(ports)
		slices.Sort(read)
		if !found || !monitored || len(ports) == 0 || !slices.Equal(ports, read) {
			t.Errorf("%s: the Service has %v, Prometheus reads %v", component, ports, read)
		}
	}
}

// paths returns the host's directories in a pod, by the name of the volume.
func paths(pod podSpec) map[string]string {
	all := map[string]string{}
	for _, v := range pod.Volumes {
		if v.HostPath.Path != "" {
			all[v.Name] = v.HostPath.Path
		}
	}
	return all
}

// The controller of loop has its volumes alone of the host; the node plugin
// sees them at the same path and under the same name.
func checkLoop(t *testing.T, name string, controller, node object) {
	t.Helper()
	pod := controller.Spec.Template.Spec
	dir, _ := pod.Containers[0].option("loop-dir")
	if controller.Spec.Replicas != 1 || pod.HostNetwork || !slices.Equal(slices.Collect(maps.Values(paths(pod))), []string{dir}) || dir == "" {
		t.Errorf("%d replicas with %v of the host, --loop-dir=%s", controller.Spec.Replicas, paths(pod), dir)
	}
	for _, o := range []object{controller, node} {
		plugin := o.Spec.Template.Spec.Containers[0]
		its, _ := plugin.option("loop-dir")
		id, _ := plugin.option("node-id")
		if its != dir || id != "$(NODE_NAME)" || !slices.ContainsFunc(plugin.VolumeMounts, func(m mount) bool { return m.MountPath == dir }) {
			t.Errorf("%s: --loop-dir=%s --node-id=%s, mounts %v", o.Kind, its, id, plugin.VolumeMounts)
		}
		if place := o.Spec.Template.Spec.NodeSelector["kubernetes.io/hostname"]; (place == "node-7") != (name == "loop on a node") {
			t.Errorf("%s: runs on the node %q", o.Kind, place)
		}
	}
}

// The controller of Cinder has nothing of the host, and the Secret that its
// options name; the node plugin has none.
func checkCinder(t *testing.T, name string, objects []object, controller, node object) {
	t.Helper()
	pod := controller.Spec.Template.Spec
	if len(paths(pod)) > 0 || pod.HostNetwork || !pod.SecurityContext.RunAsNonRoot {
		t.Errorf("the controller has %v of the host; it must not be root: %+v", paths(pod), pod.SecurityContext)
	}
	want := struct {
		secret, yaml, conf string
		keys               []string
	}{"clouds", "/etc/openstack/clouds.yaml", "", nil}
	switch name {
	case "cinder-csi's Secret":
		want.secret, want.yaml, want.conf = "cloud-config", "", "/etc/openstack/cloud.conf"
	case "cinder with its Secret":
		want.secret, want.conf, want.keys = "growvol-clouds", "/etc/openstack/cloud.conf", []string{"cloud.conf", "clouds.yaml"}
	}
	yaml, _ := pod.Containers[0].option("clouds-yaml")
	conf, _ := pod.Containers[0].option("cloud-config")
	if yaml != want.yaml || conf != want.conf {
		t.Errorf("--clouds-yaml=%s --cloud-config=%s", yaml, conf)
	}
	if !slices.ContainsFunc(pod.Volumes, func(v podVolume) bool { return v.Secret.SecretName == want.secret }) {
		t.Errorf("no volume is of the Secret %s: %+v", want.secret, pod.Volumes)
	}
	secret, found := find(objects, "Secret", want.secret)
	if found != (want.keys != nil) || !slices.Equal(slices.Sorted(maps.Keys(secret.Data)), want.keys) {
		t.Errorf("Secret with %v, want %v", slices.Sorted(maps.Keys(secret.Data)), want.keys)
	}
	for _, v := range node.Spec.Template.Spec.Volumes {
		if v.Secret.SecretName != "" {
			t.Errorf("the node plugin has the Secret %s", v.Secret.SecretName)
		}
	}
}

// kubelet finds the plugin's socket where the registrar says it is, and sees
// what the plugin mounts; the plugin checks that, and what it may.
func checkKubelet(t *testing.T, name string, node object) {
	t.Helper()
	pod := node.Spec.Template.Spec
	kubelet := "/var/lib/kubelet"
	if name == "everything" {
		kubelet = "/data/kubelet"
	}
	at := paths(pod)
	socket, _ := pod.Containers[1].option("kubelet-registration-path")
	if want := filepath.Join(kubelet, "plugins", driverOf(name), "csi.sock"); socket != want || filepath.Dir(want) != at["socket"] {
		t.Errorf("the registrar says %s, the socket is in %s, want %s", socket, at["socket"], want)
	}
	checked, _ := pod.Containers[0].option("kubelet-dir")
	required, _ := pod.Containers[0].option("require-sys-resource")
	if checked != kubelet || required != strconv.FormatBool(name != "everything") {
		t.Errorf("--kubelet-dir=%s --require-sys-resource=%s, want the directory %s", checked, required, kubelet)
	}
	if must, _ := pod.Containers[0].option("require-shared-mounts"); must != "true" {
		t.Errorf("--require-shared-mounts=%s, want true, whatever the image's filesystem is", must)
	}
	shared := slices.ContainsFunc(pod.Containers[0].VolumeMounts, func(m mount) bool {
		return m.MountPath == kubelet && m.Propagation == "Bidirectional"
	})
	if !shared || at["kubelet"] != kubelet || at["registration"] != kubelet+"/plugins_registry" || at["dev"] != "/dev" {
		t.Errorf("mounts are shared: %v; paths %v", shared, at)
	}
}
