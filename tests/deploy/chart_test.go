package deploy_test

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const kubeVersion = "--kube-version=1.37.1"

// helm is Helm, of the version that .tools/helm.mod pins.
type helm struct{ program, dir string }

// newHelm builds it, unless Go has it in its cache.
func newHelm(t *testing.T) helm {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute)
	defer cancel()
	h := helm{dir: root(t)}
	cmd := exec.CommandContext(ctx, "go", "tool", "-modfile=.tools/helm.mod", "-n", "helm")
	cmd.Dir = h.dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("build helm: %s", stderrOf(err))
	}
	h.program = strings.TrimSpace(string(out))
	return h
}

// run gives it values on its standard input, in the module's directory.
func (h helm) run(t *testing.T, values string, args ...string) (stdout []byte, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.program, args...) //nolint:gosec // what Go has just built
	cmd.Dir, cmd.Stdin = h.dir, strings.NewReader(values)
	return cmd.Output()
}

func stderrOf(err error) string {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(exit.Stderr)
	}
	return err.Error()
}

// render returns what the chart makes of the values.
func (h helm) render(t *testing.T, values string) []object {
	t.Helper()
	out, err := h.run(t, values, "template", "growvol", "deploy/charts/growvol", "--namespace=storage", kubeVersion, "--values=-")
	if err != nil {
		t.Fatalf("%s\nwith the values\n%s", stderrOf(err), values)
	}
	return parse(t, out)
}

// sets are the values that the chart is checked with.
func sets() map[string]string {
	return map[string]string{
		"loop":           `backend: loop`,
		"loop on a node": `{backend: loop, loop: {nodeName: node-7, dir: /srv/volumes, maxVolumeSize: 10Gi, poolSize: 100Gi}, controller: {leaderElection: false}}`,
		"cinder":         `cinder: {existingSecret: clouds}`,
		"cinder with its Secret": `
cinder: {cloudsYAML: "clouds: {}", cloudConf: "[Global]", cloud: west, clusterID: a, topology: false, ignoreVolumeAZ: true, notifyNova: true}
node: {maxVolumes: 25, reservedVolumes: 2}`,
		"cinder-csi's Secret": `cinder: {existingSecret: cloud-config, cloudsYAMLKey: "", cloudConfKey: cloud.conf}`,
		"everything": `
cinder: {existingSecret: clouds}
driverName: csi.example.com
fullnameOverride: storage
kubeletDir: /data/kubelet
imagePullSecrets: [{name: pull}]
commonLabels: {team: storage}
logFormat: json
logLevel: debug
controller:
  image: {repository: registry.example.com/growvol-controller, tag: "sha256:0123"}
  replicas: 3
  extraArgs: [--call-timeout=5m]
  env: [{name: HTTPS_PROXY, value: "http://proxy:3128"}]
  nodeSelector: {node-role.kubernetes.io/control-plane: ""}
  tolerations: [{operator: Exists}]
  podLabels: {a: b}
  podAnnotations: {c: d}
node:
  image: {repository: registry.example.com/growvol-node, tag: v1}
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
volumeSnapshotClasses: [{name: snapshot, default: true}, {name: backup, parameters: {type: backup}, deletionPolicy: Retain}]
volumeAttributesClasses: [{name: gold, parameters: {type: ssd-gold}}]
metrics: {serviceMonitor: {enabled: true}, prometheusRule: {enabled: true, labels: {release: prometheus}, alertLabels: {team: storage}}, dashboard: {enabled: true, namespace: monitoring}}
networkPolicy: {enabled: true, metricsFrom: [{namespaceSelector: {}}]}`,
		"little": `
cinder: {existingSecret: clouds}
controller: {replicas: 1, leaderElection: false, podDisruptionBudget: {enabled: false}}
sidecars: {snapshotter: {enabled: false}}
metrics: {enabled: false}
csiDriver: {create: false}
rbac: {create: false}`,
	}
}

