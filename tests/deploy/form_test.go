package deploy_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// checkForm: no key is there twice, of which one would be lost; and what
// Kubernetes wants to be a string is one, whatever it looks like.
func checkForm(t *testing.T, n *yaml.Node, key string) {
	t.Helper()
	switch n.Kind {
	case yaml.MappingNode:
		seen := map[string]bool{}
		for i := 0; i < len(n.Content); i += 2 {
			name := n.Content[i].Value
			if seen[name] {
				t.Errorf("line %d: the key %s is there twice", n.Content[i].Line, name)
			}
			seen[name] = true
			if labels := slices.Contains([]string{"labels", "matchLabels", "annotations", "nodeSelector", "parameters"}, key); labels {
				checkString(t, n.Content[i+1], key+" "+name)
			}
			checkForm(t, n.Content[i+1], name)
		}
	case yaml.ScalarNode:
		if slices.Contains([]string{"name", "namespace", "secretName", "args", "resourceNames", "priorityClassName", "image", "value"}, key) {
			checkString(t, n, key)
		}
	case yaml.DocumentNode, yaml.SequenceNode:
		for _, child := range n.Content {
			checkForm(t, child, key)
		}
	default:
		t.Errorf("line %d: an alias", n.Line)
	}
}

func checkString(t *testing.T, n *yaml.Node, what string) {
	t.Helper()
	if n.Tag != "!!str" {
		t.Errorf("line %d: %s is %s %s, not a string", n.Line, what, n.Tag, n.Value)
	}
}

// Names that look like something else, and labels and annotations that several
// values give.
func TestOddValues(t *testing.T) {
	h := newHelm(t)
	objects := h.render(t, `
backend: cinder
commonLabels: {team: a, "1": "2", release: none}
cinder: {existingSecret: "123", cloud: "yes #1", clusterID: "1e3"}
controller: {podLabels: {team: b}, priorityClassName: "", nodeSelector: {kubernetes.io/hostname: "7"}}
node: {podLabels: {team: c}}
storageClasses: [{name: "1", default: true, annotations: {storageclass.kubernetes.io/is-default-class: "false", a: "1"}, parameters: {type: "7"}}]
volumeSnapshotClasses: [{name: "true", default: true, annotations: {snapshot.storage.kubernetes.io/is-default-class: "false"}}]
volumeAttributesClasses: [{name: "null", parameters: {type: "1"}}]
rbac: {readSecrets: [{namespace: "1", names: ["2"]}, {namespace: b, names: [c]}]}
metrics: {serviceMonitor: {enabled: true, labels: {release: prometheus}}, dashboard: {enabled: true, labels: {team: d}}}`)
	controller, node := workloads(t, objects)
	plugin := controller.Spec.Template.Spec.Containers[0]
	cloud, _ := plugin.option("cloud")
	cluster, _ := plugin.option("cluster-id")
	if cloud != "yes #1" || cluster != "1e3" {
		t.Errorf("--cloud=%s --cluster-id=%s", cloud, cluster)
	}
	monitor, _ := find(objects, "ServiceMonitor", "growvol-node")
	dashboard, _ := find(objects, "ConfigMap", "growvol-dashboard")
	for want, labels := range map[string]map[string]string{
		"a": controller.Metadata.Labels, "b": controller.Spec.Template.Metadata.Labels, "c": node.Spec.Template.Metadata.Labels, "d": dashboard.Metadata.Labels,
	} {
		if labels["team"] != want || labels["app.kubernetes.io/name"] != "growvol" {
			t.Errorf("%v, want team: %s", labels, want)
		}
	}
	if monitor.Metadata.Labels["release"] != "prometheus" {
		t.Errorf("the ServiceMonitor has %v", monitor.Metadata.Labels)
	}
	for kind, name := range map[string]string{"StorageClass": "1", "VolumeSnapshotClass": "true"} {
		class, _ := find(objects, kind, name)
		for key, value := range class.Metadata.Annotations {
			if strings.HasSuffix(key, "/is-default-class") && value != "true" {
				t.Errorf("%s: %s is %s", kind, key, value)
			}
		}
		if len(class.Metadata.Annotations) == 0 {
			t.Errorf("%s has no annotation", kind)
		}
	}

	loop := h.render(t, `{backend: loop, loop: {nodeName: "7"}, node: {nodeSelector: {kubernetes.io/hostname: "8"}}}`)
	for _, o := range loop {
		if place := o.Spec.Template.Spec.NodeSelector["kubernetes.io/hostname"]; o.Kind == "DaemonSet" && place != "7" {
			t.Errorf("the node plugin runs on %s", place)
		}
	}
}

