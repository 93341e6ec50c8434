package deploy_test

import (
	"context"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/loopcsi"
	"github.com/growvol/growvol/tests/csiclient"
)

// helpOfPlugins returns what the plugins say of their options.
func helpOfPlugins(t *testing.T) map[string]string {
	t.Helper()
	bin, err := csiclient.BuildPlugins(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	help := map[string]string{}
	for _, program := range []string{"growvol-controller", "growvol-node"} {
		out, err := exec.CommandContext(ctx, filepath.Join(bin, program), "--help").CombinedOutput() //nolint:gosec // one of ours
		if err != nil {
			t.Fatalf("%s --help: %v\n%s", program, err, out)
		}
		help[program] = string(out)
	}
	return help
}

// The container is of a plugin, by the name of its image, which has every
// option that it is given.
func checkOptions(t *testing.T, help map[string]string, c container) {
	t.Helper()
	program, _, _ := strings.Cut(strings.TrimSuffix(path.Base(c.Image), "@sha256:0123"), ":")
	if c.Name != "growvol" || help[program] == "" || len(c.Args) < 5 {
		t.Errorf("container %s of %s with %v is of no plugin", c.Name, c.Image, c.Args)
	}
	for _, arg := range c.Args {
		option, _, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		if !strings.Contains(help[program], "\n  -"+option+" ") && !strings.Contains(help[program], "\n  -"+option+"\n") {
			t.Errorf("%s has no option %s", program, arg)
		}
	}
}

// What the resizer must be told for growth in use.
func checkResizer(t *testing.T, controller object) {
	t.Helper()
	for _, c := range controller.Spec.Template.Spec.Containers {
		if c.Name != "csi-resizer" {
			continue
		}
		timeout, _ := c.option("timeout")
		inUse, _ := c.option("handle-volume-inuse-error")
		if timeout != "120s" || inUse != "false" {
			t.Errorf("resizer with %v", c.Args)
		}
		return
	}
	t.Error("there is no resizer")
}

// No role has everything of something, or reads secrets that no value names;
// bindings are for the controller, and to roles that are there.
func checkRoles(t *testing.T, name string, objects []object) {
	t.Helper()
	rules := 0
	for _, o := range objects {
		for _, rule := range o.Rules {
			rules++
			if slices.Contains(rule.Resources, "*") || slices.Contains(rule.Verbs, "*") {
				t.Errorf("%s %s: %v", o.Kind, o.Metadata.Name, rule)
			}
			if slices.Contains(rule.Resources, "secrets") && (o.Kind != "Role" || !slices.Equal(rule.ResourceNames, []string{"luks"}) || !slices.Equal(rule.Verbs, []string{"get"})) {
				t.Errorf("%s %s reads secrets: %v", o.Kind, o.Metadata.Name, rule)
			}
		}
		if !strings.HasSuffix(o.Kind, "RoleBinding") {
			continue
		}
		if _, found := find(objects, o.RoleRef.Kind, o.RoleRef.Name); !found {
			t.Errorf("%s binds %v, which is not there", o.Metadata.Name, o.RoleRef)
		}
		for _, s := range o.Subjects {
			forNode := strings.HasSuffix(s.Name, "-node") // the one that checkStartupTaint looks at
			if _, found := find(objects, s.Kind, s.Name); !found || s.Namespace != "storage" || forNode != strings.HasSuffix(o.Metadata.Name, "-startup-taint") {
				t.Errorf("%s is for %v", o.Metadata.Name, s)
			}
		}
	}
	if (rules > 10) != (name != "little") {
		t.Errorf("%d rules", rules)
	}
}

// driverOf is the name of the driver with a set of values.
func driverOf(name string) string {
	switch {
	case name == "everything":
		return "csi.example.com"
	case strings.HasPrefix(name, "loop"):
		return loopcsi.DriverName
	default:
		return cindercsi.DriverName
	}
}

// What names the driver names the same one, or the in-tree one that Kubernetes
// translates to it.
func checkDriver(t *testing.T, name string, objects []object) {
	t.Helper()
	named := 0
	for _, o := range objects {
		driver := o.Provisioner + o.Driver + o.DriverName
		if o.Kind == "CSIDriver" {
			driver = o.Metadata.Name
		}
		if driver == "" {
			continue
		}
		if named++; driver != driverOf(name) && driver != "kubernetes.io/cinder" {
			t.Errorf("%s %s is of %s, want %s", o.Kind, o.Metadata.Name, driver, driverOf(name))
		}
	}
	want := 1
	switch name {
	case "little":
		want = 0
	case "everything":
		want = 6
	}
	if named != want {
		t.Errorf("%d objects name the driver, want %d", named, want)
	}
}

func content(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file) //nolint:gosec // of this module
	if err != nil {
		t.Fatal(err)
	}
	return text
}