// Whatever the values are: Helm's own checks pass, the parts fit together and
// fit the plugins, and nothing has a right that it does not need.
func TestChart(t *testing.T) {
	h, help := newHelm(t), helpOfPlugins(t)
	for name, values := range sets() {
		t.Run(name, func(t *testing.T) {
			if _, err := h.run(t, values, "lint", "--strict", "--quiet", kubeVersion, "--values=-", "deploy/charts/growvol"); err != nil {
				t.Error(stderrOf(err))
			}
			objects := h.render(t, values)
			controller, node := workloads(t, objects)
			for _, o := range []object{controller, node} {
				checkPod(t, objects, o)
				checkOptions(t, help, o.Spec.Template.Spec.Containers[0])
			}
			checkSelectors(t, objects, controller, node)
			checkRoles(t, name, objects)
			checkDriver(t, name, objects)
			checkResizer(t, controller)
			checkKubelet(t, name, node)
			checkToken(t, controller, node)
			checkStartupTaint(t, name, objects, node)
			checkDisruption(t, objects, controller, false)
			if strings.HasPrefix(name, "loop") {
				checkLoop(t, name, controller, node)
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

// Values that cannot work are refused before anything is installed, and the
// message names the value.
func TestBadValues(t *testing.T) {
	h := newHelm(t)
	for values, want := range map[string]string{
		`backend: rbd`:                                                                                   "backend",
		`backend: cinder`:                                                                                "cinder.existingSecret",
		`{backend: loop, loop: {}, nonsense: 1}`:                                                         "nonsense",
		`{backend: loop, loop: {size: 1}}`:                                                               "size",
		`{backend: loop, loop: {maxVolumeSize: 10GB}}`:                                                   "maxVolumeSize",
		`{backend: loop, loop: {dir: relative}}`:                                                         "dir",
		`{backend: loop, sidecars: {resizer: {timeout: 120}}}`:                                           "timeout",
		`{backend: loop, controller: {extraArgs: ["x"]}}`:                                                "extraArgs",
		`{backend: loop, csiDriver: {nodeAllocatableUpdatePeriodSeconds: 5}}`:                            "nodeAllocatableUpdatePeriodSeconds",
		`{backend: loop, storageClasses: [{parameters: {}}]}`:                                            "name",
		`{backend: loop, storageClasses: [{name: a, reclaimPolicy: Recycle}]}`:                           "reclaimPolicy",
		`{cinder: {existingSecret: a, cloudsYAML: b}}`:                                                   "give one of them",
		`{cinder: {existingSecret: a, cloudsYAMLKey: ""}}`:                                               "cloudsYAMLKey",
		`{cinder: {existingSecret: a}, controller: {leaderElection: false}}`:                             "leaderElection",
		`{cinder: {existingSecret: a}, controller: {image: {repository: a, pullPolicy: Some}}}`:          "pullPolicy",
		`{backend: loop, commonLabels: {app.kubernetes.io/name: x}}`:                                     "commonLabels",
		`{backend: loop, node: {podLabels: {app.kubernetes.io/component: controller}}}`:                  "podLabels",
		`{backend: loop, node: {ports: {healthz: 9810}}}`:                                                "node.ports",
		`{backend: loop, metrics: {enabled: false, serviceMonitor: {enabled: true}}}`:                    "metrics.serviceMonitor",
		`{backend: loop, metrics: {enabled: false, prometheusRule: {enabled: true}}}`:                    "metrics.prometheusRule",
		`{backend: loop, metrics: {prometheusRule: {alertLabels: {a: 1}}}}`:                              "alertLabels",
		`{backend: loop, controller: {extraArgs: ["--http-endpoint=:1"]}}`:                               "--http-endpoint is set by the chart",
		`{backend: loop, controller: {hostUsers: sometimes}}`:                                            "hostUsers",
		`{backend: loop, sidecars: {provisioner: {strictTopology: "no"}}}`:                               "strictTopology",
		`{backend: loop, csiDriver: {preventPodSchedulingIfMissing: 1}}`:                                 "preventPodSchedulingIfMissing",
		`{backend: loop, sidecars: {snapshotter: {enabled: false}}, volumeSnapshotClasses: [{name: a}]}`: "volumeSnapshotClasses",
		`{backend: loop, rbac: {readSecrets: [{namespace: a, names: [b]}, {namespace: a, names: [c]}]}}`: "rbac.readSecrets",
		`{backend: loop, node: {growOnDeviceChange: sometimes}}`:                                         "growOnDeviceChange",
		`{backend: loop, node: {requireSysResource: maybe}}`:                                             "requireSysResource",
		`{backend: loop, node: {maxUnavailable: 0}}`:                                                     "maxUnavailable",
		`{backend: loop, node: {startupTaint: {enable: true}}}`:                                          "enable",
	} {
		_, err := h.run(t, values, "template", "growvol", "deploy/charts/growvol", kubeVersion, "--values=-")
		if err == nil {
			t.Errorf("%s is taken", values)
		} else if !strings.Contains(stderrOf(err), want) {
			t.Errorf("%s: %q lacks %q", values, stderrOf(err), want)
		}
	}
}

// Its CSIDriver, and VolumeAttributesClass, are not those of older ones.
func TestOldKubernetesIsRefused(t *testing.T) {
	_, err := newHelm(t).run(t, "backend: loop", "template", "growvol", "deploy/charts/growvol", "--kube-version=1.33.0", "--values=-")
	if err == nil || !strings.Contains(stderrOf(err), "1.34") {
		t.Errorf("Kubernetes 1.33: %v, want a refusal that names 1.34", err)
	}
}

// The manifests in deploy/kubernetes are what the chart makes now.
func TestManifestsAreThoseOfTheChart(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, filepath.Join(root(t), "deploy/kubernetes/generate"), dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, backend := range []string{"cinder", "loop"} {
		file := filepath.Join(backend, "growvol.yaml")
		if !bytes.Equal(content(t, filepath.Join(dir, file)), content(t, filepath.Join(root(t), "deploy/kubernetes", file))) {
			t.Errorf("deploy/kubernetes/%s is not what the chart makes: run `make manifests`", file)
		}
	}
}
