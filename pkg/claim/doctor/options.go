package doctor

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/growvol/growvol/pkg/pluginpod"
)

// checkOptions compares the options of the sidecars with those that the chart always sets, and the
// sockets with the plugin's. This file has the checks of options that must fit to each other.
func (d *Doctor) checkOptions(in *installation) []Check {
	const name = "sidecars"
	var checks []Check
	if in.controller != nil {
		pod := &in.controller.Spec.Template.Spec
		checks = append(d.checkChartOptions(pod), checkSockets(pod)...)
	}
	if in.node == nil {
		return checks
	}
	pod := &in.node.Spec.Template.Spec
	checks = append(checks, checkSockets(pod)...)
	if c := pluginpod.FindContainer(pod, "node-driver-registrar"); c != nil {
		registered, _ := pluginpod.Option(c.Args, "kubelet-registration-path")
		if !slices.ContainsFunc(pod.Volumes, func(v corev1.Volume) bool {
			return v.HostPath != nil && path.Clean(v.HostPath.Path) == path.Dir(registered)
		}) {
			checks = append(checks, fail(name, fmt.Sprintf("node-driver-registrar gives kubelet the socket %q, and the pod has "+
				"no such directory of the node: kubelet does not reach the plugin", registered),
				"set the chart's kubeletDir to kubelet's --root-dir: helm upgrade"))
		}
	}
	return checks
}

// checkChartOptions checks that the sidecars of the controller have the options of the chart.
func (d *Doctor) checkChartOptions(pod *corev1.PodSpec) []Check {
	var checks []Check
	for _, sidecar := range slices.Sorted(maps.Keys(d.Options)) {
		c := pluginpod.FindContainer(pod, sidecar)
		if c == nil {
			continue
		}
		lacking := slices.DeleteFunc(slices.Clone(d.Options[sidecar]), func(want string) bool {
			key, value, _ := strings.Cut(strings.TrimLeft(want, "-"), "=")
			return hasOption(c, key, value)
		})
		if len(lacking) > 0 {
			checks = append(checks, warn("sidecars", fmt.Sprintf("%s lacks %s, which the chart sets",
				sidecar, strings.Join(lacking, " ")), "install the chart again: helm upgrade"))
		}
	}
	return checks
}

// hasOption reports whether the container has the option with the value. "--x" is "--x=true".
func hasOption(c *corev1.Container, name, value string) bool {
	got, found := pluginpod.Option(c.Args, name)
	return found && (got == value || got == "true" && value == "" || got == "" && value == "true")
}

// checkSockets checks that the sidecars of the pod connect to the socket of the plugin.
func checkSockets(pod *corev1.PodSpec) []Check {
	plugin := pluginpod.FindContainer(pod, pluginpod.Container)
	if plugin == nil {
		return nil
	}
	endpoint, found := pluginpod.Option(plugin.Args, "endpoint")
	if !found {
		return nil
	}
	var checks []Check
	for i := range pod.Containers {
		c := &pod.Containers[i]
		address, found := pluginpod.Option(c.Args, "csi-address")
		if found && strings.TrimPrefix(address, "unix://") != strings.TrimPrefix(endpoint, "unix://") {
			checks = append(checks, fail("sidecars", fmt.Sprintf("%s has --csi-address=%s, and the plugin --endpoint=%s: "+
				"they do not reach each other", c.Name, address, endpoint), "install the chart again: helm upgrade"))
		}
	}
	return checks
}

// checkCapacity checks that the provisioner reports the free capacity if the scheduler waits for
// it.
func checkCapacity(in *installation, driver *storagev1.CSIDriver) (check Check, isNeeded bool) {
	if driver.Spec.StorageCapacity == nil || !*driver.Spec.StorageCapacity || in.controller == nil {
		return Check{}, false
	}
	c := pluginpod.FindContainer(&in.controller.Spec.Template.Spec, "csi-provisioner")
	if c == nil || hasOption(c, "enable-capacity", "") {
		return Check{}, false
	}
	return fail("CSIDriver", in.driver+" has storageCapacity: true, and csi-provisioner no --enable-capacity: "+
		"the scheduler finds no node with space, and pods with new volumes wait",
		"install the chart with csiDriver.storageCapacity as it should be: helm upgrade"), true
}
