package deploy_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// checkYAML checks that no key of a mapping is there twice, because a parser would drop one, and
// that the values that Kubernetes requires to be strings are strings. key is the key of n.
func checkYAML(t *testing.T, n *yaml.Node, key string) {
	t.Helper()
	switch n.Kind {
	case yaml.MappingNode:
		seen := map[string]bool{}
		for i := 0; i < len(n.Content); i += 2 {
			name := n.Content[i].Value
			if seen[name] {
				t.Errorf("line %d: the key %s is a duplicate", n.Content[i].Line, name)
			}
			seen[name] = true
			if slices.Contains([]string{"labels", "matchLabels", "annotations", "nodeSelector", "parameters"}, key) {
				checkString(t, n.Content[i+1], key+" "+name)
			}
			checkYAML(t, n.Content[i+1], name)
		}
	case yaml.ScalarNode:
		stringKeys := []string{
			"name", "namespace", "secretName", "args", "resourceNames", "priorityClassName", "image", "value",
		}
		if slices.Contains(stringKeys, key) {
			checkString(t, n, key)
		}
	case yaml.DocumentNode, yaml.SequenceNode:
		for _, child := range n.Content {
			checkYAML(t, child, key)
		}
	default:
		t.Errorf("line %d: got an alias, want none", n.Line)
	}
}

func checkString(t *testing.T, n *yaml.Node, what string) {
	t.Helper()
	if n.Tag != "!!str" {
		t.Errorf("line %d: %s has the value %s of the type %s, want a string", n.Line, what, n.Value, n.Tag)
	}
}

// TestValuesKeepTypesAndPrecedence uses names that look like other types, and labels and
// annotations that several values set.
func TestValuesKeepTypesAndPrecedence(t *testing.T) {
	h := newHelm(t)
	objects := h.render(t, `
backend: cinder
commonLabels: {team: a, "1": "2", release: none}
cinder: {existingSecret: "123", cloud: "yes #1", clusterID: "1e3"}
controller: {podLabels: {team: b}, priorityClassName: "", nodeSelector: {kubernetes.io/hostname: "7"}}
node: {podLabels: {team: c}}
storageClasses:
  - name: "1"
    default: true
    annotations: {storageclass.kubernetes.io/is-default-class: "false", a: "1"}
    parameters: {type: "7"}
volumeSnapshotClasses:
  - {name: "true", default: true, annotations: {snapshot.storage.kubernetes.io/is-default-class: "false"}}
volumeAttributesClasses: [{name: "null", parameters: {type: "1"}}]
rbac: {readSecrets: [{namespace: "1", names: ["2"]}, {namespace: b, names: [c]}]}
metrics:
  serviceMonitor: {enabled: true, labels: {release: prometheus}}
  dashboard: {enabled: true, labels: {team: d}}`)
	controller, node := workloads(t, objects)
	plugin := controller.Spec.Template.Spec.Containers[0]
	cloud, _ := plugin.option("cloud")
	cluster, _ := plugin.option("cluster-id")
	if cloud != "yes #1" || cluster != "1e3" {
		t.Errorf("got --cloud=%s --cluster-id=%s, want \"yes #1\" and 1e3", cloud, cluster)
	}
	monitor, _ := findObject(objects, "ServiceMonitor", "growvol-node")
	dashboard, _ := findObject(objects, "ConfigMap", "growvol-dashboard")
	for want, labels := range map[string]map[string]string{
		"a": controller.Metadata.Labels,
		"b": controller.Spec.Template.Metadata.Labels,
		"c": node.Spec.Template.Metadata.Labels,
		"d": dashboard.Metadata.Labels,
	} {
		if labels["team"] != want || labels["app.kubernetes.io/name"] != "growvol" {
			t.Errorf("got the labels %v, want team=%s and the name growvol", labels, want)
		}
	}
	if monitor.Metadata.Labels["release"] != "prometheus" {
		t.Errorf("the ServiceMonitor has the labels %v, want release=prometheus", monitor.Metadata.Labels)
	}
	for kind, name := range map[string]string{"StorageClass": "1", "VolumeSnapshotClass": "true"} {
		class, _ := findObject(objects, kind, name)
		for key, value := range class.Metadata.Annotations {
			if strings.HasSuffix(key, "/is-default-class") && value != "true" {
				t.Errorf("%s: got %s=%s, want true", kind, key, value)
			}
		}
		if len(class.Metadata.Annotations) == 0 {
			t.Errorf("%s has no annotations", kind)
		}
	}

	loop := h.render(t, `{backend: loop, loop: {nodeName: "7"}, node: {nodeSelector: {kubernetes.io/hostname: "8"}}}`)
	for _, o := range loop {
		if host := o.Spec.Template.Spec.NodeSelector["kubernetes.io/hostname"]; o.Kind == "DaemonSet" && host != "7" {
			t.Errorf("the node plugin runs on the node %q, want 7", host)
		}
	}
}

