package claimcache

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The cache keeps what the tasks read, and nothing else of a pod.
func TestReducedPodsHaveWhatIsRead(t *testing.T) {
	now := metav1.Now()
	mount := func(name string) []corev1.VolumeMount {
		return []corev1.VolumeMount{{Name: name, MountPath: "/" + name}}
	}
	source := func(name string) corev1.VolumeSource {
		return corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}
	}
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "app", Name: "writer", UID: "1", ResourceVersion: "7", DeletionTimestamp: &now,
			Annotations: map[string]string{"growvol.io/a": "b", AnnotationMirror: "c", "other": "secret"},
			Labels:      map[string]string{"other": "secret"},
		},
		Spec: corev1.PodSpec{
			NodeName: "node1",
			InitContainers: []corev1.Container{{
				Image: "secret", VolumeMounts: mount("data"), Env: []corev1.EnvVar{{Name: "A", Value: "secret"}},
			}},
			Containers: []corev1.Container{
				{VolumeMounts: mount("s")},
				{VolumeMounts: mount("e"), VolumeDevices: []corev1.VolumeDevice{{Name: "logs", DevicePath: "/dev/a"}}},
			},
			Volumes: []corev1.Volume{
				{Name: "data", VolumeSource: source("data")},
				{Name: "logs", VolumeSource: source("logs")},
				{Name: "unused", VolumeSource: source("unused")},
				{Name: "e", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{
					VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
						ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "secret"}},
					},
				}}},
				{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "secret"}}},
			},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "secret"},
	}
	small, ok := reduce(p).(*corev1.Pod)
	if !ok || strings.Contains(fmt.Sprint(small), "secret") {
		t.Fatalf("got %v, want a pod without what the tasks do not read", small)
	}
	if got, want := ClaimsOf(small), []string{"data", "logs", "writer-e"}; !slices.Equal(got, want) ||
		!slices.Equal(ClaimsOf(p), want) {
		t.Errorf("got the claims %v, and of the whole pod %v, want %v", got, ClaimsOf(p), want)
	}
	want := &corev1.Pod{ObjectMeta: *p.ObjectMeta.DeepCopy()}
	want.Labels = nil
	delete(want.Annotations, "other")
	if !reflect.DeepEqual(small.ObjectMeta, want.ObjectMeta) {
		t.Errorf("got the metadata %+v, want %+v", small.ObjectMeta, want.ObjectMeta)
	}
	if small.Spec.NodeName != "node1" || small.Status.Phase != corev1.PodRunning {
		t.Errorf("got node %q and phase %q", small.Spec.NodeName, small.Status.Phase)
	}
}

// A pod without claims keeps no containers, and another object stays as it is.
func TestPodsWithoutClaimsAreSmall(t *testing.T) {
	p := &corev1.Pod{Spec: corev1.PodSpec{
		Containers: []corev1.Container{{VolumeMounts: []corev1.VolumeMount{{Name: "a"}}}},
	}}
	if small, ok := reduce(p).(*corev1.Pod); !ok || small.Spec.Containers != nil {
		t.Errorf("got %v, want a pod without containers", small)
	}
	other := &corev1.Secret{}
	if got := reduce(other); got != other {
		t.Errorf("got %v for another object, want it unchanged", got)
	}
	if got := ClaimsOf(other); got != nil {
		t.Errorf("got the claims %v of another object", got)
	}
}

// Pods of pvc-autoresizer are recognized by the label of its chart or by the image, also when they
// are reduced.
func TestPodsOfPvcAutoresizer(t *testing.T) {
	for image, want := range map[string]bool{
		"ghcr.io/topolvm/pvc-autoresizer:0.20.0":         true,
		"localhost:5000/pvc-autoresizer@sha256:01234567": true,
		"pvc-autoresizer":                        true,
		"ghcr.io/topolvm/pvc-autoresizer-docs:1": false,
		"postgres:17":                            false,
	} {
		p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: image}}}}
		small, ok := reduce(p).(*corev1.Pod)
		if got := len(AutoresizersOf(p)) > 0; !ok || got != want || len(AutoresizersOf(small)) > 0 != want {
			t.Errorf("image %s: got %t, and %v for the reduced pod, want %t", image, got, AutoresizersOf(small), want)
		}
	}
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{labelName: autoresizer}}}
	if small, ok := reduce(p).(*corev1.Pod); !ok || len(AutoresizersOf(small)) != 1 {
		t.Errorf("the label %s=%s is not recognized", labelName, autoresizer)
	}
	if AutoresizersOf(&corev1.Secret{}) != nil {
		t.Error("a Secret runs no program")
	}
}

// The cache keeps of a volume what the tasks read.
func TestReducedVolumesHaveWhatIsRead(t *testing.T) {
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: "pv", UID: "1", ResourceVersion: "7", Labels: map[string]string{"a": "secret"},
			Annotations: map[string]string{annotationMigratedTo: "cinder.csi.openstack.org", "other": "secret"},
		},
		Spec: corev1.PersistentVolumeSpec{
			ClaimRef: &corev1.ObjectReference{UID: "2"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				Cinder: &corev1.CinderPersistentVolumeSource{VolumeID: "vol-1", FSType: "secret"},
			},
		},
	}
	small, ok := reduceVolume(pv).(*corev1.PersistentVolume)
	if !ok || strings.Contains(fmt.Sprint(small), "secret") || small.Name != "pv" || small.Spec.ClaimRef.UID != "2" {
		t.Fatalf("got %v", small)
	}
	if HandleOf(small) != "vol-1" || driverOf(small) != "cinder.csi.openstack.org" {
		t.Errorf("got the handle %q and the driver %q of an in-tree volume", HandleOf(small), driverOf(small))
	}
	pv.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
		Driver: "loop.growvol.io", VolumeHandle: "vol-2", VolumeAttributes: map[string]string{"a": "secret"},
	}}
	small, ok = reduceVolume(pv).(*corev1.PersistentVolume)
	if !ok || HandleOf(small) != "vol-2" || driverOf(small) != "loop.growvol.io" ||
		strings.Contains(fmt.Sprint(small), "secret") {
		t.Errorf("got %v", small)
	}
	if HandleOf(&corev1.PersistentVolume{}) != "" {
		t.Error("got a handle of a volume that has none")
	}
}
