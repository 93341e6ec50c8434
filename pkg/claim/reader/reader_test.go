package reader_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"

	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/claim/reader"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

var now = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// statsOf are stats that a test gives.
type statsOf map[string][]reader.PodVolumeStats

func (s statsOf) ReadStats(_ context.Context, node string) ([]reader.PodVolumeStats, error) {
	return s[node], nil
}

// objectsOf returns a bound claim of 1 GiB with its volume, its pod and the node.
func objectsOf(name string) []runtime.Object {
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	return []runtime.Object{
		&corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: "uid-" + "claim"},
			Spec: corev1.PersistentVolumeClaimSpec{
				VolumeName: "pv-" + name, Resources: corev1.VolumeResourceRequirements{Requests: size},
			},
			Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: size},
		},
		&corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: "pv-" + name},
			Spec: corev1.PersistentVolumeSpec{Capacity: size, PersistentVolumeSource: corev1.PersistentVolumeSource{
				CSI: &corev1.CSIPersistentVolumeSource{Driver: "loop.growvol.io", VolumeHandle: "handle-" + name},
			}},
		},
		&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "pod-" + name},
			Spec: corev1.PodSpec{NodeName: "node1", Volumes: []corev1.Volume{{
				Name: "volume", VolumeSource: corev1.VolumeSource{
					PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
				},
			}}},
		},
	}
}

func csiNode() runtime.Object {
	return &storagev1.CSINode{
		ObjectMeta: metav1.ObjectMeta{Name: "node1"},
		Spec:       storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{Name: "loop.growvol.io"}}},
	}
}

func statsFor(names ...string) statsOf {
	var all []reader.PodVolumeStats
	for _, name := range names {
		all = append(all, reader.PodVolumeStats{Namespace: "shop", Claim: name, VolumeStats: claim.VolumeStats{
			Node: "node1", Capacity: 960 * volume.MiB, Used: volume.MiB, Available: 959 * volume.MiB, ReadAt: now,
		}})
	}
	return statsOf{"node1": all}
}

func newReader(client kubernetes.Interface, stats reader.Stats) *reader.Reader {
	return &reader.Reader{Client: client, Stats: stats, Now: func() time.Time { return now }}
}

func readStatus(t *testing.T, r *reader.Reader, name string) claim.Status {
	t.Helper()
	c, err := r.Claim(t.Context(), "shop", name)
	if err != nil {
		t.Fatal(err)
	}
	return r.Status(t.Context(), c)
}

func TestStatusReadsAllObjects(t *testing.T) {
	client := fake.NewClientset(append(objectsOf("data"), csiNode())...)
	s := readStatus(t, newReader(client, statsFor("data")), "data")
	if s.Driver != "loop.growvol.io" || s.Handle != "handle-data" || len(s.Pods) != 1 || s.Pods[0].Node != "node1" {
		t.Errorf("got the driver %q, the volume %q and the pods %+v", s.Driver, s.Handle, s.Pods)
	}
	if got := s.Layer(claim.LayerFilesystem); got.Size != 960*volume.MiB || got.State != claim.StateOK {
		t.Errorf("got the filesystem %+v, want 960 MiB from kubelet", got)
	}
	if s.Diagnosis.Kind != claim.KindGrown || s.Diagnosis.Severity != claim.SeverityNone {
		t.Errorf("got %+v, want a grown claim", s.Diagnosis)
	}
	if got := s.Layer(claim.LayerDevice).Problem; !strings.Contains(got, "gives no readings") {
		t.Errorf("the device's problem is %q, want that the driver gives no readings", got)
	}
}

// driverLayers is a driver that gives readings.
type driverLayers []claim.Layer

