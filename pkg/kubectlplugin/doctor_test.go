package kubectlplugin

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"

	"github.com/growvol/growvol/deploy/charts"
	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/claim/doctor"
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
		Node: "node1", Capacity: shown, Used: volume.MiB, Available: shown - volume.MiB,
		ReadAt: now.Add(-40 * time.Second),
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
	idle.want(t, exitDone, []string{
		"no claim could be checked", "1 claim not checked", "1: no pod has the volume mounted: shop/idle",
	},
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

// noNodes are nodes that the user may not read.
type noNodes struct{}

func (noNodes) ReadSyncFrequency(context.Context, string) (time.Duration, error) {
	return 0, volume.Errorf(volume.KindDenied, "the right to get nodes/proxy is missing")
}

func (noNodes) ReadRequirements(context.Context, string, string, int32) (map[string]bool, error) {
	return nil, volume.Errorf(volume.KindDenied, "the right to get pods/proxy is missing")
}

func (noNodes) ReadCloudAPIs(context.Context, string, string, int32) ([]doctor.CloudAPI, error) {
	return nil, volume.Errorf(volume.KindDenied, "the right to get pods/proxy is missing")
}

// allowAll lets the API server answer that everything is allowed.
func (p *testPlugin) allowAll() {
	p.client.PrependReactor("create", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		allowed := authorizationv1.SubjectAccessReviewStatus{Allowed: true}
		switch a.GetResource().Resource {
		case "selfsubjectaccessreviews":
			return true, &authorizationv1.SelfSubjectAccessReview{Status: allowed}, nil
		case "subjectaccessreviews":
			return true, &authorizationv1.SubjectAccessReview{Status: allowed}, nil
		}
		return false, nil, nil
	})
}

// installation returns the objects of a release of the chart with the loop backend.
func installation(t *testing.T) []runtime.Object {
	t.Helper()
	tags, err := charts.Sidecars()
	if err != nil {
		t.Fatal(err)
	}
	options, err := charts.SidecarOptions()
	if err != nil {
		t.Fatal(err)
	}
	labelsOf := func(component string) map[string]string {
		return map[string]string{
			"app.kubernetes.io/name": "growvol", "app.kubernetes.io/instance": "growvol",
			"app.kubernetes.io/component": component,
		}
	}
	meta := metav1.ObjectMeta{Namespace: "csi", Name: "growvol-controller", Labels: labelsOf("controller")}
	plugin := corev1.Container{Name: "growvol", Args: []string{"--backend=loop"}}
	var controller []corev1.Container
	for _, name := range []string{"csi-provisioner", "csi-attacher", "csi-resizer"} {
		controller = append(controller, corev1.Container{
			Name: name, Image: name + ":" + tags[name], Args: append([]string{"--timeout=2m"}, options[name]...),
		})
	}
	deployment := &appsv1.Deployment{ObjectMeta: meta}
	deployment.Spec.Template.Spec.Containers = append(controller, plugin)
	deployment.Status = appsv1.DeploymentStatus{ReadyReplicas: 1, UpdatedReplicas: 1}
	meta.Name, meta.Labels = "growvol-node", labelsOf("node")
	set := &appsv1.DaemonSet{ObjectMeta: meta}
	set.Spec.Selector = &metav1.LabelSelector{MatchLabels: meta.Labels}
	set.Spec.Template.Spec.Containers = []corev1.Container{
		plugin, {Name: "node-driver-registrar", Args: []string{"--kubelet-registration-path=/x/csi.sock"}},
	}
	set.Spec.Template.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{
		HostPath: &corev1.HostPathVolumeSource{Path: "/x"},
	}}}
	set.Status = appsv1.DaemonSetStatus{DesiredNumberScheduled: 1, NumberReady: 1, UpdatedNumberScheduled: 1}
	set.Spec.Template.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "metrics", ContainerPort: 9810}}
	meta.Name = "growvol-node-1"
	pod := &corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{NodeName: "node1"}}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}
	node.Status.NodeInfo.KernelVersion = "6.1.0"
	return []runtime.Object{deployment, set, pod, &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}, node}
}

func TestDoctorChecksTheInstallation(t *testing.T) {
	p := newTestPlugin(fixedStats{}, installation(t)...)
	p.nodes = noNodes{}
	p.allowAll()
	p.want(t, exitRefused, []string{
		"fail   CSIDriver", "fail   CSINode", "warn   StorageClass",
		"the right to get pods/proxy is missing", "next step: ",
	}, "doctor")
	p.out.Reset()
	p.run(t.Context(), []string{"doctor"})
	p.wantGolden(t, "doctor.txt")
	p.want(t, exitRefused, []string{`"verdict": "fail"`, `"name": "CSINode"`, `"kind": "DoctorReport"`},
		"doctor", "-o", "json")
	p.want(t, exitRefused, []string{"unknown command"}, "doctor", "data")

	// Warnings do not change the exit code.
	objects := installation(t)
	registered, isNode := objects[3].(*storagev1.CSINode)
	if !isNode {
		t.Fatalf("got the object %T, want a CSINode", objects[3])
	}
	registered.Spec.Drivers = []storagev1.CSINodeDriver{{Name: "loop.growvol.io"}}
	driver := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "loop.growvol.io"}}
	p = newTestPlugin(fixedStats{}, append(objects, driver)...)
	p.nodes = noNodes{}
	p.allowAll()
	p.want(t, exitDone, []string{"ok     CSINode", "warn   CSIDriver", "warn   kubelet"}, "doctor")
}
