package deploy_test

import (
	"encoding/json"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/capability"
	"github.com/growvol/growvol/pkg/node"
	"github.com/growvol/growvol/pkg/volume"
)

// The examples fit together, with the classes of either backend: what they
// name is there, and copies are larger than what they are copied from.
func TestExamples(t *testing.T) {
	for _, backend := range []string{"cinder", "loop"} {
		objects := append(read(t, "examples/*.yaml"), read(t, "examples/"+backend+"/*.yaml")...)
		named := map[string]bool{}
		need := func(by object, kind, name string) {
			if name == "" {
				return
			}
			named[kind] = true
			if _, found := find(objects, kind, name); !found {
				t.Errorf("%s: %s %s names %s %s, which is not there", backend, by.Kind, by.Metadata.Name, kind, name)
			}
		}
		for _, o := range objects {
			need(o, "StorageClass", o.Spec.StorageClassName)
			need(o, "VolumeSnapshotClass", o.Spec.VolumeSnapshotClassName)
			need(o, "PersistentVolumeClaim", o.Spec.Source.Claim)
			need(o, o.Spec.DataSource.Kind, o.Spec.DataSource.Name)
			for _, v := range o.Spec.Volumes {
				need(o, "PersistentVolumeClaim", v.Claim.Name)
				need(o, "StorageClass", v.Ephemeral.Template.Spec.StorageClassName)
			}
			for _, c := range o.Spec.VolumeClaimTemplates {
				need(o, "StorageClass", c.Spec.StorageClassName)
			}
			if o.Kind == "StorageClass" && !o.AllowVolumeExpansion {
				t.Errorf("%s: volumes of %s cannot grow", backend, o.Metadata.Name)
			}
		}
		if len(named) != 4 {
			t.Errorf("%s: only %v are named", backend, named)
		}
	}
}

// Parameters of the classes are those that the reference has, and a class of
// encrypted volumes names a Secret that is there and has the passphrase.
func TestParametersOfExamples(t *testing.T) {
	const prefix = "csi.storage.k8s.io/node-stage-secret-"
	reference := string(content(t, filepath.Join(root(t), "docs/reference.md")))
	for _, backend := range []string{"cinder", "loop"} {
		objects := read(t, "examples/"+backend+"/*.yaml")
		encrypted := 0
		for _, o := range objects {
			if o.Kind != "StorageClass" {
				continue
			}
			for key := range o.Parameters {
				if !strings.Contains(reference, "`"+key+"`") {
					t.Errorf("%s: the reference does not have the parameter %s of %s", backend, key, o.Metadata.Name)
				}
			}
			if o.Parameters[volume.EncryptedKey] == "" {
				continue
			}
			encrypted++
			secret, found := find(objects, "Secret", o.Parameters[prefix+"name"])
			if !found || secret.StringData[node.PassphraseKey] == "" {
				t.Errorf("%s: the Secret of %s has no passphrase: %v", backend, o.Metadata.Name, secret.StringData)
			}
			if o.Parameters[volume.EncryptedKey] != "true" || o.Parameters[prefix+"namespace"] != "${pvc.namespace}" {
				t.Errorf("%s: %s has the parameters %v", backend, o.Metadata.Name, o.Parameters)
			}
		}
		if encrypted != 1 {
			t.Errorf("%s: %d classes are of encrypted volumes, want 1", backend, encrypted)
		}
	}
}

// What the reference says about the smallest volumes is what the controller
// goes by.
func TestSmallestVolumesInTheReference(t *testing.T) {
	reference := string(content(t, filepath.Join(root(t), "docs/reference.md")))
	rows, n := regexp.MustCompile(`(?m)^\| ((?:xfs|btrfs|ext)[a-z0-9, ]*) \| ([0-9]+ [KM]iB) \|$`), 0
	for _, row := range rows.FindAllStringSubmatch(reference, -1) {
		for fstype := range strings.SplitSeq(row[1], ", ") {
			if n++; capability.MinSize(fstype).String() != row[2] {
				t.Errorf("the smallest %s is %s, and the reference says %s", fstype, capability.MinSize(fstype), row[2])
			}
		}
	}
	if n != 5 {
		t.Errorf("the reference has %d filesystems, want 5", n)
	}
}

