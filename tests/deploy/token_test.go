package deploy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/startuptaint"
)

// checkToken checks that only containers that use the API server have its token: the sidecars,
// which have no credentials of the cloud, and the node plugin if it removes a taint.
func checkToken(t *testing.T, controller, node object) {
	t.Helper()
	for _, o := range []object{controller, node} {
		pod := o.Spec.Template.Spec
		if pod.Automount == nil || *pod.Automount {
			t.Errorf("%s: automountServiceAccountToken gives every container a token", o.Kind)
		}
		for _, c := range pod.Containers {
			hasToken := slices.ContainsFunc(c.VolumeMounts, func(m mount) bool {
				return m.MountPath == "/var/run/secrets/kubernetes.io/serviceaccount"
			})
			_, isSidecar := c.option("kube-api-qps")
			_, removesTaint := c.option("startup-taint-node")
			if needsToken := isSidecar || removesTaint; hasToken != needsToken {
				t.Errorf("%s %s: got token %t, want %t", o.Kind, c.Name, hasToken, needsToken)
			}
			hasCredentials := slices.ContainsFunc(c.VolumeMounts, func(m mount) bool { return m.Name == "clouds" })
			if hasCredentials && hasToken {
				t.Errorf("%s has both a token and the credentials of the cloud", c.Name)
			}
		}
	}
}

// checkStartupTaint checks that the node plugin may change a Node only if it removes the startup
// taint, and that an admission policy then limits the change to the taint of its own Node.
func checkStartupTaint(t *testing.T, name string, objects []object, node object) {
	t.Helper()
	on := name == "everything"
	plugin := node.Spec.Template.Spec.Containers[0]
	value, given := plugin.option("startup-taint-node")
	if given != on || on && value != "$(NODE_NAME)" {
		t.Errorf("got --startup-taint-node=%s (%t), want it only with the startup taint", value, given)
	}
	for _, o := range objects {
		for _, rule := range o.Rules {
			isForTaint, patches := o.Metadata.Name == "storage-startup-taint", slices.Contains(rule.Verbs, "patch")
			if slices.Contains(rule.Resources, "nodes") && patches != isForTaint {
				t.Errorf("%s %s has the rule %v, want patch only for the startup taint", o.Kind, o.Metadata.Name, rule)
			}
		}
	}
	policy, found := findObject(objects, "ValidatingAdmissionPolicy", "storage-startup-taint")
	binding, bound := findObject(objects, "ValidatingAdmissionPolicyBinding", "storage-startup-taint")
	if found != on || bound != on {
		t.Fatalf("got policy %t and binding %t, want %t", found, bound, on)
	}
	if !on {
		return
	}
	if env := plugin.Env[0]; env.Name != "NODE_NAME" || env.From.Field.Path != "spec.nodeName" {
		t.Errorf("got the variable %+v, want NODE_NAME of spec.nodeName", env)
	}
	if binding.Spec.PolicyName != policy.Metadata.Name || !slices.Equal(binding.Spec.ValidationActions, []string{"Deny"}) {
		t.Errorf("got the binding %+v, want one that denies by the policy", binding.Spec)
	}
	account := `"system:serviceaccount:storage:` + node.Spec.Template.Spec.ServiceAccountName + `"`
	if c := policy.Spec.MatchConditions; len(c) != 1 || !strings.HasSuffix(c[0].Expression, "== "+account) {
		t.Errorf("the policy matches %v, want %s", c, account)
	}
	var all strings.Builder
	for _, v := range policy.Spec.Validations {
		all.WriteString(v.Expression)
	}
	for _, want := range []string{
		`authentication.kubernetes.io/node-name`, `"` + startuptaint.Key(driverName(name)) + `"`,
		"labels", "annotations", "unschedulable",
	} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("the policy does not check %s", want)
		}
	}
}

// checkDisruptionBudget checks that only several pods have a budget, and that it does not protect
// pods that are not ready, so that nodes can be drained in an outage of the cloud. The pods'
// emptyDir must not keep the cluster autoscaler from draining either. Other annotations stay.
func checkDisruptionBudget(t *testing.T, objects []object, controller object, isOff bool) {
	t.Helper()
	budget, found := findObject(objects, "PodDisruptionBudget", controller.Metadata.Name)
	eviction := budget.Spec.UnhealthyPodEvictionPolicy
	if found != (controller.Spec.Replicas > 1 && !isOff) || found && eviction != "AlwaysAllow" {
		t.Errorf("%d replicas: got a budget %t with %q", controller.Spec.Replicas, found, eviction)
	}
	annotations := controller.Spec.Template.Metadata.Annotations
	isEverything := controller.Metadata.Name == "storage-controller"
	if annotations["cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"] != "socket" ||
		isEverything && annotations["c"] != "d" {
		t.Errorf("the pods of the controller have the annotations %v", annotations)
	}
	if controller.Spec.Template.Spec.NodeSelector["kubernetes.io/os"] != "linux" {
		t.Error("the controller may run on a node with Windows")
	}
}
