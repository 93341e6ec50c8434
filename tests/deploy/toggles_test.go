package deploy_test

import (
	"maps"
	"math/bits"
	"slices"
	"strings"
	"testing"
)

// toggles returns values that add or remove objects, or parts of them.
func toggles() []string {
	return []string{
		"controller.leaderElection=false,controller.replicas=1",
		"controller.podDisruptionBudget.enabled=false",
		"controller.replicas=1",
		"controller.hostUsers=false",
		"node.hostNetwork=true",
		"node.requireSysResource=false",
		"node.growOnDeviceChange=false",
		"node.encryptedDiscards=true",
		"node.startupTaint.enabled=true",
		"rbd.fencing=false",
		"rbd.domainLabels={topology.kubernetes.io/zone}",
		"sidecars.provisioner.strictTopology=false",
		"sidecars.snapshotter.groupSnapshots=false",
		"sidecars.snapshotter.enabled=false",
		"sidecars.csiAddons.enabled=true",
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
		"operator.enabled=true",
		"operator.enabled=true,operator.autoGrow.enabled=true,readings.enabled=true",
	}
}

// combinations returns lists of toggles: for each backend none, all, and lists in which every pair
// of toggles is on and off independently of each other; for one backend of three each toggle alone,
// and all but it.
func combinations(backend int) [][]string {
	all := toggles()
	lists := [][]string{nil, all}
	for bit := range bits.Len(uint(len(all) - 1)) { // two numbers differ in a bit
		var on, off []string
		for i, toggle := range all {
			if i>>bit&1 == 1 {
				on = append(on, toggle)
			} else {
				off = append(off, toggle)
			}
		}
		lists = append(lists, on, off)
	}
	for i := backend; i < len(all); i += 3 {
		lists = append(lists, []string{all[i]}, slices.Delete(slices.Clone(all), i, i+1))
	}
	return lists
}

// TestTogglesKeepObjectsValid renders the chart with these combinations of toggles: the objects are
// valid and match each other, no right is there without need, and no field changes that an upgrade
// cannot change.
func TestTogglesKeepObjectsValid(t *testing.T) {
	h, help := newHelm(t), helpOfPlugins(t)
	for number, backend := range []string{"cinder", "loop", "rbd"} {
		var fixed map[string]string
		for _, on := range combinations(number) {
			args := []string{"--set=backend=" + backend}
			for _, toggle := range on {
				args = append(args, "--set="+toggle)
			}
			out, err := h.template(t,
				"{cinder: {existingSecret: clouds}, rbd: {existingConfigMap: clusters, existingSecret: keys}}", args...)
			if err != nil {
				t.Fatalf("%s: %s", args, errorOutput(err))
			}
			objects := parseObjects(t, out)
			controller, node := workloads(t, objects)
			checkNames(t, objects)
			checkToken(t, controller, node)
			hasGroups := backend == "rbd" && !slices.Contains(on, "sidecars.snapshotter.groupSnapshots=false")
			checkGroupSnapshots(t, objects, controller, hasGroups)
			pods := []object{controller, node}
			if operator, found := findObject(objects, "Deployment", "growvol-operator"); found {
				pods = append(pods, operator)
			}
			checkSelectors(t, objects, pods...)
			for _, o := range []object{controller, node} {
				checkPod(t, objects, o)
				checkOptions(t, help, o.Spec.Template.Spec.Containers[0])
			}
			isOff := slices.Contains(on, "controller.podDisruptionBudget.enabled=false")
			checkDisruptionBudget(t, objects, controller, isOff)
			fields := immutableFields(t, objects)
			if fixed == nil {
				fixed = fields
			}
			for what, value := range fields {
				if before, found := fixed[what]; found && value != before {
					t.Errorf("%s: %s changes from %s to %s, which Kubernetes refuses in an upgrade", args, what, fixed[what], value)
				}
			}
			if t.Failed() {
				t.Fatal(args)
			}
		}
	}
}

// immutableFields returns the fields that the API server does not allow to change, by their
// name.
func immutableFields(t *testing.T, objects []object) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, o := range objects {
		switch o.Kind {
		case "Deployment", "DaemonSet":
			var pairs []string
			for key, value := range podSelector(t, o) {
				pairs = append(pairs, key+"="+value)
			}
			slices.Sort(pairs)
			all["selector of "+o.Kind+" "+o.Metadata.Name] = strings.Join(pairs, ",")
		case "CSIDriver":
			fields := append(slices.Clone(o.Spec.VolumeLifecycleModes), o.Spec.AttachRequired, o.Spec.FSGroupPolicy)
			all["CSIDriver"] = strings.Join(fields, " ")
		case "RoleBinding", "ClusterRoleBinding":
			all[o.Kind+" "+o.Metadata.Name] = o.RoleRef.Kind + " " + o.RoleRef.Name
		case "Service":
			all["Service "+o.Metadata.Name] = o.Spec.ClusterIP
		}
	}
	return all
}

// TestImmutableFieldsIgnoreLabelsAndVersion changes the labels in the values, and the version: an
// upgrade may change both.
func TestImmutableFieldsIgnoreLabelsAndVersion(t *testing.T) {
	h := newHelm(t)
	plain := immutableFields(t, h.render(t, valueSets()["cinder"]))
	labeled := immutableFields(t, h.render(t, `
cinder: {existingSecret: clouds}
commonLabels: {team: a}
controller: {podLabels: {b: c}, image: {repository: r/growvol-controller, tag: v9}}
node: {podLabels: {d: e}}`))
	if !maps.Equal(plain, labeled) || len(plain) < 5 {
		t.Errorf("without labels\n%v\nbut with labels\n%v", plain, labeled)
	}
	for what, value := range plain {
		if strings.Contains(value, "version") || strings.Contains(value, "chart") {
			t.Errorf("%s is %s, which the next version changes", what, value)
		}
	}
}
