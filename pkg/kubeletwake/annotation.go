package kubeletwake

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/growvol/growvol/pkg/volume"
)

// AnnotationWoken is the annotation of a pod whose change wakes kubelet. Its value is a JSON object
// with the size in bytes that kubelet was woken for, for each claim: {"data":2147483648}. It
// survives a restart of the operator, and another replica reads it too.
const AnnotationWoken = "growvol.io/kubelet-woken-for"

// wokenFor returns the sizes that kubelet was woken for, by the name of the claim. A value that is
// no such object counts as none.
func wokenFor(p *corev1.Pod) map[string]volume.Size {
	sizes := map[string]volume.Size{}
	if err := json.Unmarshal([]byte(p.Annotations[AnnotationWoken]), &sizes); err != nil || sizes == nil {
		return map[string]volume.Size{}
	}
	return sizes
}

// newWakePatch returns the JSON merge patch that wakes kubelet for the size of the claim. The API
// server refuses it if the pod has changed since it was read, or is another one of the same name.
func newWakePatch(p *corev1.Pod, claimName string, size volume.Size) ([]byte, error) {
	sizes := wokenFor(p)
	sizes[claimName] = size
	value, err := json.Marshal(sizes)
	if err != nil {
		return nil, fmt.Errorf("encode the annotation %s: %w", AnnotationWoken, err)
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": p.UID, "resourceVersion": p.ResourceVersion,
		"annotations": map[string]string{AnnotationWoken: string(value)},
	}})
	if err != nil {
		return nil, fmt.Errorf("encode the patch of pod %s: %w", p.Name, err)
	}
	return patch, nil
}