// A cluster can have both backends, by Helm in one namespace and by the
// manifests: no object, and no pod, is of both.
func TestSideBySide(t *testing.T) {
	h := newHelm(t)
	release := func(name, values string) []object {
		out, err := h.run(t, values, "template", name, "deploy/charts/growvol", "--namespace=storage", kubeVersion, "--values=-")
		if err != nil {
			t.Fatal(stderrOf(err))
		}
		return parse(t, out)
	}
	const more = `, rbac: {readSecrets: [{namespace: apps, names: [luks]}]}, node: {startupTaint: {enabled: true}},
metrics: {serviceMonitor: {enabled: true}, prometheusRule: {enabled: true}, dashboard: {enabled: true}}, networkPolicy: {enabled: true}}`
	for name, pair := range map[string][2][]object{
		"helm":      {release("growvol", `{cinder: {cloudsYAML: "clouds: {}"}`+more), release("growvol-loop", `{backend: loop`+more)},
		"manifests": {read(t, "deploy/kubernetes/cinder/growvol.yaml"), read(t, "deploy/kubernetes/loop/growvol.yaml")},
	} {
		t.Run(name, func(t *testing.T) {
			theirs := map[string]bool{}
			for _, o := range pair[0] {
				theirs[o.Kind+" "+o.Metadata.Namespace+"/"+o.Metadata.Name] = true
			}
			for _, o := range pair[1] {
				if id := o.Kind + " " + o.Metadata.Namespace + "/" + o.Metadata.Name; theirs[id] {
					t.Errorf("both have the %s", id)
				}
			}
			one, oneNode := workloads(t, pair[0])
			two, twoNode := workloads(t, pair[1])
			for _, o := range pair[0] {
				labels := selector(t, o)
				for _, pod := range []object{two, twoNode} {
					if labels != nil && selects(labels, pod.Spec.Template.Metadata.Labels) {
						t.Errorf("%s %s selects the other's pods", o.Kind, o.Metadata.Name)
					}
				}
			}
			if one.Metadata.Name == two.Metadata.Name || paths(oneNode.Spec.Template.Spec)["socket"] == paths(twoNode.Spec.Template.Spec)["socket"] {
				t.Error("the sockets are one")
			}
		})
	}
}

// selector returns the labels by which an object selects pods; nil: none.
func selector(t *testing.T, o object) map[string]string {
	t.Helper()
	var labels map[string]string
	var match struct {
		MatchLabels map[string]string `yaml:"matchLabels"`
	}
	switch o.Kind {
	case "Service":
		if err := o.Spec.Selector.Decode(&labels); err != nil {
			t.Fatal(err)
		}
	case "Deployment", "DaemonSet", "PodDisruptionBudget":
		if err := o.Spec.Selector.Decode(&match); err != nil {
			t.Fatal(err)
		}
		labels = match.MatchLabels
	}
	return labels
}

func selects(labels, pod map[string]string) bool {
	return !slices.ContainsFunc(slices.Collect(maps.Keys(labels)), func(key string) bool { return pod[key] != labels[key] })
}

// No two objects have one name.
func checkNames(t *testing.T, objects []object) {
	t.Helper()
	seen := map[string]bool{}
	for _, o := range objects {
		id := o.Kind + " " + o.Metadata.Namespace + "/" + o.Metadata.Name
		if seen[id] {
			t.Errorf("%s is there twice", id)
		}
		seen[id] = true
	}
}
