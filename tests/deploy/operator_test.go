package deploy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/autogrow"
	"github.com/growvol/growvol/pkg/kubeletwake"
)

// TestOperatorIsOffByDefault checks that nothing of the operator is installed unless it is wanted.
func TestOperatorIsOffByDefault(t *testing.T) {
	h := newHelm(t)
	for _, backend := range []string{"loop", "cinder", "rbd"} {
		for _, o := range h.render(t, operatorValues(backend, "")) {
			if strings.Contains(o.Metadata.Name, "operator") || o.Metadata.Labels["app.kubernetes.io/component"] == "operator" {
				t.Errorf("%s: got %s %s, want nothing of the operator", backend, o.Kind, o.Metadata.Name)
			}
		}
	}
}

// TestOperatorDoesNotWakeKubeletIfTheValueIsFalse checks the option that the value sets.
func TestOperatorDoesNotWakeKubeletIfTheValueIsFalse(t *testing.T) {
	h := newHelm(t)
	objects := h.render(t, operatorValues("loop", ", operator: {enabled: true, wakeKubelet: false}"))
	operator, found := findObject(objects, "Deployment", "growvol-operator")
	if !found {
		t.Fatal("got no Deployment of the operator")
	}
	if wake, _ := operator.Spec.Template.Spec.Containers[0].option("wake-kubelet"); wake != "false" {
		t.Errorf("got --wake-kubelet=%s, want false", wake)
	}
}

// operatorValues returns values for the backend with more of them.
func operatorValues(backend, more string) string {
	return fmt.Sprintf(
		"{backend: %s, cinder: {existingSecret: clouds}, rbd: {existingConfigMap: clusters, existingSecret: keys}%s}",
		backend, more)
}

// TestOperator checks the operator's pod and rights with each backend: it has a token and nothing
// else, least of all credentials of the cloud, and an admission policy holds it to its annotation.
func TestOperator(t *testing.T) {
	h, help := newHelm(t), helpOfPlugins(t)
	for _, backend := range []string{"loop", "cinder", "rbd"} {
		objects := h.render(t, operatorValues(backend, `,
			operator: {enabled: true, replicas: 2, otherDrivers: [ebs.csi.aws.com]},
			metrics: {serviceMonitor: {enabled: true}}, networkPolicy: {enabled: true}`))
		operator, found := findObject(objects, "Deployment", "growvol-operator")
		if !found || operator.Spec.Replicas != 2 {
			t.Fatalf("%s: got a Deployment %t with %d replicas, want 2", backend, found, operator.Spec.Replicas)
		}
		pod := operator.Spec.Template.Spec
		checkOptions(t, help, pod.Containers[0])
		checkPorts(t, pod, 2)
		checkVolumes(t, pod)
		checkSecurityContext(t, "Deployment", pod.Containers[0])
		if len(pod.Volumes) != 1 || pod.Volumes[0].Name != "token" || pod.HostNetwork || len(hostPaths(pod)) > 0 ||
			!pod.SecurityContext.RunAsNonRoot || pod.Automount == nil || *pod.Automount {
			t.Errorf("%s: the pod has more than a token: %+v", backend, pod)
		}
		drivers, _ := pod.Containers[0].option("drivers")
		if want := driverName(backend) + ",ebs.csi.aws.com"; drivers != want {
			t.Errorf("%s: got --drivers=%s, want %s", backend, drivers, want)
		}
		if lease, _ := pod.Containers[0].option("lease-name"); lease != "growvol-operator" {
			t.Errorf("%s: got --lease-name=%s, want that of the role", backend, lease)
		}
		if wake, _ := pod.Containers[0].option("wake-kubelet"); wake != "true" {
			t.Errorf("%s: got --wake-kubelet=%s, want true, the default", backend, wake)
		}
		checkOperatorRights(t, objects, "pods: patch", "events: create patch", "leases: create get update")
		checkPolicy(t, objects, "growvol-operator", true, pod.ServiceAccountName, []string{
			`"` + kubeletwake.AnnotationWoken + `"`, "labels", "finalizers", "ownerReferences", "object.spec == oldObject.spec",
		})
		for _, kind := range []string{"ServiceMonitor", "NetworkPolicy"} {
			if _, found := findObject(objects, kind, "growvol-operator"); !found {
				t.Errorf("%s: the operator has no %s", backend, kind)
			}
		}
	}
}

