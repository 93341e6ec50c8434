package deploy_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// kubeVersion is the option of Helm with the version of Kubernetes that the tests use.
const kubeVersion = "--kube-version=1.37.1"

// helm is the program Helm, in the version that .tools/helm.mod pins.
type helm struct{ program, dir string }

// newHelm builds Helm, unless the program is in Go's cache.
func newHelm(t *testing.T) helm {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute)
	defer cancel()
	h := helm{dir: moduleRoot(t)}
	cmd := exec.CommandContext(ctx, "go", "tool", "-modfile=.tools/helm.mod", "-n", "helm")
	cmd.Dir = h.dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as in the Makefile, also for tests with the race detector
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("build helm: %s", errorOutput(err))
	}
	h.program = strings.TrimSpace(string(out))
	return h
}

// run runs Helm in the module's directory with values on its standard input.
func (h helm) run(t *testing.T, values string, args ...string) (stdout []byte, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.program, args...) //nolint:gosec // a program that Go has built
	cmd.Dir, cmd.Stdin = h.dir, strings.NewReader(values)
	return cmd.Output()
}

// errorOutput returns the standard error of a program that has failed, or the text of another
// error.
func errorOutput(err error) string {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(exit.Stderr)
	}
	return err.Error()
}

// template runs `helm template` for the release growvol in the namespace storage. Further options
// replace the namespace or the version of Kubernetes.
func (h helm) template(t *testing.T, values string, options ...string) (stdout []byte, err error) {
	t.Helper()
	return h.templateRelease(t, "growvol", values, options...)
}

// templateRelease is template for a release with another name.
func (h helm) templateRelease(t *testing.T, release, values string, options ...string) (stdout []byte, err error) {
	t.Helper()
	args := []string{"template", release, "deploy/charts/growvol", "--values=-", "--namespace=storage", kubeVersion}
	return h.run(t, values, append(args, options...)...)
}

// render returns the objects that the chart makes from the values.
func (h helm) render(t *testing.T, values string) []object {
	t.Helper()
	out, err := h.template(t, values)
	if err != nil {
		t.Fatalf("helm template: %s\nwith the values\n%s", errorOutput(err), values)
	}
	return parseObjects(t, out)
}

// valueSets returns the values with which the chart is checked, by a name.
func valueSets() map[string]string {
	return map[string]string{
		"loop": `backend: loop`,
		"loop on a node": `
backend: loop
loop: {nodeName: node-7, dir: /srv/volumes, maxVolumeSize: 10Gi, poolSize: 100Gi}
controller: {leaderElection: false}`,
		"cinder": `cinder: {existingSecret: clouds}`,
		"cinder with its Secret": `
cinder:
  cloudsYAML: "clouds: {}"
  cloudConf: "[Global]"
  cloud: west
  clusterID: a
  topology: false
  ignoreVolumeAZ: true
  notifyNova: true
node: {maxVolumes: 25, reservedVolumes: 2}`,
		"cinder-csi's Secret": `cinder: {existingSecret: cloud-config, cloudsYAMLKey: "", cloudConfKey: cloud.conf}`,
		"rbd":                 `{backend: rbd, rbd: {existingConfigMap: clusters, existingSecret: keys}}`,
		"rbd with its clusters": `
backend: rbd
rbd:
  clusters: [{clusterID: a, monitors: ["10.0.0.1:6789"]}, {clusterID: b, monitors: ["10.1.0.1:6789"]}]
  existingSecret: keys
  nodeSecret: keys-of-nodes
  clusterSecrets: [{clusterID: b, secret: keys-b, nodeSecret: keys-b-of-nodes}]`,
		"rbd with all": `
backend: rbd
rbd: {existingConfigMap: clusters, existingSecret: keys, domainLabels: [zone], crushLocationLabels: [zone]}
sidecars: {snapshotMetadata: {enabled: true, tlsSecret: metadata-tls, caCert: Y2VydA==}}
volumeGroupSnapshotClasses: [{name: group, default: true, parameters: {a: b}}]
networkPolicy: {enabled: true}`,
		"everything": `
cinder: {existingSecret: clouds}
driverName: csi.example.com
fullnameOverride: storage
kubeletDir: /data/kubelet
imageRegistry: registry.example.com:5000/storage
imagePullSecrets: [{name: pull}]
commonLabels: {team: storage}
logFormat: json
logLevel: debug
controller:
  image:
    repository: mirror/growvol-controller
    digest: "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
  replicas: 3
  extraArgs: [--call-timeout=5m]
  env: [{name: HTTPS_PROXY, value: "http://proxy:3128"}]
  nodeSelector: {node-role.kubernetes.io/control-plane: ""}
  tolerations: [{operator: Exists}]
  podLabels: {a: b}
  podAnnotations: {c: d}
node:
  image: {repository: growvol-node, tag: v1}
  reservedVolumes: 2
  requireSysResource: false
  growOnDeviceChange: false
  hostNetwork: true
  extraArgs: [--zone=nova]
  stateDir: /srv/growvol
  ports: {healthz: 10808, registrar: 10809, metrics: 10810}
  startupTaint: {enabled: true}
csiDriver: {seLinuxMount: true, storageCapacity: true}
rbac: {readSecrets: [{namespace: apps, names: [luks]}]}
storageClasses:
  - {name: fast, default: true, parameters: {type: ssd}, mountOptions: [noatime]}
  - {name: old, provisioner: kubernetes.io/cinder, volumeBindingMode: Immediate, reclaimPolicy: Retain}
volumeSnapshotClasses:
  - {name: snapshot, default: true}
  - {name: backup, parameters: {type: backup}, deletionPolicy: Retain}
volumeAttributesClasses: [{name: gold, parameters: {type: ssd-gold}}]
metrics:
  serviceMonitor: {enabled: true}
  prometheusRule: {enabled: true, labels: {release: prometheus}, alertLabels: {team: storage}}
  dashboard: {enabled: true, namespace: monitoring}
networkPolicy: {enabled: true, metricsFrom: [{namespaceSelector: {}}]}`,
		"minimal": `
cinder: {existingSecret: clouds}
controller: {replicas: 1, leaderElection: false, podDisruptionBudget: {enabled: false}}
sidecars: {snapshotter: {enabled: false}}
metrics: {enabled: false}
csiDriver: {create: false}
rbac: {create: false}`,
	}
}

