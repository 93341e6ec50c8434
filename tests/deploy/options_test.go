package deploy_test

import (
	"context"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/loopcsi"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/tests/csiclient"
)

// helpOfPlugins returns the output of --help of each plugin, and of the operator.
func helpOfPlugins(t *testing.T) map[string]string {
	t.Helper()
	bin, err := csiclient.BuildPlugins(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin+"/", "./cmd/growvol-operator")
	build.Dir, build.Env = moduleRoot(t), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build growvol-operator: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	help := map[string]string{}
	for _, program := range []string{"growvol-controller", "growvol-node", "growvol-operator"} {
		path := filepath.Join(bin, program)
		out, err := exec.CommandContext(ctx, path, "--help").CombinedOutput() //nolint:gosec // a program of this module
		if err != nil {
			t.Fatalf("%s --help: %v\n%s", program, err, out)
		}
		help[program] = string(out)
	}
	return help
}

// checkOptions checks that the container belongs to a plugin, by the name of its image, and that
// the plugin has every option in the arguments.
func checkOptions(t *testing.T, help map[string]string, c container) {
	t.Helper()
	program, _, _ := strings.Cut(path.Base(c.Image), ":")
	program, _, _ = strings.Cut(program, "@")
	program = strings.TrimSuffix(program, "-ceph")
	if c.Name != "growvol" || help[program] == "" || len(c.Args) < 5 {
		t.Errorf("the container %s with the image %s and the arguments %v belongs to no plugin", c.Name, c.Image, c.Args)
	}
	for _, arg := range c.Args {
		option, _, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		line := "\n  -" + option
		if !strings.Contains(help[program], line+" ") && !strings.Contains(help[program], line+"\n") {
			t.Errorf("%s has no option %s", program, arg)
		}
	}
}

// checkResizer checks the options that external-resizer needs for volumes in use.
func checkResizer(t *testing.T, controller object) {
	t.Helper()
	for _, c := range controller.Spec.Template.Spec.Containers {
		if c.Name != "csi-resizer" {
			continue
		}
		timeout, _ := c.option("timeout")
		inUse, _ := c.option("handle-volume-inuse-error")
		if timeout != "120s" || inUse != "false" {
			t.Errorf("csi-resizer has the arguments %v, want --timeout=120s and --handle-volume-inuse-error=false", c.Args)
		}
		return
	}
	t.Error("the controller has no container csi-resizer")
}

// checkGroupSnapshots checks that csi-snapshotter, if there is one, takes group snapshots, or not,
// and has rights for them only then.
func checkGroupSnapshots(t *testing.T, objects []object, controller object, isWanted bool) {
	t.Helper()
	containers := controller.Spec.Template.Spec.Containers
	i := slices.IndexFunc(containers, func(c container) bool { return c.Name == "csi-snapshotter" })
	if i < 0 {
		return
	}
	want := "CSIVolumeGroupSnapshot=" + strconv.FormatBool(isWanted)
	if gates, _ := containers[i].option("feature-gates"); gates != want {
		t.Errorf("csi-snapshotter has --feature-gates=%s, want %s", gates, want)
	}
	prefix := strings.TrimSuffix(controller.Metadata.Name, "-controller")
	role, found := findObject(objects, "ClusterRole", prefix+"-snapshotter")
	hasRights := false
	for _, rule := range role.Rules {
		hasRights = hasRights || slices.Contains(rule.Resources, "volumegroupsnapshotcontents")
	}
	if found && hasRights != isWanted {
		t.Errorf("csi-snapshotter has rights for group snapshots: got %t, want %t", hasRights, isWanted)
	}
}

