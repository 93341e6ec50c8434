package deploy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/rbd/noderecord"
	"github.com/growvol/growvol/pkg/startuptaint"
)

// checkToken checks that only containers that use the API server have its token: the sidecars,
// which have no credentials of the cloud, the node plugin if it changes its Node, and the plugins
// of the rbd backend if they fence lost nodes.
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
			needsToken := slices.ContainsFunc([]string{
				"kube-api-qps", "startup-taint-node", "kubernetes-node", "kubernetes", "csi-addons-address",
			}, func(name string) bool {
				_, given := c.option(name)
				return given
			})
			if hasToken != needsToken {
				t.Errorf("%s %s: got token %t, want %t", o.Kind, c.Name, hasToken, needsToken)
			}
			hasCredentials := slices.ContainsFunc(c.VolumeMounts, func(m mount) bool { return m.Name == "clouds" })
			if hasCredentials && hasToken {
				t.Errorf("%s has both a token and the credentials of the cloud", c.Name)
			}
		}
	}
}

// checkNodeRights checks that the plugins may change a Node only if they remove the start-up taint
// or fence lost nodes, and that admission policies then limit the change: the node plugin to its
// own Node, and each plugin to its taint or annotation.
func checkNodeRights(t *testing.T, name string, objects []object, node object) {
	t.Helper()
	hasTaint, isFencing := name == "everything", strings.HasPrefix(name, "rbd")
	plugin := node.Spec.Template.Spec.Containers[0]
	for option, want := range map[string]bool{"startup-taint-node": hasTaint, "kubernetes-node": isFencing} {
		value, given := plugin.option(option)
		if given != want || want && value != "$(NODE_NAME)" {
			t.Errorf("got --%s=%s (%t), want it %t", option, value, given, want)
		}
	}
	if hasTaint || isFencing {
		if env := plugin.Env[0]; env.Name != "NODE_NAME" || env.From.Field.Path != "spec.nodeName" {
			t.Errorf("got the variable %+v, want NODE_NAME of spec.nodeName", env)
		}
	}
	for _, o := range objects {
		for _, rule := range o.Rules {
			isLimited := strings.HasSuffix(o.Metadata.Name, "-own-node") || strings.HasSuffix(o.Metadata.Name, "-fencing")
			if slices.Contains(rule.Resources, "nodes") && slices.Contains(rule.Verbs, "patch") != isLimited {
				t.Errorf("%s %s has the rule %v, want patch only with an admission policy", o.Kind, o.Metadata.Name, rule)
			}
		}
	}
	prefix := strings.TrimSuffix(node.Metadata.Name, "-node")
	ownNode := []string{`authentication.kubernetes.io/node-name`, "labels", "unschedulable", "annotations"}
	if hasTaint {
		ownNode = append(ownNode, `"`+startuptaint.Key(driverName(name))+`"`)
	}
	if isFencing {
		ownNode = append(ownNode, `"`+noderecord.ClientsAnnotation+`"`, "object.spec.?taints")
	}
	checkPolicy(t, objects, prefix+"-own-node", hasTaint || isFencing, node.Spec.Template.Spec.ServiceAccountName, ownNode)
	checkPolicy(t, objects, prefix+"-fencing", isFencing, prefix+"-controller",
		[]string{`"` + noderecord.FencedAnnotation + `"`, "labels", "unschedulable", "object.spec.?taints"})
}

// checkPolicy checks that there is an admission policy for that account, or none. Its expressions
// must have all texts.
func checkPolicy(t *testing.T, objects []object, name string, isWanted bool, account string, texts []string) {
	t.Helper()
	policy, found := findObject(objects, "ValidatingAdmissionPolicy", name)
	binding, bound := findObject(objects, "ValidatingAdmissionPolicyBinding", name)
	if found != isWanted || bound != isWanted {
		t.Fatalf("%s: got policy %t and binding %t, want %t", name, found, bound, isWanted)
	}
	if !isWanted {
		return
	}
	if binding.Spec.PolicyName != name || !slices.Equal(binding.Spec.ValidationActions, []string{"Deny"}) {
		t.Errorf("got the binding %+v, want one that denies by the policy", binding.Spec)
	}
	user := `"system:serviceaccount:storage:` + account + `"`
	if c := policy.Spec.MatchConditions; len(c) != 1 || !strings.HasSuffix(c[0].Expression, "== "+user) {
		t.Errorf("the policy %s matches %v, want %s", name, c, user)
	}
	var all strings.Builder
	for _, v := range policy.Spec.Validations {
		all.WriteString(v.Expression)
	}
	for _, want := range texts {
		if !strings.Contains(all.String(), want) {
			t.Errorf("the policy %s does not check %s", name, want)
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

// TestLabelsOfNodesNeedNoRightToChangeThem renders the topology of rbd with and without fencing:
// the plugins have the options for it, and without fencing the node plugin may only read Nodes.
func TestLabelsOfNodesNeedNoRightToChangeThem(t *testing.T) {
	h := newHelm(t)
	for _, fencing := range []string{"true", "false"} {
		objects := h.render(t, `{backend: rbd, rbd: {existingConfigMap: clusters, existingSecret: keys, fencing: `+fencing+`,
			domainLabels: [topology.kubernetes.io/region, topology.kubernetes.io/zone]}}`)
		controller, node := workloads(t, objects)
		checkToken(t, controller, node)
		plugin := node.Spec.Template.Spec.Containers[0]
		if got, _ := plugin.option("domain-labels"); got != "topology.kubernetes.io/region,topology.kubernetes.io/zone" {
			t.Errorf("fencing %s: got --domain-labels=%s, want both labels", fencing, got)
		}
		recorded, given := plugin.option("record-clients")
		if given != (fencing == "false") || given && recorded != "false" {
			t.Errorf("fencing %s: got --record-clients=%s (%t)", fencing, recorded, given)
		}
		for i, option := range []string{"ceph-topology", "strict-topology"} { // of the plugin and of csi-provisioner
			if _, given := controller.Spec.Template.Spec.Containers[i].option(option); !given {
				t.Errorf("fencing %s: the controller has no --%s", fencing, option)
			}
		}
		role, _ := findObject(objects, "ClusterRole", "growvol-own-node")
		_, hasPolicy := findObject(objects, "ValidatingAdmissionPolicy", "growvol-own-node")
		var got []string
		for _, rule := range role.Rules {
			got = append(got, strings.Join(rule.Resources, ",")+": "+strings.Join(rule.Verbs, ","))
		}
		want := []string{"nodes: get"}
		if fencing == "true" {
			want = []string{"volumeattachments: get", "nodes: get,patch"}
		}
		if !slices.Equal(got, want) || hasPolicy != (fencing == "true") {
			t.Errorf("fencing %s: got the rules %q and a policy %t, want %q", fencing, got, hasPolicy, want)
		}
	}
}