func (d driverLayers) ReadLayers(
	_ context.Context, volumes []reader.DriverVolume,
) []claim.Reading[[]claim.Layer] {
	var all []claim.Reading[[]claim.Layer]
	for _, v := range volumes {
		r := claim.Reading[[]claim.Layer]{Value: d}
		if v != (reader.DriverVolume{Driver: "loop.growvol.io", Handle: "handle-data", Node: "node1"}) {
			r = claim.Reading[[]claim.Layer]{Err: volume.Errorf(volume.KindNotFound, "no volume %+v", v)}
		}
		all = append(all, r)
	}
	return all
}

func TestStatusHasTheDriversReadings(t *testing.T) {
	r := newReader(fake.NewClientset(append(objectsOf("data"), csiNode())...), statsFor("data"))
	r.Driver = driverLayers{{Name: claim.LayerDevice, Size: volume.GiB, State: claim.StateOK, Source: "/dev/loop0"}}
	s := readStatus(t, r, "data")
	if got := s.Layer(claim.LayerDevice); got.Size != volume.GiB || got.Source != "/dev/loop0" {
		t.Errorf("got the device %+v, want the driver's", got)
	}
	if got := s.Layer(claim.LayerVolume); got.State != claim.StateUnknown {
		t.Errorf("got the volume %+v, want unknown: the driver does not report it", got)
	}
}

// forbid lets the API server refuse the verb on the resource.
func forbid(client *fake.Clientset, verb, resourceName string) {
	client.PrependReactor(verb, resourceName, func(action clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(
			schema.GroupResource{Resource: action.GetResource().Resource}, "", nil)
	})
}

// A user who may only read claims sees these, and for the rest the rights that are missing.
func TestStatusNamesMissingRights(t *testing.T) {
	client := fake.NewClientset(append(objectsOf("data"), csiNode())...)
	for _, right := range [][2]string{
		{"get", "persistentvolumes"}, {"list", "pods"}, {"list", "events"}, {"get", "csinodes"},
	} {
		forbid(client, right[0], right[1])
	}
	s := readStatus(t, newReader(client, statsFor("data")), "data")
	if got := s.Layer(claim.LayerClaim).Size; got != volume.GiB {
		t.Errorf("got a claim of %s, want 1 GiB", got)
	}
	for name, want := range map[claim.LayerName]string{
		claim.LayerPV: "get persistentvolumes", claim.LayerVolume: "get persistentvolumes",
		claim.LayerFilesystem: "list pods",
	} {
		got := s.Layer(name)
		if got.State != claim.StateUnknown || !strings.Contains(got.Problem, "the right to "+want+" is missing") {
			t.Errorf("%s: got %s with the problem %q, want the missing right to %s", name, got.State, got.Problem, want)
		}
	}
	if got := strings.Join(s.Problems, "; "); !strings.Contains(got, "list events") {
		t.Errorf("the problems are %q, want the missing right to list events", got)
	}
	if s.Diagnosis.Severity != claim.SeverityUnknown {
		t.Errorf("got the severity %s, want unknown", s.Diagnosis.Severity)
	}
}

