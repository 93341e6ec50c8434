package deploy_test

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/capability"
	"github.com/growvol/growvol/pkg/node"
	"github.com/growvol/growvol/pkg/volume"
)

// TestExamplesNameExistingObjects checks the examples with the classes of either backend: every
// object that they name exists, and every class allows expansion.
func TestExamplesNameExistingObjects(t *testing.T) {
	for _, backend := range []string{"cinder", "loop", "rbd"} {
		objects := append(readObjects(t, "examples/*.yaml"), readObjects(t, "examples/"+backend+"/*.yaml")...)
		namedKinds := map[string]bool{}
		checkExists := func(by object, kind, name string) {
			if name == "" {
				return
			}
			namedKinds[kind] = true
			if _, found := findObject(objects, kind, name); !found {
				t.Errorf("%s: %s %s names %s %s, which does not exist", backend, by.Kind, by.Metadata.Name, kind, name)
			}
		}
		for _, o := range objects {
			checkExists(o, "StorageClass", o.Spec.StorageClassName)
			checkExists(o, "VolumeSnapshotClass", o.Spec.VolumeSnapshotClassName)
			checkExists(o, "PersistentVolumeClaim", o.Spec.Source.Claim)
			checkExists(o, o.Spec.DataSource.Kind, o.Spec.DataSource.Name)
			for _, v := range o.Spec.Volumes {
				checkExists(o, "PersistentVolumeClaim", v.Claim.Name)
				checkExists(o, "StorageClass", v.Ephemeral.Template.Spec.StorageClassName)
			}
			for _, c := range o.Spec.VolumeClaimTemplates {
				checkExists(o, "StorageClass", c.Spec.StorageClassName)
			}
			if o.Kind == "StorageClass" && !o.AllowVolumeExpansion {
				t.Errorf("%s: the class %s does not allow expansion", backend, o.Metadata.Name)
			}
		}
		if len(namedKinds) != 4 {
			t.Errorf("%s: the examples name the kinds %v, want 4 kinds", backend, namedKinds)
		}
	}
}

// TestParametersOfExamples checks that the reference has every parameter of a class, and that a
// class of encrypted volumes names a Secret that exists and has the passphrase.
func TestParametersOfExamples(t *testing.T) {
	const prefix = "csi.storage.k8s.io/node-stage-secret-"
	reference := readText(t, "docs/reference.md")
	for _, backend := range []string{"cinder", "loop", "rbd"} {
		objects := readObjects(t, "examples/"+backend+"/*.yaml")
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
			secret, found := findObject(objects, "Secret", o.Parameters[prefix+"name"])
			if !found || secret.StringData[node.PassphraseKey] == "" {
				t.Errorf("%s: the Secret of %s: got found %t and the data %v, want a passphrase",
					backend, o.Metadata.Name, found, secret.StringData)
			}
			if o.Parameters[volume.EncryptedKey] != "true" || o.Parameters[prefix+"namespace"] != "${pvc.namespace}" {
				t.Errorf("%s: the class %s has the parameters %v, want %s=true and the namespace of the claim",
					backend, o.Metadata.Name, o.Parameters, volume.EncryptedKey)
			}
		}
		if encrypted != 1 {
			t.Errorf("%s: got %d classes of encrypted volumes, want 1", backend, encrypted)
		}
	}
}

// TestSmallestVolumesInTheReference checks that the reference has the minimum sizes of the
// controller.
func TestSmallestVolumesInTheReference(t *testing.T) {
	reference := readText(t, "docs/reference.md")
	rows, n := regexp.MustCompile(`(?m)^\| ((?:xfs|btrfs|ext)[a-z0-9, ]*) \| ([0-9]+ [KM]iB) \|$`), 0
	for _, row := range rows.FindAllStringSubmatch(reference, -1) {
		for fstype := range strings.SplitSeq(row[1], ", ") {
			if n++; capability.MinFilesystemSize(fstype).String() != row[2] {
				t.Errorf("the minimum size of %s: the reference has %s, want %s", fstype, row[2],
					capability.MinFilesystemSize(fstype))
			}
		}
	}
	if n != 5 {
		t.Errorf("the reference has %d filesystems, want 5", n)
	}
}

