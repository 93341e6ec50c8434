// Package deploy_test checks the manifests and examples against the plugins:
// what they say must be what the programs take. That a Kubernetes API server
// takes them too is not tested here.
package deploy_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/growvol/growvol/pkg/attached"
	"github.com/growvol/growvol/tests/co"
)

// object is what the checks need of a Kubernetes object.
type object struct {
	Kind        string `yaml:"kind"`
	Provisioner string `yaml:"provisioner"`
	Driver      string `yaml:"driver"`
	DriverName  string `yaml:"driverName"`
	Metadata    struct {
		Name string `yaml:"name"`
	} `yaml:"metadata"`
	Spec struct {
		Template struct {
			Spec struct {
				Containers []container `yaml:"containers"`
			} `yaml:"spec"`
		} `yaml:"template"`
	} `yaml:"spec"`
}

type container struct {
	Name  string   `yaml:"name"`
	Image string   `yaml:"image"`
	Args  []string `yaml:"args"`
}

// objects reads every object of every file below dir of the module.
func objects(t *testing.T, dir string) map[string][]object {
	t.Helper()
	root, err := co.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string][]object)
	err = filepath.WalkDir(filepath.Join(root, dir), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".yaml" {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		decoder := yaml.NewDecoder(f)
		for {
			var o object
			if err := decoder.Decode(&o); errors.Is(err, io.EOF) {
				return f.Close()
			} else if err != nil {
				return errors.Join(err, f.Close())
			}
			found[path] = append(found[path], o)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Fatalf("there is no manifest below %s", dir)
	}
	return found
}

// Every option that a manifest gives to a plugin is one that it has.
func TestManifestsGiveKnownOptions(t *testing.T) {
	bin, err := co.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for path, objects := range objects(t, "deploy/kubernetes") {
		for _, o := range objects {
			for _, c := range o.Spec.Template.Spec.Containers {
				if c.Name != "growvol" {
					continue
				}
				help := helpOf(t, filepath.Join(bin, c.Image))
				for _, arg := range c.Args {
					option, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
					if !strings.Contains(help, "\n  -"+option) {
						t.Errorf("%s: %s has no option %s", filepath.Base(path), c.Image, arg)
					}
					checked++
				}
			}
		}
	}
	if checked == 0 {
		t.Error("no option was checked")
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

// Classes and the CSIDriver name the driver as the plugins do, or the in-tree
// one that Kubernetes translates to it.
func TestManifestsNameTheDriver(t *testing.T) {
	t.Parallel()
	named := 0
	for _, dir := range []string{"deploy/kubernetes", "examples/cinder"} {
		for path, objects := range objects(t, dir) {
			for _, o := range objects {
				name := o.Provisioner + o.Driver + o.DriverName
				if o.Kind == "CSIDriver" {
					name = o.Metadata.Name
				}
				if name == "" {
					continue
				}
				named++
				if name != attached.DriverName && name != "kubernetes.io/cinder" {
					t.Errorf("%s: %s %s names the driver %s, want %s", filepath.Base(path), o.Kind, o.Metadata.Name, name, attached.DriverName)
				}
			}
		}
	}
	if named < 4 {
		t.Errorf("only %d objects name a driver", named)
	}
}
