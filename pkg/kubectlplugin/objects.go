package kubectlplugin

import (
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/growvol/growvol/pkg/claim"
)

// The type of the objects that status prints. The API server does not know it.
const (
	statusAPIVersion = "growvol.io/v1alpha1"
	statusKind       = "ClaimStatus"
)

// printObjects prints the statuses with kubectl's printers: JSON, YAML, JSONPath, templates, names.
func (p *plugin) printObjects(o statusOptions, statuses []claim.Status, isSingle bool) error {
	printer, err := o.printFlags.ToPrinter()
	if err != nil {
		return err
	}
	if o.format() == "name" {
		for i := range statuses {
			c := &corev1.PersistentVolumeClaim{
				TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"},
				ObjectMeta: metav1.ObjectMeta{Name: statuses[i].Name, Namespace: statuses[i].Namespace},
			}
			if err := printer.PrintObj(c, p.Out); err != nil {
				return err
			}
		}
		return nil
	}
	list, err := toList(statuses)
	if err != nil {
		return err
	}
	var object runtime.Object = list
	if isSingle {
		object = &list.Items[0]
	}
	return printer.PrintObj(object, p.Out)
}

// toList returns the statuses as a list of Kubernetes.
func toList(statuses []claim.Status) (*unstructured.UnstructuredList, error) {
	list := &unstructured.UnstructuredList{Object: map[string]any{"apiVersion": "v1", "kind": "List"}}
	for i := range statuses {
		object, err := toObject(&statuses[i])
		if err != nil {
			return nil, err
		}
		list.Items = append(list.Items, *object)
	}
	return list, nil
}

// toObject returns the status as an object of Kubernetes: what kubectl's printers accept.
func toObject(s *claim.Status) (*unstructured.Unstructured, error) {
	raw, err := json.Marshal(struct {
		APIVersion string            `json:"apiVersion"`
		Kind       string            `json:"kind"`
		Metadata   metav1.ObjectMeta `json:"metadata"`
		Status     *claim.Status     `json:"status"`
	}{statusAPIVersion, statusKind, metav1.ObjectMeta{Name: s.Name, Namespace: s.Namespace}, s})
	if err != nil {
		return nil, err
	}
	object := &unstructured.Unstructured{}
	return object, object.UnmarshalJSON(raw)
}
