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
