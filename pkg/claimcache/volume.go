package claimcache

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// annotationMigratedTo names the CSI driver of a PersistentVolume with an in-tree volume.
const annotationMigratedTo = "pv.kubernetes.io/migrated-to"

// VolumeOf returns the PersistentVolume of a bound claim. It returns nil without an error if the
// volume is gone, belongs to another claim, or is not of one of the drivers.
func VolumeOf(
	ctx context.Context, reader client.Reader, c *corev1.PersistentVolumeClaim, drivers []string,
) (*corev1.PersistentVolume, error) {
	var pv corev1.PersistentVolume
	err := reader.Get(ctx, types.NamespacedName{Name: c.Spec.VolumeName}, &pv)
	switch ref := pv.Spec.ClaimRef; {
	case apierrors.IsNotFound(err):
		return nil, nil //nolint:nilnil // documented
	case err != nil:
		return nil, fmt.Errorf("read PersistentVolume %s of claim %s/%s: %w", c.Spec.VolumeName, c.Namespace, c.Name, err)
	case ref == nil || ref.UID != c.UID || !slices.Contains(drivers, driverOf(&pv)):
		return nil, nil //nolint:nilnil // documented
	}
	return &pv, nil
}

// Volumes returns how a cache keeps PersistentVolumes: with what VolumeOf and HandleOf read.
func Volumes() cache.ByObject {
	return cache.ByObject{Transform: func(object any) (any, error) { return reduceVolume(object), nil }}
}

func reduceVolume(object any) any {
	pv, ok := object.(*corev1.PersistentVolume)
	if !ok {
		return object
	}
	small := &corev1.PersistentVolume{TypeMeta: pv.TypeMeta}
	small.Name, small.UID, small.ResourceVersion = pv.Name, pv.UID, pv.ResourceVersion
	if driver := pv.Annotations[annotationMigratedTo]; driver != "" {
		small.Annotations = map[string]string{annotationMigratedTo: driver}
	}
	small.Spec.ClaimRef = pv.Spec.ClaimRef
	if csi := pv.Spec.CSI; csi != nil {
		small.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: csi.Driver, VolumeHandle: csi.VolumeHandle}
	}
	if cinder := pv.Spec.Cinder; cinder != nil {
		small.Spec.Cinder = &corev1.CinderPersistentVolumeSource{VolumeID: cinder.VolumeID}
	}
	return small
}

// HandleOf returns the id of the volume, as its CSI driver has it. It is empty if the volume has
// none.
func HandleOf(pv *corev1.PersistentVolume) string {
	switch {
	case pv.Spec.CSI != nil:
		return pv.Spec.CSI.VolumeHandle
	case pv.Spec.Cinder != nil:
		return pv.Spec.Cinder.VolumeID
	}
	return ""
}

// driverOf returns the CSI driver of the volume. It is empty if the volume has none.
func driverOf(pv *corev1.PersistentVolume) string {
	if pv.Spec.CSI != nil {
		return pv.Spec.CSI.Driver
	}
	return pv.Annotations[annotationMigratedTo]
}
