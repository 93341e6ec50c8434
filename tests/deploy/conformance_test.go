package deploy_test

import (
	"bytes"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/growvol/growvol/pkg/capability"
	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/loopcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// description is what Kubernetes' suite for storage reads of a driver's file, as
// far as growvol's files use it. The suite itself ignores keys that it does not
// know.
type description struct {
	StorageClass          className `yaml:"StorageClass"`
	SnapshotClass         className `yaml:"SnapshotClass"`
	VolumeAttributesClass className `yaml:"VolumeAttributesClass"`
	DriverInfo            struct {
		Name  string `yaml:"Name"`
		Sizes struct {
			Min string `yaml:"Min"`
			Max string `yaml:"Max"`
		} `yaml:"SupportedSizeRange"`
		FsTypes           map[string]any  `yaml:"SupportedFsType"`
		MountOptions      map[string]any  `yaml:"SupportedMountOption"`
		TopologyKeys      []string        `yaml:"TopologyKeys"`
		Capabilities      map[string]bool `yaml:"Capabilities"`
		StressTestOptions struct {
			NumPods     int `yaml:"NumPods"`
			NumRestarts int `yaml:"NumRestarts"`
		} `yaml:"StressTestOptions"`
		SnapshotStress struct {
			NumPods      int `yaml:"NumPods"`
			NumSnapshots int `yaml:"NumSnapshots"`
		} `yaml:"VolumeSnapshotStressTestOptions"`
		ModifyStress struct {
			NumPods int `yaml:"NumPods"`
		} `yaml:"VolumeModifyStressTestOptions"`
	} `yaml:"DriverInfo"`
	Timeouts map[string]time.Duration `yaml:"Timeouts"`
}

type className struct {
	FromExistingClassName string `yaml:"FromExistingClassName"`
}

// What the suite of the version that the tests use knows.
func knownCapabilities() []string {
	return strings.Fields(`persistence block fsGroup volumeMountGroup exec snapshotDataSource snapshotMetadata groupSnapshot pvcDataSource multipods
		RWX controllerExpansion nodeExpansion offlineExpansion onlineExpansion volumeLimits singleNodeVolume topology capacity
		FSResizeFromSourceNotSupported readWriteOncePod multiplePVsSameID capReadOnlyMany seLinuxMount`)
}

func knownTimeouts() []string {
	return strings.Fields(`Poll PodStart PodStartShort PodStartSlow PodDelete ClaimProvision DataSourceProvision ClaimProvisionShort ClaimBound PVReclaim
		PVBound PVCreate PVDelete PVDeleteSlow SnapshotCreate SnapshotDelete SnapshotControllerMetrics SystemPodsStartup NodeSchedulable
		SystemDaemonsetStartup NodeNotReady ClaimUnusedCondition`)
}

// Each backend has a description for Kubernetes' suite for storage that agrees
// with the example's classes and with the driver.
func TestConformanceDescriptions(t *testing.T) {
	for backend, topology := range map[string]string{"cinder": cindercsi.TopologyKey, "loop": loopcsi.TopologyKey} {
		t.Run(backend, func(t *testing.T) {
			d := readDescription(t, filepath.Join(root(t), "examples/conformance", backend+".yaml"))
			objects := read(t, "examples/"+backend+"/*.yaml")
			checkClasses(t, d, objects)
			info := d.DriverInfo
			if !slices.Equal(info.TopologyKeys, []string{topology}) {
				t.Errorf("the topology keys are %q, want %q", info.TopologyKeys, topology)
			}
			for name := range info.Capabilities {
				if !slices.Contains(knownCapabilities(), name) {
					t.Errorf("the suite does not know the capability %s", name)
				}
			}
			smallest := parseSize(t, info.Sizes.Min)
			if largest := parseSize(t, info.Sizes.Max); largest < smallest {
				t.Errorf("sizes are from %s to %s", smallest, largest)
			}
			for name := range info.FsTypes {
				if _, err := filesystem.ParseType(name); err != nil || smallest < capability.MinSize(name) {
					t.Errorf("the filesystem %q cannot be made on %s (%v)", name, smallest, err)
				}
			}
			for name, limit := range d.Timeouts {
				if !slices.Contains(knownTimeouts(), name) || limit < time.Minute {
					t.Errorf("the suite does not know the time limit %s, or %s is too short", name, limit)
				}
			}
		})
	}
}

func readDescription(t *testing.T, file string) description {
	t.Helper()
	var d description
	decoder := yaml.NewDecoder(bytes.NewReader(content(t, file)))
	decoder.KnownFields(true)
	if err := decoder.Decode(&d); err != nil {
		t.Fatal(err)
	}
	return d
}

// checkClasses: the classes that the description names are among the examples,
// are the driver's, and can do what the description claims.
func checkClasses(t *testing.T, d description, objects []object) {
	t.Helper()
	driver, expandable := d.DriverInfo.Name, d.DriverInfo.Capabilities["controllerExpansion"]
	storage, found := find(objects, "StorageClass", d.StorageClass.FromExistingClassName)
	if !found || storage.Provisioner != driver || storage.AllowVolumeExpansion != expandable {
		t.Errorf("the StorageClass %s has to be there (%t), of %s (%s), with allowVolumeExpansion %t (%t)",
			d.StorageClass.FromExistingClassName, found, driver, storage.Provisioner, expandable, storage.AllowVolumeExpansion)
	}
	if filesystem := storage.Parameters["csi.storage.k8s.io/fstype"]; filesystem != "" {
		if _, supported := d.DriverInfo.FsTypes[filesystem]; !supported {
			t.Errorf("the class makes %s, which the description does not have", filesystem)
		}
	}
	snapshots, found := find(objects, "VolumeSnapshotClass", d.SnapshotClass.FromExistingClassName)
	if !found || snapshots.Driver != driver {
		t.Errorf("the VolumeSnapshotClass %s has to be there (%t), of %s (%s)", d.SnapshotClass.FromExistingClassName, found, driver, snapshots.Driver)
	}
	if name := d.VolumeAttributesClass.FromExistingClassName; name != "" {
		if class, found := find(objects, "VolumeAttributesClass", name); !found || class.DriverName != driver {
			t.Errorf("the VolumeAttributesClass %s has to be there (%t), of %s (%s)", name, found, driver, class.DriverName)
		}
	}
}

// parseSize reads a size as the descriptions write it: a number and Gi or Ti.
func parseSize(t *testing.T, text string) volume.Size {
	t.Helper()
	units := map[string]volume.Size{"Gi": volume.GiB, "Ti": 1024 * volume.GiB}
	m := regexp.MustCompile(`^([1-9][0-9]?)(Gi|Ti)$`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("%q is not a size in Gi or Ti", text)
	}
	var n volume.Size
	for _, digit := range m[1] {
		n = 10*n + volume.Size(digit-'0')
	}
	return n * units[m[2]]
}

// The results in the documentation are of the version of Kubernetes that the
// tests use, for both backends, and every failure and skip has its reason.
func TestConformanceResults(t *testing.T) {
	text := string(content(t, filepath.Join(root(t), "docs/conformance.md")))
	pins := content(t, filepath.Join(root(t), "tests/kubernetes/programs/cluster/go.mod"))
	version := regexp.MustCompile(`(?m)^\tk8s\.io/kubernetes (v\S+)$`).FindSubmatch(pins)
	if version == nil || !strings.Contains(text, "in version "+string(version[1])+",") {
		t.Errorf("the tests use Kubernetes %s, of which the results are not: run `make cluster-conformance`", version)
	}
	for _, backend := range []string{"cinder", "loop"} {
		_, table, _ := strings.Cut(text, "<!-- results on "+backend+" -->")
		table, _, _ = strings.Cut(table, "<!-- end of results on "+backend+" -->")
		if !regexp.MustCompile(`(?m)^\| \*\*all\*\* \| \*\*[1-9][0-9]*\*\* \|`).MatchString(table) || strings.Contains(table, "not listed") {
			t.Errorf("the results on %s are not complete: %s", backend, table)
		}
	}
}