// TestChart renders the chart with each set of values: Helm's own checks pass, the objects match
// each other and the plugins, and no object has a right that it does not need.
func TestChart(t *testing.T) {
	h, help := newHelm(t), helpOfPlugins(t)
	for name, values := range valueSets() {
		t.Run(name, func(t *testing.T) {
			args := []string{"lint", "--strict", "--quiet", kubeVersion, "--values=-", "deploy/charts/growvol"}
			if _, err := h.run(t, values, args...); err != nil {
				t.Errorf("helm lint: %s", errorOutput(err))
			}
			objects := h.render(t, values)
			controller, node := workloads(t, objects)
			for _, o := range []object{controller, node} {
				checkPod(t, objects, o)
				checkOptions(t, help, o.Spec.Template.Spec.Containers[0])
			}
			checkSelectors(t, objects, controller, node)
			checkRoles(t, name, objects)
			checkDriverName(t, name, objects)
			checkResizer(t, controller)
			checkGroupSnapshots(t, objects, controller, strings.HasPrefix(name, "rbd"))
			checkSnapshotMetadata(t, objects, controller, name == "rbd with all")
			checkKubeletPaths(t, name, node)
			checkToken(t, controller, node)
			checkNodeRights(t, name, objects, node)
			checkDisruptionBudget(t, objects, controller, false)
			if strings.HasPrefix(name, "loop") {
				checkLoop(t, name, controller, node)
			} else if strings.HasPrefix(name, "rbd") {
				checkCeph(t, name, objects, controller, node)
			} else {
				checkCinder(t, name, objects, controller, node)
			}
			if name == "everything" {
				checkDashboard(t, objects)
				checkMetrics(t, objects, controller, node)
				checkAlertsOfRelease(t, objects)
				checkNames(t, objects)
			}
		})
	}
}

