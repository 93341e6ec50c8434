package deploy_test

import (
	"bytes"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
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

// description is the file of a driver that Kubernetes' suite for storage reads, with the fields
// that growvol's files use. The suite itself ignores unknown keys.
type description struct {
	StorageClass          className `yaml:"StorageClass"`
	SnapshotClass         className `yaml:"SnapshotClass"`
	GroupSnapshotClass    className `yaml:"GroupSnapshotClass"`
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

// className names a class that exists.
type className struct {
	FromExistingClassName string `yaml:"FromExistingClassName"`
}

// knownCapabilities returns the capabilities in the version of the suite that the tests use.
func knownCapabilities() []string {
	return strings.Fields(`persistence block fsGroup volumeMountGroup exec snapshotDataSource snapshotMetadata
		groupSnapshot pvcDataSource multipods RWX controllerExpansion nodeExpansion offlineExpansion onlineExpansion
		volumeLimits singleNodeVolume topology capacity FSResizeFromSourceNotSupported readWriteOncePod multiplePVsSameID
		capReadOnlyMany seLinuxMount`)
}

// knownTimeouts returns the timeouts in that version.
func knownTimeouts() []string {
	return strings.Fields(`Poll PodStart PodStartShort PodStartSlow PodDelete ClaimProvision DataSourceProvision
		ClaimProvisionShort ClaimBound PVReclaim PVBound PVCreate PVDelete PVDeleteSlow SnapshotCreate SnapshotDelete
		SnapshotControllerMetrics SystemPodsStartup NodeSchedulable SystemDaemonsetStartup NodeNotReady ClaimUnusedCondition`)
}

// TestConformanceDescriptions checks that the description of each backend agrees with the example
// classes and with the driver.
func TestConformanceDescriptions(t *testing.T) {
	topologies := map[string][]string{"cinder": {cindercsi.TopologyKey}, "loop": {loopcsi.TopologyKey}, "rbd": nil}
	for backend, topology := range topologies {
		t.Run(backend, func(t *testing.T) {
			d := readDescription(t, filepath.Join(moduleRoot(t), "examples/conformance", backend+".yaml"))
			objects := readObjects(t, "examples/"+backend+"/*.yaml")
			checkClasses(t, d, objects)
			info := d.DriverInfo
			if !slices.Equal(info.TopologyKeys, topology) {
				t.Errorf("got the topology keys %q, want %q", info.TopologyKeys, topology)
			}
			for name := range info.Capabilities {
				if !slices.Contains(knownCapabilities(), name) {
					t.Errorf("the suite does not know the capability %s", name)
				}
			}
			smallest := parseSize(t, info.Sizes.Min)
			if largest := parseSize(t, info.Sizes.Max); largest < smallest {
				t.Errorf("got the sizes %s to %s, want an increasing range", smallest, largest)
			}
			for name := range info.FsTypes {
				if _, err := filesystem.ParseType(name); err != nil || smallest < capability.MinFilesystemSize(name) {
					t.Errorf("a volume of %s cannot have the filesystem %q (%v)", smallest, name, err)
				}
			}
			for name, timeout := range d.Timeouts {
				if !slices.Contains(knownTimeouts(), name) || timeout < time.Minute {
					t.Errorf("the timeout %s=%s is unknown to the suite or shorter than 1m", name, timeout)
				}
			}
		})
	}
}

// readDescription reads the description in a file; a field that description does not have ends the
// test.
func readDescription(t *testing.T, file string) description {
	t.Helper()
	var d description
	decoder := yaml.NewDecoder(bytes.NewReader(readFile(t, file)))
	decoder.KnownFields(true)
	if err := decoder.Decode(&d); err != nil {
		t.Fatal(err)
	}
	return d
}

// checkClasses checks that the classes in the description are among the examples, belong to the
// driver and have the capabilities that the description claims.
func checkClasses(t *testing.T, d description, objects []object) {
	t.Helper()
	driver, expandable := d.DriverInfo.Name, d.DriverInfo.Capabilities["controllerExpansion"]
	storage, found := findObject(objects, "StorageClass", d.StorageClass.FromExistingClassName)
	if !found || storage.Provisioner != driver || storage.AllowVolumeExpansion != expandable {
		t.Errorf("StorageClass %s: got found %t, provisioner %q, allowVolumeExpansion %t; want true, %q, %t",
			d.StorageClass.FromExistingClassName, found, storage.Provisioner, storage.AllowVolumeExpansion, driver, expandable)
	}
	if filesystem := storage.Parameters["csi.storage.k8s.io/fstype"]; filesystem != "" {
		if _, supported := d.DriverInfo.FsTypes[filesystem]; !supported {
			t.Errorf("the StorageClass has the filesystem %s, which the description does not have", filesystem)
		}
	}
	snapshots, found := findObject(objects, "VolumeSnapshotClass", d.SnapshotClass.FromExistingClassName)
	if !found || snapshots.Driver != driver {
		t.Errorf("VolumeSnapshotClass %s: got found %t and driver %q, want true and %q",
			d.SnapshotClass.FromExistingClassName, found, snapshots.Driver, driver)
	}
	if name := d.GroupSnapshotClass.FromExistingClassName; name != "" {
		if class, found := findObject(objects, "VolumeGroupSnapshotClass", name); !found || class.Driver != driver {
			t.Errorf("VolumeGroupSnapshotClass %s: got found %t and driver %q, want true and %q",
				name, found, class.Driver, driver)
		}
	}
	if name := d.VolumeAttributesClass.FromExistingClassName; name != "" {
		if class, found := findObject(objects, "VolumeAttributesClass", name); !found || class.DriverName != driver {
			t.Errorf("VolumeAttributesClass %s: got found %t and driver %q, want true and %q",
				name, found, class.DriverName, driver)
		}
	}
}

// parseSize parses a size of a description: a number up to 99 with the unit Gi or Ti.
func parseSize(t *testing.T, text string) volume.Size {
	t.Helper()
	units := map[string]volume.Size{"Gi": volume.GiB, "Ti": 1024 * volume.GiB}
	m := regexp.MustCompile(`^([1-9][0-9]?)(Gi|Ti)$`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("%q is not a size in Gi or Ti", text)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return volume.Size(n) * units[m[2]]
}

// TestConformanceResults checks that docs/conformance.md has the results of the version of
// Kubernetes that the tests use, for both backends, with a reason for every failure and skip.
func TestConformanceResults(t *testing.T) {
	text := readText(t, "docs/conformance.md")
	pins := readFile(t, "tests/kubernetes/programs/cluster/go.mod")
	version := regexp.MustCompile(`(?m)^\tk8s\.io/kubernetes (v\S+)$`).FindSubmatch(pins)
	if version == nil || !strings.Contains(text, "in version "+string(version[1])+",") {
		t.Errorf("the results are not those of the version %q that the tests use (next step: make cluster-conformance)",
			version)
	}
	for _, backend := range []string{"cinder", "loop"} {
		_, table, _ := strings.Cut(text, "<!-- results on "+backend+" -->")
		table, _, _ = strings.Cut(table, "<!-- end of results on "+backend+" -->")
		hasSum := regexp.MustCompile(`(?m)^\| \*\*all\*\* \| \*\*[1-9][0-9]*\*\* \|`).MatchString(table)
		if !hasSum || strings.Contains(table, "not listed") {
			t.Errorf("the results on %s are incomplete: %s", backend, table)
		}
	}
}