// Many claims are read with one list of each kind, not with a call for each claim.
func TestStatusesReadEachKindOnce(t *testing.T) {
	objects := []runtime.Object{csiNode()}
	var names []string
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		objects = append(objects, objectsOf(name)...)
		names = append(names, name)
	}
	client := fake.NewClientset(objects...)
	r := newReader(client, statsFor(names...))
	claims, err := r.Claims(t.Context(), reader.Selection{Namespace: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	client.ClearActions()
	statuses := r.Statuses(t.Context(), claims)
	for i := range statuses {
		if statuses[i].Diagnosis.Kind != claim.KindGrown || statuses[i].Driver == "" || statuses[i].Usage == nil {
			t.Errorf("%s: got %+v, want a grown claim with its driver and usage", statuses[i].Name, statuses[i])
		}
	}
	if got := len(client.Actions()); got != 4 {
		t.Errorf("got %d calls of the API server for %d claims, want 4: %v", got, len(claims), client.Actions())
	}

	forbid(client, "list", "persistentvolumes")
	for _, s := range r.Statuses(t.Context(), claims) {
		if got := s.Layer(claim.LayerPV).Problem; !strings.Contains(got, "list persistentvolumes") {
			t.Errorf("%s: the problem of the PV is %q, want the missing right to list persistentvolumes", s.Name, got)
		}
	}
}

func TestClaimErrors(t *testing.T) {
	client := fake.NewClientset()
	r := newReader(client, statsOf{})
	_, err := r.Claim(t.Context(), "shop", "absent")
	volumetest.WantKind(t, err, volume.KindNotFound)
	forbid(client, "get", "persistentvolumeclaims")
	_, err = r.Claim(t.Context(), "shop", "data")
	volumetest.WantKind(t, err, volume.KindDenied)
}

func TestStatefulSetClaims(t *testing.T) {
	set := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"},
		Spec: appsv1.StatefulSetSpec{VolumeClaimTemplates: []corev1.PersistentVolumeClaim{
			{ObjectMeta: metav1.ObjectMeta{Name: "data"}}, {ObjectMeta: metav1.ObjectMeta{Name: "wal"}},
		}},
	}
	objects := []runtime.Object{set}
	for _, name := range []string{
		"data-db-10", "data-db-2", "wal-db-0", "data-db-x", "data-db-1-0", "data-dbx-0", "data-db", "data-db-", "data-db--1",
	} {
		objects = append(objects, objectsOf(name)[0])
	}
	got, err := newReader(fake.NewClientset(objects...), statsOf{}).StatefulSetClaims(t.Context(), "shop", "db")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for i := range got.Claims {
		names = append(names, got.Claims[i].Name)
	}
	if want := []string{"data-db-2", "data-db-10", "wal-db-0"}; !slices.Equal(names, want) {
		t.Errorf("got the claims %q, want %q", names, want)
	}
}

const summaryText = `{"pods": [{"volume": [
	{"name": "token", "time": "2026-11-28T11:59:00Z", "capacityBytes": 1},
	{"name": "data", "time": "2026-11-28T11:59:00Z", "capacityBytes": 1000, "availableBytes": 400, "usedBytes": 500,
	 "inodes": 10, "inodesUsed": 3, "pvcRef": {"name": "data", "namespace": "shop"}},
	{"name": "new", "time": "2026-11-28T11:59:00Z", "pvcRef": {"name": "new", "namespace": "shop"}}]}]}`

func TestKubeletReadsStats(t *testing.T) {
	status, body := http.StatusOK, summaryText
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/nodes/node1/proxy/stats/summary" {
			t.Errorf("got the path %s", r.URL.Path)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	defer server.Close()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	kubelet := reader.Kubelet{Client: client.CoreV1().RESTClient()}
	got, err := kubelet.ReadStats(t.Context(), "node1")
	if err != nil || len(got) != 1 {
		t.Fatalf("got %+v and %v, want the volume of the claim data", got, err)
	}
	want := reader.PodVolumeStats{Namespace: "shop", Claim: "data", VolumeStats: claim.VolumeStats{
		Node: "node1", Capacity: 1000, Available: 400, Used: 500, Inodes: 10, InodesUsed: 3,
		ReadAt: time.Date(2026, 11, 28, 11, 59, 0, 0, time.UTC),
	}}
	if got[0] != want {
		t.Errorf("got %+v, want %+v", got[0], want)
	}

	status, body = http.StatusForbidden, `{"kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403}`
	_, err = kubelet.ReadStats(t.Context(), "node1")
	volumetest.WantKind(t, err, volume.KindDenied)
	if !strings.Contains(err.Error(), "get nodes/proxy") {
		t.Errorf("got %q, want the right that is missing", err)
	}
	status, body = http.StatusServiceUnavailable, `{"kind": "Status", "status": "Failure", "code": 503}`
	_, err = kubelet.ReadStats(t.Context(), "node1")
	volumetest.WantKind(t, err, volume.KindUnavailable)
}