// TestBothBackendsFitInOneCluster checks that the objects of both backends, in one namespace or
// from the manifests, have different names and select different pods.
func TestBothBackendsFitInOneCluster(t *testing.T) {
	h := newHelm(t)
	release := func(name, values string) []object {
		out, err := h.templateRelease(t, name, values)
		if err != nil {
			t.Fatal(errorOutput(err))
		}
		return parseObjects(t, out)
	}
	const more = `, rbac: {readSecrets: [{namespace: apps, names: [luks]}]}, node: {startupTaint: {enabled: true}},
metrics: {serviceMonitor: {enabled: true}, prometheusRule: {enabled: true}, dashboard: {enabled: true}},
networkPolicy: {enabled: true}}`
	for name, pair := range map[string][2][]object{
		"helm": {
			release("growvol", `{cinder: {cloudsYAML: "clouds: {}"}`+more),
			release("growvol-loop", `{backend: loop`+more),
		},
		"manifests": {
			readObjects(t, "deploy/kubernetes/cinder/growvol.yaml"),
			readObjects(t, "deploy/kubernetes/loop/growvol.yaml"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			checkNames(t, slices.Concat(pair[0], pair[1]))
			one, oneNode := workloads(t, pair[0])
			two, twoNode := workloads(t, pair[1])
			for _, o := range pair[0] {
				labels := podSelector(t, o)
				for _, pod := range []object{two, twoNode} {
					if labels != nil && selects(labels, pod.Spec.Template.Metadata.Labels) {
						t.Errorf("%s %s selects pods of the other backend", o.Kind, o.Metadata.Name)
					}
				}
			}
			if one.Metadata.Name == two.Metadata.Name {
				t.Errorf("both controllers have the name %s", one.Metadata.Name)
			}
			socket := hostPaths(oneNode.Spec.Template.Spec)["socket"]
			if socket == hostPaths(twoNode.Spec.Template.Spec)["socket"] {
				t.Errorf("both node plugins have their socket in %s", socket)
			}
		})
	}
}

// podSelector returns the labels by which an object selects pods, or nil if it selects none.
func podSelector(t *testing.T, o object) map[string]string {
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

// selects reports whether a selector with these labels selects a pod.
func selects(labels, pod map[string]string) bool {
	return !slices.ContainsFunc(slices.Collect(maps.Keys(labels)), func(key string) bool {
		return pod[key] != labels[key]
	})
}

// checkNames checks that no two objects of a kind and namespace have the same name.
func checkNames(t *testing.T, objects []object) {
	t.Helper()
	seen := map[string]bool{}
	for _, o := range objects {
		id := o.Kind + " " + o.Metadata.Namespace + "/" + o.Metadata.Name
		if seen[id] {
			t.Errorf("two objects are %s", id)
		}
		seen[id] = true
	}
}