// checkSnapshotMetadata checks that the sidecar for changed blocks, if there is one, is reached at
// the address that programs read, and has its certificate where its options say.
func checkSnapshotMetadata(t *testing.T, objects []object, controller object, isWanted bool) {
	t.Helper()
	pod := controller.Spec.Template.Spec
	i := slices.IndexFunc(pod.Containers, func(c container) bool { return c.Name == "csi-snapshot-metadata" })
	name := strings.TrimSuffix(controller.Metadata.Name, "-controller") + "-controller-snapshot-metadata"
	service, hasService := findObject(objects, "Service", name)
	_, hasRole := findObject(objects, "ClusterRoleBinding", name)
	advertised, isAdvertised := findObject(objects, "SnapshotMetadataService", rbdcsi.DriverName)
	if (i >= 0) != isWanted || hasService != isWanted || hasRole != isWanted || isAdvertised != isWanted {
		t.Fatalf("got the container %t, the Service %t, its role %t and the object %t, want %t",
			i >= 0, hasService, hasRole, isAdvertised, isWanted)
	}
	if !isWanted {
		return
	}
	sidecar := pod.Containers[i]
	want := name + "." + service.Metadata.Namespace + ":6443"
	if s := advertised.Spec; s.Address != want || s.Audience != rbdcsi.DriverName || s.CACert != "Y2VydA==" {
		t.Errorf("got the object %+v, want the address %s, the driver as audience and the certificate", s, want)
	}
	port := service.Spec.Ports[0]
	if option, _ := sidecar.option("port"); port.TargetPort != sidecar.Ports[0].Name || option != "50051" {
		t.Errorf("the Service connects to %s, the container has the ports %v and --port=%s",
			port.TargetPort, sidecar.Ports, option)
	}
	for option, file := range map[string]string{"tls-cert": "tls.crt", "tls-key": "tls.key"} {
		path, _ := sidecar.option(option)
		if !slices.ContainsFunc(sidecar.VolumeMounts, func(m mount) bool { return m.MountPath+"/"+file == path }) {
			t.Errorf("--%s=%s is not in a mounted volume: %v", option, path, sidecar.VolumeMounts)
		}
	}
	if !slices.ContainsFunc(pod.Volumes, func(v podVolume) bool { return v.Secret.SecretName == "metadata-tls" }) {
		t.Errorf("no volume has the Secret metadata-tls: %+v", pod.Volumes)
	}
}

// checkRoles checks that no role has all rights of a resource or reads Secrets that no value names,
// and that bindings connect service accounts and roles that exist.
func checkRoles(t *testing.T, name string, objects []object) {
	t.Helper()
	rules := 0
	for _, o := range objects {
		for _, rule := range o.Rules {
			rules++
			if slices.Contains(rule.Resources, "*") || slices.Contains(rule.Verbs, "*") {
				t.Errorf("%s %s has a rule with *: %v", o.Kind, o.Metadata.Name, rule)
			}
			isAllowed := o.Kind == "Role" && slices.Equal(rule.ResourceNames, []string{"luks"}) &&
				slices.Equal(rule.Verbs, []string{"get"})
			if slices.Contains(rule.Resources, "secrets") && !isAllowed {
				t.Errorf("%s %s may read Secrets: %v", o.Kind, o.Metadata.Name, rule)
			}
		}
		if !strings.HasSuffix(o.Kind, "RoleBinding") {
			continue
		}
		if _, found := findObject(objects, o.RoleRef.Kind, o.RoleRef.Name); !found {
			t.Errorf("%s binds %v, which does not exist", o.Metadata.Name, o.RoleRef)
		}
		for _, s := range o.Subjects {
			// The only binding of the node plugin is the one that checkNodeRights checks.
			isNode, isOwnNode := strings.HasSuffix(s.Name, "-node"), strings.HasSuffix(o.Metadata.Name, "-own-node")
			if _, found := findObject(objects, s.Kind, s.Name); !found || s.Namespace != "storage" || isNode != isOwnNode {
				t.Errorf("%s binds the unexpected subject %v", o.Metadata.Name, s)
			}
		}
	}
	if (rules > 10) != (name != "minimal") {
		t.Errorf("got %d rules, want more than 10 unless rbac.create is false", rules)
	}
}

// driverName returns the name of the driver with a set of values.
func driverName(name string) string {
	switch {
	case name == "everything":
		return "csi.example.com"
	case strings.HasPrefix(name, "loop"):
		return loopcsi.DriverName
	case strings.HasPrefix(name, "rbd"):
		return rbdcsi.DriverName
	default:
		return cindercsi.DriverName
	}
}

// checkDriverName checks that every object that names the driver has the same name, or that of the
// in-tree driver that Kubernetes translates.
func checkDriverName(t *testing.T, name string, objects []object) {
	t.Helper()
	count := 0
	for _, o := range objects {
		driver := o.Provisioner + o.Driver + o.DriverName
		if o.Kind == "CSIDriver" {
			driver = o.Metadata.Name
		}
		if driver == "" {
			continue
		}
		if count++; driver != driverName(name) && driver != "kubernetes.io/cinder" {
			t.Errorf("%s %s names the driver %s, want %s", o.Kind, o.Metadata.Name, driver, driverName(name))
		}
	}
	want := 1
	switch name {
	case "rbd with all":
		want = 2
	case "minimal":
		want = 0
	case "everything":
		want = 6
	}
	if count != want {
		t.Errorf("%d objects name the driver, want %d", count, want)
	}
}