// The classic class is the one that clusters have had for years, to the letter.
func TestInTreeClass(t *testing.T) {
	class, found := find(read(t, "examples/cinder/in-tree-storageclass.yaml"), "StorageClass", "gold")
	if !found || class.Provisioner != "kubernetes.io/cinder" || class.Parameters["type"] == "" || class.Parameters["availability"] == "" || len(class.Parameters) != 2 {
		t.Errorf("%+v", class)
	}
}

// What kustomize is told to read is there, and the images that it renames are
// those of the manifest.
func TestKustomizations(t *testing.T) {
	resource := regexp.MustCompile(`(?m)^resources: \[(.*)\]$`)
	image := regexp.MustCompile(`\{name: ([^,]+), newName: [^,]+, newTag: [^}]+\}`)
	for _, backend := range []string{"cinder", "loop"} {
		dir := filepath.Join(root(t), "deploy/kubernetes", backend)
		text := string(content(t, filepath.Join(dir, "kustomization.yaml")))
		list := resource.FindStringSubmatch(text)
		if list == nil {
			t.Fatalf("%s has no resources", dir)
		}
		var all []byte
		for file := range strings.SplitSeq(list[1], ", ") {
			all = append(all, content(t, filepath.Join(dir, file))...)
		}
		images := image.FindAllStringSubmatch(text, -1)
		if len(images) != 2 {
			t.Errorf("%s renames %v", dir, images)
		}
		for _, i := range images {
			if !strings.Contains(string(all), "image: "+i[1]+":") {
				t.Errorf("%s renames the image %s, which no container has", dir, i[1])
			}
		}
	}
}

const dashboardFile = "deploy/charts/growvol/dashboards/growvol.json"

// The dashboard reads metrics that exist, with labels that they have.
func TestDashboard(t *testing.T) {
	text := content(t, filepath.Join(root(t), dashboardFile))
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	known := map[string][]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(growvol_[a-z_]+)\\{([a-z,]+)\\}`").FindAllStringSubmatch(string(content(t, filepath.Join(root(t), "docs/reference.md"))), -1) {
		known[m[1]] = strings.Split(m[2], ",")
	}
	series, by := regexp.MustCompile(`growvol_[a-z_]+`), regexp.MustCompile(`by \(([a-z_, ]+)\)`)
	shown := map[string]bool{}
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			name := series.FindString(target.Expr)
			if name == "" {
				continue // of the sidecars
			}
			name = strings.TrimSuffix(name, "_bucket")
			if known[name] == nil {
				name = strings.TrimSuffix(name, "_count")
			}
			shown[name] = true
			for label := range strings.SplitSeq(by.FindStringSubmatch(target.Expr)[1], ", ") {
				if label != "le" && !slices.Contains(known[name], label) {
					t.Errorf("%s: %s has the labels %v, not %s", panel.Title, name, known[name], label)
				}
			}
		}
	}
	if len(shown) != len(known) || len(known) < 8 {
		t.Errorf("%d series are known, %d are shown", len(known), len(shown))
	}
}

// The chart delivers it as it is.
func checkDashboard(t *testing.T, objects []object) {
	t.Helper()
	configMap, found := find(objects, "ConfigMap", "storage-dashboard")
	want := content(t, filepath.Join(root(t), dashboardFile))
	if !found || configMap.Metadata.Namespace != "monitoring" || strings.TrimSpace(configMap.Data["growvol.json"]) != strings.TrimSpace(string(want)) {
		t.Errorf("the ConfigMap is %v", configMap.Metadata)
	}
}
