package kubectlplugin

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"

	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/claim/reader"
	"github.com/growvol/growvol/pkg/volume"
)

var update = flag.Bool("update", false, "write the files in testdata")

// wantGolden fails the test unless the output is that of the file in testdata.
func (p *testPlugin) wantGolden(t *testing.T, name string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, p.out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.out.String(); got != string(want) {
		t.Errorf("got\n%s\nwant, as in %s,\n%s", got, path, want)
	}
}

func statsOf(name string, shown volume.Size) reader.PodVolumeStats {
	return reader.PodVolumeStats{Namespace: "shop", Claim: name, VolumeStats: claim.VolumeStats{
		Node: "node1", Capacity: shown, Used: volume.MiB, Available: shown - volume.MiB, ReadAt: now.Add(-40 * time.Second),
	}}
}

// withoutPod returns the objects of a claim without its pod.
func withoutPod(objects []runtime.Object) []runtime.Object { return objects[:2] }

// withDriver sets driver and filesystem of a claim's PersistentVolume.
func withDriver(t *testing.T, objects []runtime.Object, driver, fsType string) []runtime.Object {
	t.Helper()
	pv, isVolume := objects[1].(*corev1.PersistentVolume)
	if !isVolume {
		t.Fatalf("got the object %T, want a PersistentVolume", objects[1])
	}
	pv.Spec.CSI.Driver, pv.Spec.CSI.FSType = driver, fsType
	return objects
}

func TestDoctorFindsShortFilesystems(t *testing.T) {
	var objects []runtime.Object
	for _, more := range [][]runtime.Object{
		claimOf("grown", "1Gi", "1Gi"),
		withDriver(t, claimOf("short", "20Gi", "20Gi"), "ebs.csi.aws.com", "xfs"),
		withDriver(t, claimOf("shorter", "2Ti", "2Ti"), "ebs.csi.aws.com", "btrfs"),
		withoutPod(claimOf("idle", "1Gi", "1Gi")),
		withoutPod(claimOf("idle-2", "1Gi", "1Gi")),
		claimOf("fresh", "1Gi", "1Gi"),
	} {
		objects = append(objects, more...)
	}
	stats := fixedStats{
		statsOf("grown", 960*volume.MiB), statsOf("short", 9*volume.GiB), statsOf("shorter", volume.TiB),
	}
	p := newTestPlugin(stats, objects...)
	p.want(t, exitRefused, nil, "doctor", "--all")
	p.wantGolden(t, "doctor-all.txt")
	p.want(t, exitRefused, []string{`"kind": "DoctorReport"`, `"name": "shorter"`, `"missingBytes": 1099478073344`},
		"doctor", "--all", "-o", "json")
	p.want(t, exitRefused, []string{"checked: 3\n", "total: 6\n", "- shop/idle-2\n"}, "doctor", "--all", "-o", "yaml")
	p.want(t, exitRefused, []string{"unable to match a printer"}, "doctor", "--all", "-o", "xml")
}

func TestDoctorFindsNothing(t *testing.T) {
	p := newTestPlugin(fixedStats{statsOf("grown", 960*volume.MiB)}, claimOf("grown", "1Gi", "1Gi")...)
	p.want(t, exitDone, []string{"no filesystem is smaller than its claim says: 1 claim checked"}, "doctor", "--all")

	idle := newTestPlugin(fixedStats{}, withoutPod(claimOf("idle", "1Gi", "1Gi"))...)
	idle.want(t, exitDone, []string{"no claim could be checked", "1 claim not checked", "1: no pod has the volume mounted: shop/idle"},
		"doctor", "--all")
}

func TestDoctorNamesTheMissingRight(t *testing.T) {
	p := newTestPlugin(fixedStats{}, claimOf("data", "1Gi", "1Gi")...)
	p.client.PrependReactor("list", "persistentvolumeclaims",
		func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "persistentvolumeclaims"}, "",
				errors.New("no"))
		})
	p.want(t, exitRefused, []string{"the right to list persistentvolumeclaims is missing", "in the whole cluster"},
		"doctor", "--all")
}
