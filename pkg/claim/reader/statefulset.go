package reader

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// StatefulSet is a StatefulSet with the claims of its templates.
type StatefulSet struct {
	Object *appsv1.StatefulSet
	Claims []corev1.PersistentVolumeClaim
}

// TemplateOf returns the name of the template that the claim was made from, and the ordinal.
// Kubernetes names the claims TEMPLATE-STATEFULSET-ORDINAL.
func TemplateOf(object *appsv1.StatefulSet, claimName string) (template string, ordinal int, ok bool) {
	for i := range object.Spec.VolumeClaimTemplates {
		template = object.Spec.VolumeClaimTemplates[i].Name
		text, found := strings.CutPrefix(claimName, template+"-"+object.Name+"-")
		if !found {
			continue
		}
		if ordinal, err := strconv.ParseUint(text, 10, 31); err == nil {
			return template, int(ordinal), true
		}
	}
	return "", 0, false
}

// selectClaims selects the claims of the StatefulSet.
func selectClaims(object *appsv1.StatefulSet, all []corev1.PersistentVolumeClaim) []corev1.PersistentVolumeClaim {
	selected := slices.DeleteFunc(slices.Clone(all), func(c corev1.PersistentVolumeClaim) bool {
		_, _, ok := TemplateOf(object, c.Name)
		return !ok
	})
	slices.SortFunc(selected, func(a, b corev1.PersistentVolumeClaim) int {
		templateA, ordinalA, _ := TemplateOf(object, a.Name)
		templateB, ordinalB, _ := TemplateOf(object, b.Name)
		return cmp.Or(strings.Compare(templateA, templateB), cmp.Compare(ordinalA, ordinalB))
	})
	return selected
}