// TestBadValuesAreRefused checks that the message of the refusal names the value.
func TestBadValuesAreRefused(t *testing.T) {
	h := newHelm(t)
	for _, test := range []struct{ values, want string }{
		{`backend: nfs`, "backend"},
		{`backend: rbd`, "rbd.clusters"},
		{`{backend: rbd, rbd: {existingConfigMap: a}}`, "rbd.existingSecret"},
		{
			`{backend: rbd, rbd: {existingSecret: k, existingConfigMap: a, clusters: [{clusterID: a, monitors: [m]}]}}`,
			"give one of them",
		},
		{`{backend: rbd, rbd: {existingSecret: k, clusters: [{clusterID: a}]}}`, "monitors"},
		{`{backend: loop, sidecars: {snapshotMetadata: {enabled: true}}}`, "only the backend rbd"},
		{
			`{backend: rbd, rbd: {existingConfigMap: a, existingSecret: k}, sidecars: {snapshotMetadata: {enabled: true}}}`,
			"sidecars.snapshotMetadata.tlsSecret",
		},
		{`backend: cinder`, "cinder.existingSecret"},
		{`{backend: loop, loop: {}, unknown: 1}`, "unknown"},
		{`{backend: loop, loop: {size: 1}}`, "size"},
		{`{backend: loop, loop: {maxVolumeSize: 10GB}}`, "maxVolumeSize"},
		{`{backend: loop, loop: {dir: relative}}`, "dir"},
		{`{backend: loop, sidecars: {resizer: {timeout: 120}}}`, "timeout"},
		{`{backend: loop, controller: {extraArgs: ["x"]}}`, "extraArgs"},
		{`{backend: loop, csiDriver: {nodeAllocatableUpdatePeriodSeconds: 5}}`, "nodeAllocatableUpdatePeriodSeconds"},
		{`{backend: loop, storageClasses: [{parameters: {}}]}`, "name"},
		{`{backend: loop, storageClasses: [{name: a, reclaimPolicy: Recycle}]}`, "reclaimPolicy"},
		{`{cinder: {existingSecret: a, cloudsYAML: b}}`, "give one of them"},
		{`{cinder: {existingSecret: a, cloudsYAMLKey: ""}}`, "cloudsYAMLKey"},
		{`{cinder: {existingSecret: a}, controller: {leaderElection: false}}`, "leaderElection"},
		{`{cinder: {existingSecret: a}, controller: {image: {repository: a, pullPolicy: Some}}}`, "pullPolicy"},
		{`{backend: loop, commonLabels: {app.kubernetes.io/name: x}}`, "commonLabels"},
		{`{backend: loop, node: {podLabels: {app.kubernetes.io/component: controller}}}`, "podLabels"},
		{`{backend: loop, node: {ports: {healthz: 9810}}}`, "node.ports"},
		{`{backend: loop, metrics: {enabled: false, serviceMonitor: {enabled: true}}}`, "metrics.serviceMonitor"},
		{`{backend: loop, metrics: {enabled: false, prometheusRule: {enabled: true}}}`, "metrics.prometheusRule"},
		{`{backend: loop, metrics: {prometheusRule: {alertLabels: {a: 1}}}}`, "alertLabels"},
		{`{backend: loop, controller: {extraArgs: ["--http-endpoint=:1"]}}`, "--http-endpoint is set by the chart"},
		{`{backend: loop, controller: {hostUsers: sometimes}}`, "hostUsers"},
		{`{backend: loop, sidecars: {provisioner: {strictTopology: "no"}}}`, "strictTopology"},
		{`{backend: loop, csiDriver: {preventPodSchedulingIfMissing: 1}}`, "preventPodSchedulingIfMissing"},
		{
			`{backend: loop, sidecars: {snapshotter: {enabled: false}}, volumeSnapshotClasses: [{name: a}]}`,
			"volumeSnapshotClasses",
		},
		{`{backend: loop, volumeGroupSnapshotClasses: [{name: a}]}`, "volumeGroupSnapshotClasses"},
		{
			`{backend: loop, rbac: {readSecrets: [{namespace: a, names: [b]}, {namespace: a, names: [c]}]}}`,
			"rbac.readSecrets",
		},
		{`{backend: loop, node: {growOnDeviceChange: sometimes}}`, "growOnDeviceChange"},
		{`{backend: loop, node: {requireSysResource: maybe}}`, "requireSysResource"},
		{`{backend: loop, node: {maxUnavailable: 0}}`, "maxUnavailable"},
		{`{backend: loop, node: {startupTaint: {enable: true}}}`, "enable"},
	} {
		_, err := h.template(t, test.values)
		if err == nil {
			t.Errorf("the values %s are accepted, want a refusal", test.values)
		} else if !strings.Contains(errorOutput(err), test.want) {
			t.Errorf("the values %s: got the message %q, want %q in it", test.values, errorOutput(err), test.want)
		}
	}
}

// TestOldKubernetesIsRefused checks the lowest version: CSIDriver and VolumeAttributesClass of
// earlier versions differ from those in the chart.
func TestOldKubernetesIsRefused(t *testing.T) {
	_, err := newHelm(t).template(t, "backend: loop", "--kube-version=1.33.0")
	if err == nil || !strings.Contains(errorOutput(err), "1.34") {
		t.Errorf("Kubernetes 1.33: got %v, want a refusal that names 1.34", err)
	}
}

// TestManifestsAreThoseOfTheChart checks that deploy/kubernetes is up to date.
func TestManifestsAreThoseOfTheChart(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute)
	defer cancel()
	generate := exec.CommandContext(ctx, filepath.Join(moduleRoot(t), "deploy/kubernetes/generate"), dir)
	if out, err := generate.CombinedOutput(); err != nil {
		t.Fatalf("deploy/kubernetes/generate: %v\n%s", err, out)
	}
	for _, backend := range []string{"cinder", "loop", "rbd"} {
		file := filepath.Join(backend, "growvol.yaml")
		if !bytes.Equal(readFile(t, filepath.Join(dir, file)), readFile(t, "deploy/kubernetes/"+file)) {
			t.Errorf("deploy/kubernetes/%s differs from the output of the chart (next step: make manifests)", file)
		}
	}
}