// TestInTreeClassHasOnlyItsOldParameters checks the example of an old StorageClass of the in-tree
// driver.
func TestInTreeClassHasOnlyItsOldParameters(t *testing.T) {
	class, found := findObject(readObjects(t, "examples/cinder/in-tree-storageclass.yaml"), "StorageClass", "gold")
	parameters := slices.Sorted(maps.Keys(class.Parameters))
	if !found || class.Provisioner != "kubernetes.io/cinder" ||
		!slices.Equal(parameters, []string{"availability", "type"}) {
		t.Errorf("got found %t, provisioner %q and the parameters %v", found, class.Provisioner, parameters)
	}
	if class.Parameters["type"] == "" || class.Parameters["availability"] == "" {
		t.Errorf("got the parameters %v, want values for both", class.Parameters)
	}
}

// TestKustomizations checks that the resources exist, and that the renamed images are those of the
// manifest.
func TestKustomizations(t *testing.T) {
	resource := regexp.MustCompile(`(?m)^resources: \[(.*)\]$`)
	image := regexp.MustCompile(`\{name: ([^,]+), newName: [^,]+, newTag: [^}]+\}`)
	for _, backend := range []string{"cinder", "loop", "rbd"} {
		dir := filepath.Join(moduleRoot(t), "deploy/kubernetes", backend)
		text := readText(t, filepath.Join(dir, "kustomization.yaml"))
		list := resource.FindStringSubmatch(text)
		if list == nil {
			t.Fatalf("%s/kustomization.yaml has no resources", dir)
		}
		var all []byte
		for file := range strings.SplitSeq(list[1], ", ") {
			all = append(all, readFile(t, filepath.Join(dir, file))...)
		}
		images := image.FindAllStringSubmatch(text, -1)
		if len(images) != 2 {
			t.Errorf("%s renames the images %v, want 2", dir, images)
		}
		for _, i := range images {
			if !strings.Contains(string(all), "image: "+i[1]+":") {
				t.Errorf("%s renames the image %s, which no container has", dir, i[1])
			}
		}
	}
}

// dashboardFile is the dashboard of Grafana.
const dashboardFile = "deploy/charts/growvol/dashboards/growvol.json"

// TestDashboardReadsMetricsOfTheReference checks that the dashboard shows every metric, with labels
// that the metric has.
func TestDashboardReadsMetricsOfTheReference(t *testing.T) {
	text := readFile(t, dashboardFile)
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
	for name, labels := range metricsInReference(t) {
		known[name] = strings.Split(labels, ",")
	}
	series, by := regexp.MustCompile(`growvol_[a-z_]+`), regexp.MustCompile(`by \(([a-z_, ]+)\)`)
	shown := map[string]bool{}
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			name := series.FindString(target.Expr)
			if name == "" {
				continue // a metric of the sidecars
			}
			name = strings.TrimSuffix(name, "_bucket")
			if known[name] == nil {
				name = strings.TrimSuffix(name, "_count")
			}
			shown[name] = true
			grouping := by.FindStringSubmatch(target.Expr)
			if grouping == nil {
				continue
			}
			for label := range strings.SplitSeq(grouping[1], ", ") {
				if label != "le" && !slices.Contains(known[name], label) {
					t.Errorf("%s: %s has the labels %v, but not %s", panel.Title, name, known[name], label)
				}
			}
		}
	}
	if len(shown) != len(known) || len(known) < 8 {
		t.Errorf("the dashboard shows %d metrics, want the %d of the reference (at least 8)", len(shown), len(known))
	}
}

// checkDashboard checks that the ConfigMap has the dashboard without changes.
func checkDashboard(t *testing.T, objects []object) {
	t.Helper()
	configMap, found := findObject(objects, "ConfigMap", "storage-dashboard")
	if !found || configMap.Metadata.Namespace != "monitoring" {
		t.Fatalf("the ConfigMap: got found %t and the metadata %+v", found, configMap.Metadata)
	}
	want := strings.TrimSpace(readText(t, dashboardFile))
	if strings.TrimSpace(configMap.Data["growvol.json"]) != want {
		t.Errorf("the dashboard in the ConfigMap differs from %s", dashboardFile)
	}
}
