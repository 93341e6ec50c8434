package doctor

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/growvol/growvol/pkg/pluginpod"
)

// minTimeout is the shortest --timeout of a sidecar that does not warn: Cinder and Ceph may need a
// minute for one call. This file has the checks of the sidecars.
const minTimeout = time.Minute

// checkSidecars checks options and versions of the sidecars of controller and node plugin.
func (d *Doctor) checkSidecars(in *installation) []Check {
	const name = "sidecars"
	var containers []corev1.Container
	var problems []Check
	if in.controller != nil {
		pod := &in.controller.Spec.Template.Spec
		containers = append(containers, pod.Containers...)
		problems = append(problems, checkControllerSidecars(in, pod)...)
	}
	if in.node != nil {
		pod := &in.node.Spec.Template.Spec
		containers = append(containers, pod.Containers...)
		if pluginpod.FindContainer(pod, "node-driver-registrar") == nil {
			problems = append(problems, fail(name,
				"the node plugin has no node-driver-registrar: kubelet does not know the driver",
				"install the chart again: helm upgrade"))
		}
	}
	problems = append(problems, d.checkOptions(in)...)
	different := d.differentVersions(containers)
	if len(different) > 0 {
		problems = append(problems, warn(name,
			"other versions than the chart of this program: "+strings.Join(different, ", "),
			"upgrade to the chart of this version, which is tested with its sidecars: helm upgrade"))
	}
	if len(problems) == 0 {
		return []Check{ok(name, "options and versions are those of the chart")}
	}
	return problems
}

// checkControllerSidecars checks that the controller has the sidecars for a growth, with options
// that do not hinder it.
func checkControllerSidecars(in *installation, pod *corev1.PodSpec) []Check {
	const name = "sidecars"
	var checks []Check
	replicas := int32(1)
	if in.controller.Spec.Replicas != nil {
		replicas = *in.controller.Spec.Replicas
	}
	for _, sidecar := range []string{"csi-provisioner", "csi-attacher", "csi-resizer"} {
		c := pluginpod.FindContainer(pod, sidecar)
		if c == nil {
			checks = append(checks, fail(name, "the controller has no "+sidecar, "install the chart again: helm upgrade"))
			continue
		}
		value := strings.TrimPrefix(sidecar, "csi-")
		elects, hasElection := pluginpod.Option(c.Args, "leader-election")
		if replicas > 1 && (!hasElection || elects == "false") {
			checks = append(checks, fail(name,
				fmt.Sprintf("%s has no --leader-election, but the Deployment %d pods: they work on the same claims",
					sidecar, replicas),
				"install the chart with controller.leaderElection: true"))
		}
		text, _ := pluginpod.Option(c.Args, "timeout")
		if timeout, err := time.ParseDuration(text); err != nil || timeout < minTimeout {
			checks = append(checks, warn(name,
				fmt.Sprintf("%s has --timeout=%s: calls that need more are repeated", sidecar, text),
				fmt.Sprintf("set sidecars.%s.timeout of the chart to %s or more", value, minTimeout)))
		}
	}
	return checks
}

// differentVersions returns the sidecars whose image has not the tag that the chart gives it, each
// as a text.
func (d *Doctor) differentVersions(containers []corev1.Container) []string {
	var different []string
	for i := range containers {
		image := containers[i].Image
		repository, digest, _ := strings.Cut(image, "@")
		name, tag, _ := strings.Cut(path.Base(repository), ":")
		want, isSidecar := d.Sidecars[name]
		if !isSidecar || tag == want {
			continue
		}
		if tag == "" {
			tag = digest
		}
		different = append(different, fmt.Sprintf("%s %s (the chart has %s)", name, tag, want))
	}
	slices.Sort(different)
	return slices.Compact(different)
}
