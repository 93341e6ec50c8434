package deploy_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	clienttesting "k8s.io/client-go/testing"

	"github.com/growvol/growvol/pkg/claim/doctor"
)

// soundNodes are nodes that `kubectl growvol doctor` has nothing to report of.
type soundNodes struct{}

func (soundNodes) ReadSyncFrequency(context.Context, string) (time.Duration, error) {
	return time.Minute, nil
}

func (soundNodes) ReadRequirements(context.Context, string, string, int32) (map[string]bool, error) {
	return map[string]bool{"state_dir": true}, nil
}

func (soundNodes) ReadCloudAPIs(context.Context, string, string, int32) ([]doctor.CloudAPI, error) {
	return nil, errors.New("no pod runs here")
}

// decodeDoctorObjects returns the objects of the chart that the doctor reads, with the status of
// pods that are ready.
func decodeDoctorObjects(t *testing.T, manifests []byte) []runtime.Object {
	t.Helper()
	documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(manifests)))
	var objects []runtime.Object
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		decoded, _, err := scheme.Codecs.UniversalDeserializer().Decode(document, nil, nil)
		if err != nil {
			continue // a kind of a CRD
		}
		switch o := decoded.(type) {
		case *appsv1.Deployment:
			o.Status = appsv1.DeploymentStatus{ReadyReplicas: *o.Spec.Replicas, UpdatedReplicas: *o.Spec.Replicas}
			objects = append(objects, o)
		case *appsv1.DaemonSet:
			o.Status = appsv1.DaemonSetStatus{DesiredNumberScheduled: 1, NumberReady: 1, UpdatedNumberScheduled: 1}
			objects = append(objects, o, &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: "pod", Labels: o.Spec.Template.Labels},
				Spec:       corev1.PodSpec{NodeName: "node1"},
			})
		case *storagev1.CSIDriver, *storagev1.StorageClass:
			objects = append(objects, decoded)
			if driver, isDriver := decoded.(*storagev1.CSIDriver); isDriver {
				objects = append(objects, &storagev1.CSINode{
					ObjectMeta: metav1.ObjectMeta{Name: "node1"},
					Spec:       storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{Name: driver.Name}}},
				})
			}
		}
	}
}

// allowAll lets the API server answer that everything is allowed.
func allowAll(client *clienttesting.Fake) {
	client.PrependReactor("create", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		switch a.GetResource().Resource {
		case "selfsubjectaccessreviews":
			return true, &authorizationv1.SelfSubjectAccessReview{
				Status: authorizationv1.SubjectAccessReviewStatus{Allowed: true},
			}, nil
		case "subjectaccessreviews":
			return true, &authorizationv1.SubjectAccessReview{
				Status: authorizationv1.SubjectAccessReviewStatus{Allowed: true},
			}, nil
		}
		return false, nil, nil
	})
}

// The doctor finds no fault in what the chart installs.
func TestDoctorAcceptsTheChart(t *testing.T) {
	helm := newHelm(t)
	for name, values := range map[string]string{
		"loop":   `{backend: loop, storageClasses: [{name: a}]}`,
		"cinder": `{cinder: {existingSecret: clouds}, storageClasses: [{name: a}]}`,
		"rbd": `
backend: rbd
rbd: {existingConfigMap: a, existingSecret: b}
storageClasses: [{name: a, parameters: {pool: p, clusterID: c}}]`,
		"everything": valueSets()["everything"],
	} {
		t.Run(name, func(t *testing.T) {
			manifests, err := helm.template(t, values)
			if err != nil {
				t.Fatalf("helm template: %s", errorOutput(err))
			}
			client := fake.NewClientset(append(decodeDoctorObjects(t, manifests), &corev1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: "node1"},
				Status:     corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{KernelVersion: "6.1.0"}},
			})...)
			client.Resources = []*metav1.APIResourceList{{
				GroupVersion: "snapshot.storage.k8s.io/v1", APIResources: []metav1.APIResource{
					{Name: "volumesnapshots"}, {Name: "volumesnapshotcontents"}, {Name: "volumesnapshotclasses"},
				},
			}}
			allowAll(&client.Fake)
			d, err := doctor.New(client, soundNodes{})
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range d.Check(t.Context()) {
				isCloud := c.Verdict == doctor.VerdictUnknown && c.Name == "cloud"
				if c.Verdict != doctor.VerdictOK && !isCloud {
					t.Errorf("got %s %s: %s", c.Verdict, c.Name, c.Text)
				}
			}
		})
	}
}
