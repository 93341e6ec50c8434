package deploy_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// toggles are values that change which objects there are, or parts of them.
func toggles() []string {
	return []string{
		"controller.leaderElection=false,controller.replicas=1",
		"controller.podDisruptionBudget.enabled=false",
		"controller.replicas=1",
		"controller.hostUsers=false",
		"node.hostNetwork=true",
		"node.requireSysResource=false",
		"node.growOnDeviceChange=false",
		"node.startupTaint.enabled=true",
		"sidecars.provisioner.strictTopology=false",
		"sidecars.snapshotter.enabled=false",
		"csiDriver.create=false",
		"csiDriver.storageCapacity=true",
		"csiDriver.seLinuxMount=true",
		"csiDriver.preventPodSchedulingIfMissing=true",
		"csiDriver.nodeAllocatableUpdatePeriodSeconds=0",
		"rbac.create=false",
		"metrics.enabled=false",
		"metrics.serviceMonitor.enabled=true,metrics.enabled=true",
		"metrics.prometheusRule.enabled=true,metrics.enabled=true",
		"metrics.dashboard.enabled=true",
		"networkPolicy.enabled=true",
	}
}

// Each toggle alone, and each together with all others: the objects are well
// formed and fit together, no right is there that is not asked for, and nothing
// changes that Kubernetes does not let an upgrade change.
func TestToggles(t *testing.T) {
	h, help := newHelm(t), helpOfPlugins(t)
	for _, backend := range []string{"cinder", "loop"} {
		var fixed map[string]string
		combinations := [][]string{nil, toggles()}
		for _, toggle := range toggles() {
			rest := slices.DeleteFunc(toggles(), func(other string) bool { return other == toggle })
			combinations = append(combinations, []string{toggle}, rest)
		}
		for _, on := range combinations {
			args := []string{"template", "growvol", "deploy/charts/growvol", "--namespace=storage", kubeVersion, "--values=-", "--set=backend=" + backend}
			for _, toggle := range on {
				args = append(args, "--set="+toggle)
			}
			out, err := h.run(t, "cinder: {existingSecret: clouds}", args...)
			if err != nil {
				t.Fatalf("%s: %s", args, stderrOf(err))
			}
			objects := parse(t, out)
			controller, node := workloads(t, objects)
			checkNames(t, objects)
			checkToken(t, controller, node)
			checkSelectors(t, objects, controller, node)
			for _, o := range []object{controller, node} {
				checkPod(t, objects, o)
				checkOptions(t, help, o.Spec.Template.Spec.Containers[0])
			}
			checkDisruption(t, objects, controller, slices.Contains(on, "controller.podDisruptionBudget.enabled=false"))
			now := immutable(t, objects)
			if fixed == nil {
				fixed = now
			}
			for what, value := range now {
				if before, was := fixed[what]; was && value != before {
					t.Errorf("%s: %s is %s, and was %s: an upgrade would be refused", args, what, value, fixed[what])
				}
			}
			if t.Failed() {
				t.Fatal(args)
			}
		}
	}
}

// immutable is what the API server lets nobody change, by its name.
func immutable(t *testing.T, objects []object) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, o := range objects {
		switch o.Kind {
		case "Deployment", "DaemonSet":
			var pairs []string
			for key, value := range selector(t, o) {
				pairs = append(pairs, key+"="+value)
			}
			slices.Sort(pairs)
			all[o.Kind+"'s selector"] = strings.Join(pairs, ",")
		case "CSIDriver":
			all["CSIDriver"] = strings.Join(append(slices.Clone(o.Spec.VolumeLifecycleModes), o.Spec.AttachRequired, o.Spec.FSGroupPolicy), " ")
		case "RoleBinding", "ClusterRoleBinding":
			all[o.Kind+" "+o.Metadata.Name] = o.RoleRef.Kind + " " + o.RoleRef.Name
		case "Service":
			all["Service "+o.Metadata.Name] = o.Spec.ClusterIP
		}
	}
	return all
}

// Labels of the operator do not get into selectors either, and the version
// does not: an upgrade changes both.
func TestSelectorsStay(t *testing.T) {
	h := newHelm(t)
	plain := immutable(t, h.render(t, sets()["cinder"]))
	labeled := immutable(t, h.render(t, `
cinder: {existingSecret: clouds}
commonLabels: {team: a}
controller: {podLabels: {b: c}, image: {repository: r/growvol-controller, tag: v9}}
node: {podLabels: {d: e}}`))
	if !maps.Equal(plain, labeled) || len(plain) < 5 {
		t.Errorf("%v\n%v", plain, labeled)
	}
	for what, value := range plain {
		if strings.Contains(value, "version") || strings.Contains(value, "chart") {
			t.Errorf("%s is %s, which the next version would change", what, value)
		}
	}
}
