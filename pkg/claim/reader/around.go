package reader

import (
	"context"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/growvol/growvol/pkg/apierror"
	"github.com/growvol/growvol/pkg/claim"
)

// around remembers the objects around claims that were read. This file reads them.
type around struct {
	classes map[string]claim.Reading[*storagev1.StorageClass]
	drivers map[string]claim.Reading[*storagev1.CSIDriver]
	// attachments are those of all volumes, or nil as long as they were not read.
	attachments *claim.Reading[[]storagev1.VolumeAttachment]
}

// addAround adds the class of the claim, and, where a pod waits for the volume or a growth does not
// begin, the driver and the attachments of the volume.
func (s *snapshot) addAround(ctx context.Context, o *claim.Objects) {
	if name := o.Claim.Spec.StorageClassName; name != nil && *name != "" {
		o.Class = s.class(ctx, *name)
	}
	pv := o.Volume.Value
	if pv == nil || pv.Spec.CSI == nil {
		return
	}
	if claim.Request(o.Claim) > claim.Capacity(o.Claim) || claim.IsPodPending(o.Pods.Value) {
		o.CSIDriver = s.driver(ctx, pv.Spec.CSI.Driver)
		o.Attachments = s.attachments(ctx, pv.Name)
	}
}

func (s *snapshot) class(ctx context.Context, name string) claim.Reading[*storagev1.StorageClass] {
	reading, isKnown := s.around.classes[name]
	if isKnown {
		return reading
	}
	object, err := s.reader.Client.StorageV1().StorageClasses().Get(ctx, name, metav1.GetOptions{})
	if reading.Err = apierror.Of(err, "get", "storageclasses", ""); err == nil {
		reading.Value = object
	}
	s.around.classes[name] = reading
	return reading
}

func (s *snapshot) driver(ctx context.Context, name string) claim.Reading[*storagev1.CSIDriver] {
	reading, isKnown := s.around.drivers[name]
	if isKnown {
		return reading
	}
	object, err := s.reader.Client.StorageV1().CSIDrivers().Get(ctx, name, metav1.GetOptions{})
	if reading.Err = apierror.Of(err, "get", "csidrivers", ""); err == nil {
		reading.Value = object
	}
	s.around.drivers[name] = reading
	return reading
}

// attachments returns the attachments of the PersistentVolume.
func (s *snapshot) attachments(ctx context.Context, volume string) claim.Reading[[]storagev1.VolumeAttachment] {
	if s.around.attachments == nil {
		s.around.attachments = &claim.Reading[[]storagev1.VolumeAttachment]{}
		list, err := s.reader.Client.StorageV1().VolumeAttachments().List(ctx, metav1.ListOptions{})
		if s.around.attachments.Err = apierror.Of(err, "list", "volumeattachments", ""); err == nil {
			s.around.attachments.Value = list.Items
		}
	}
	reading := claim.Reading[[]storagev1.VolumeAttachment]{Err: s.around.attachments.Err}
	for _, object := range s.around.attachments.Value {
		if name := object.Spec.Source.PersistentVolumeName; name != nil && *name == volume {
			reading.Value = append(reading.Value, object)
		}
	}
	return reading
}
