// Package pluginpod reads from a pod of the chart what it is: which plugin, of which driver, with
// which ports. Callers get the pods, or the templates of pods, from the API server.
package pluginpod

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/loopcsi"
	"github.com/growvol/growvol/pkg/rbdcsi"
)

// Container is the name of the plugin's container.
const Container = "growvol"

// The labels that the chart gives its objects, as a selector of all releases, and the label of the
// component with its values for the plugins. Other components, such as an operator, are no plugins.
const (
	Selector            = "app.kubernetes.io/name=growvol"
	InstanceLabel       = "app.kubernetes.io/instance"
	ComponentLabel      = "app.kubernetes.io/component"
	ComponentController = "controller"
	ComponentNode       = "node"
)

// Driver returns the name of the CSI driver by the options of the plugin's container, or an empty
// text.
func Driver(pod *corev1.PodSpec) string {
	c := FindContainer(pod, Container)
	if c == nil {
		return ""
	}
	if name, found := Option(c.Args, "driver-name"); found && name != "" {
		return name
	}
	backend, _ := Option(c.Args, "backend")
	return map[string]string{
		cindercsi.Name: cindercsi.DriverName, loopcsi.Name: loopcsi.DriverName, rbdcsi.Name: rbdcsi.DriverName,
	}[backend]
}

// Port returns the port of that name of the plugin's container, or 0 without one.
func Port(pod *corev1.PodSpec, name string) int32 {
	c := FindContainer(pod, Container)
	if c == nil {
		return 0
	}
	for _, port := range c.Ports {
		if port.Name == name {
			return port.ContainerPort
		}
	}
	return 0
}

// FindContainer returns the container of the name, or nil.
func FindContainer(pod *corev1.PodSpec, name string) *corev1.Container {
	for i := range pod.Containers {
		if pod.Containers[i].Name == name {
			return &pod.Containers[i]
		}
	}
	return nil
}

// Option returns the value of the option --name=value, or of --name, which has none.
func Option(args []string, name string) (value string, found bool) {
	for _, arg := range args {
		key, value, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if key == name && strings.HasPrefix(arg, "-") {
			return value, true
		}
	}
	return "", false
}
