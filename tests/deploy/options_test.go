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

	"github.com/growvol/growvol/pkg/attached"
	"github.com/growvol/growvol/pkg/loop"
	"github.com/growvol/growvol/tests/co"
)

// Every option that the chart gives to a plugin is one that it has, and the
// name of each of its images is that of a plugin.
func TestOptionsAreKnown(t *testing.T) {
	bin, err := co.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	help := map[string]string{}
	for _, program := range []string{"growvol-controller", "growvol-node"} {
		help[program] = helpOf(t, filepath.Join(bin, program))
	}
	checked := map[string]bool{}
	for name, values := range sets() {
		controller, node := workloads(t, render(t, values))
		for _, o := range []object{controller, node} {
			c := o.Spec.Template.Spec.Containers[0]
			program, _, _ := strings.Cut(path.Base(c.Image), ":")
			program, _, _ = strings.Cut(program, "@")
			if c.Name != "growvol" || help[program] == "" {
				t.Errorf("%s: container %s of %s is of no plugin", name, c.Name, c.Image)
			}
			for _, arg := range c.Args {
				option, _, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
				if checked[option] = true; !strings.Contains(help[program], "\n  -"+option+" ") && !strings.Contains(help[program], "\n  -"+option+"\n") {
					t.Errorf("%s: %s has no option %s", name, program, arg)
				}
			}
		}
	}
	if len(checked) < 20 {
		t.Errorf("only %d options were checked", len(checked))
	}
}

func helpOf(t *testing.T, program string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("%s --help: %v\n%s", program, err, out)
	}
	return string(out)
}

// What the resizer must be told for growth in use.
func TestResizer(t *testing.T) {
	controller, _ := workloads(t, render(t, "backend: loop"))
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

// The sidecars may what they need: no role has everything of something, or
// reads secrets that no value names.
func TestRoles(t *testing.T) {
	for name, values := range sets() {
		objects := render(t, values)
		roles := 0
		for _, o := range objects {
			for _, rule := range o.Rules {
				roles++
				if slices.Contains(rule.Resources, "*") || slices.Contains(rule.Verbs, "*") {
					t.Errorf("%s: %s %s: %v", name, o.Kind, o.Metadata.Name, rule)
				}
				if slices.Contains(rule.Resources, "secrets") && (o.Kind != "Role" || !slices.Equal(rule.ResourceNames, []string{"luks"}) || !slices.Equal(rule.Verbs, []string{"get"})) {
					t.Errorf("%s: %s %s reads secrets: %v", name, o.Kind, o.Metadata.Name, rule)
				}
			}
			if !strings.HasSuffix(o.Kind, "Binding") {
				continue
			}
			if _, found := find(objects, o.RoleRef.Kind, o.RoleRef.Name); !found {
				t.Errorf("%s: %s binds %v, which is not there", name, o.Metadata.Name, o.RoleRef)
			}
			for _, s := range o.Subjects {
				if _, found := find(objects, s.Kind, s.Name); !found || s.Namespace != "storage" || strings.HasSuffix(s.Name, "-node") {
					t.Errorf("%s: %s is for %v", name, o.Metadata.Name, s)
				}
			}
		}
		if (roles > 0) != (name != "little") {
			t.Errorf("%s: %d rules", name, roles)
		}
	}
}

// Objects that name the driver name the same one, or the in-tree one that
// Kubernetes translates to it.
func TestDriverIsNamedAlike(t *testing.T) {
	for name, values := range sets() {
		objects, want := render(t, values), attached.DriverName
		switch {
		case strings.HasPrefix(name, "loop"):
			want = loop.DriverName
		case name == "everything":
			want = "csi.example.com"
		}
		named := 0
		for _, o := range objects {
			driver := o.Provisioner + o.Driver + o.DriverName
			if o.Kind == "CSIDriver" {
				driver = o.Metadata.Name
			}
			if driver == "" {
				continue
			}
			if named++; driver != want && driver != "kubernetes.io/cinder" {
				t.Errorf("%s: %s %s is of %s, want %s", name, o.Kind, o.Metadata.Name, driver, want)
			}
		}
		if atLeast := map[string]int{"little": 0, "everything": 6}[name]; named < atLeast || named == 0 && name != "little" {
			t.Errorf("%s: %d objects name the driver", name, named)
		}
	}
}

func content(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