// TestOperatorThatGrowsClaims checks that the right to patch claims comes with the policies that
// limit it, and that nothing of it is there without operator.autoGrow.enabled.
func TestOperatorThatGrowsClaims(t *testing.T) {
	h, help := newHelm(t), helpOfPlugins(t)
	for _, backend := range []string{"loop", "cinder", "rbd"} {
		objects := h.render(t, operatorValues(backend, `, readings: {enabled: true}, operator: {enabled: true,
			autoGrow: {enabled: true, dryRun: true, interval: 20s, cooldown: 5m, maxPerHour: 500Gi, maxAtOnce: 3}}`))
		operator, _ := findObject(objects, "Deployment", "growvol-operator")
		pod := operator.Spec.Template.Spec
		checkOptions(t, help, pod.Containers[0])
		for name, want := range map[string]string{
			"grow-dry-run": "true", "grow-interval": "20s", "grow-cooldown": "5m", "grow-max-per-hour": "500Gi",
			"grow-max-at-once": "3", "readings-driver": driverName(backend), "readings-namespace": "storage",
			"readings-account": "growvol-readings",
		} {
			if got, _ := pod.Containers[0].option(name); got != want {
				t.Errorf("%s: got --%s=%s, want %s", backend, name, got, want)
			}
		}
		checkOperatorRights(t, objects, "pods: patch", "events: create patch", "leases: create get update",
			"persistentvolumeclaims: patch")
		checkPolicy(t, objects, "growvol-operator-claims", true, pod.ServiceAccountName, []string{
			`"` + autogrow.AnnotationGrownTo + `"`, `"` + autogrow.AnnotationRecord + `"`, "labels", "finalizers",
			"ownerReferences", "variables.request.compareTo(variables.oldRequest) >= 0",
		})
		checkPolicy(t, objects, "growvol-operator-limits", true, pod.ServiceAccountName, []string{
			`variables.enabled == "true"`, "variables.request.compareTo(quantity(variables.limit)) <= 0",
		})
	}
	for _, o := range h.render(t, operatorValues("loop", ", readings: {enabled: true}, operator: {enabled: true}")) {
		if strings.HasPrefix(o.Metadata.Name, "growvol-operator-") && o.Kind != "Service" {
			t.Errorf("got %s %s without autoGrow", o.Kind, o.Metadata.Name)
		}
	}
	_, err := h.template(t, operatorValues("loop", ", operator: {enabled: true, autoGrow: {enabled: true}}"))
	if err == nil || !strings.Contains(errorOutput(err), "operator.autoGrow.enabled needs readings.enabled") {
		t.Errorf("got %v without readings, want a refusal", err)
	}
}

// checkOperatorRights checks that the operator only reads, except for these resources with their
// verbs.
func checkOperatorRights(t *testing.T, objects []object, allowed ...string) {
	t.Helper()
	writes := map[string]string{}
	for _, row := range allowed {
		resource, verbs, _ := strings.Cut(row, ": ")
		writes[resource] = verbs
	}
	count := 0
	for _, o := range objects {
		if !strings.HasPrefix(o.Metadata.Name, "growvol-operator") {
			continue
		}
		for _, rule := range o.Rules {
			count++
			for _, verb := range rule.Verbs {
				isRead := slices.Contains([]string{"get", "list", "watch"}, verb) && rule.Resources[0] != "events"
				if !isRead && !slices.Contains(strings.Fields(writes[rule.Resources[0]]), verb) {
					t.Errorf("the operator may %s %v", verb, rule.Resources)
				}
			}
		}
	}
	if count < 6 {
		t.Errorf("found %d rules of the operator, want at least 6", count)
	}
}
