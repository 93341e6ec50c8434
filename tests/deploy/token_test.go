package deploy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/startuptaint"
)

// Tokens of the API server are where they are used, and nowhere else: in the
// sidecars that talk to it, which have no credentials of the cloud; in the node
// plugin if it is to remove a taint.
func checkToken(t *testing.T, controller, node object) {
	t.Helper()
	for _, o := range []object{controller, node} {
		pod := o.Spec.Template.Spec
		if pod.Automount == nil || *pod.Automount {
			t.Errorf("%s: every container has a token", o.Kind)
		}
		for _, c := range pod.Containers {
			mounted := slices.ContainsFunc(c.VolumeMounts, func(m mount) bool { return m.MountPath == "/var/run/secrets/kubernetes.io/serviceaccount" })
			_, talks := c.option("kube-api-qps")
			_, untaints := c.option("startup-taint-node")
			if mounted != (talks || untaints) {
				t.Errorf("%s %s: it has a token: %v; it needs one: %v", o.Kind, c.Name, mounted, !mounted)
			}
			if clouds := slices.ContainsFunc(c.VolumeMounts, func(m mount) bool { return m.Name == "clouds" }); clouds && mounted {
				t.Errorf("%s has a token and the cloud's credentials", c.Name)
			}
		}
	}
}

// The node plugin may touch a Node only if it is to remove the taint, and an
// admission policy that is in force then says which, and of which node.
func checkStartupTaint(t *testing.T, name string, objects []object, node object) {
	t.Helper()
	on := name == "everything"
	plugin := node.Spec.Template.Spec.Containers[0]
	value, given := plugin.option("startup-taint-node")
	if given != on || on && value != "$(NODE_NAME)" {
		t.Errorf("--startup-taint-node=%s", value)
	}
	for _, o := range objects {
		for _, rule := range o.Rules {
			if slices.Contains(rule.Resources, "nodes") && slices.Contains(rule.Verbs, "patch") != (o.Metadata.Name == "storage-startup-taint") {
				t.Errorf("%s %s: %v", o.Kind, o.Metadata.Name, rule)
			}
		}
	}
	policy, found := find(objects, "ValidatingAdmissionPolicy", "storage-startup-taint")
	binding, bound := find(objects, "ValidatingAdmissionPolicyBinding", "storage-startup-taint")
	if found != on || bound != on {
		t.Fatalf("policy %v, binding %v", found, bound)
	}
	if !on {
		return
	}
	if env := plugin.Env[0]; env.Name != "NODE_NAME" || env.From.Field.Path != "spec.nodeName" {
		t.Errorf("NODE_NAME is %+v", env)
	}
	if binding.Spec.PolicyName != policy.Metadata.Name || !slices.Equal(binding.Spec.ValidationActions, []string{"Deny"}) {
		t.Errorf("the binding is %+v", binding.Spec)
	}
	account := `"system:serviceaccount:storage:` + node.Spec.Template.Spec.ServiceAccountName + `"`
	if c := policy.Spec.MatchConditions; len(c) != 1 || !strings.HasSuffix(c[0].Expression, "== "+account) {
		t.Errorf("the policy is for %v, want %s", c, account)
	}
	var all strings.Builder
	for _, v := range policy.Spec.Validations {
		all.WriteString(v.Expression)
	}
	for _, want := range []string{`authentication.kubernetes.io/node-name`, `"` + startuptaint.Key(driverOf(name)) + `"`, "labels", "annotations", "unschedulable"} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("the policy does not look at %s", want)
		}
	}
}

// A budget is for several pods, and does not protect those that do not work: in
// an outage of the cloud nodes can be drained. Nor does the pods' emptyDir keep
// the cluster autoscaler from doing so; other annotations stay.
func checkDisruption(t *testing.T, objects []object, controller object, off bool) {
	t.Helper()
	budget, found := find(objects, "PodDisruptionBudget", controller.Metadata.Name)
	if found != (controller.Spec.Replicas > 1 && !off) || found && budget.Spec.UnhealthyPodEvictionPolicy != "AlwaysAllow" {
		t.Errorf("%d replicas; budget: %v, %+v", controller.Spec.Replicas, found, budget.Spec.UnhealthyPodEvictionPolicy)
	}
	has := controller.Spec.Template.Metadata.Annotations
	if has["cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"] != "socket" || controller.Metadata.Name == "storage-controller" && has["c"] != "d" {
		t.Errorf("the controller's pods have the annotations %v", has)
	}
	if controller.Spec.Template.Spec.NodeSelector["kubernetes.io/os"] != "linux" {
		t.Error("the controller may be placed on Windows")
	}
}
