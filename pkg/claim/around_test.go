package claim

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/growvol/growvol/pkg/volume"
)

// pending returns a claim whose pod is on a node and does not run yet.
func pending() Objects {
	o := withPod(bound("1Gi"))
	o.Pods.Value[0].Status.Phase = corev1.PodPending
	return o
}

func attachment(status storagev1.VolumeAttachmentStatus) []storagev1.VolumeAttachment {
	return []storagev1.VolumeAttachment{
		{Spec: storagev1.VolumeAttachmentSpec{NodeName: "node0"}, Status: storagev1.VolumeAttachmentStatus{Attached: true}},
		{Spec: storagev1.VolumeAttachmentSpec{NodeName: "node1"}, Status: status},
	}
}

// The sentence names what the objects around a claim say.
func TestSentenceOfObjectsAroundAClaim(t *testing.T) {
	absent := volume.Errorf(volume.KindNotFound, "not found")
	problem := &storagev1.VolumeError{Message: "rpc error: code = Internal desc = no slot left (next step: free one)"}
	now := metav1.Now()
	for name, test := range map[string]struct {
		objects  func() Objects
		severity Severity
		want     []string
	}{
		"class without expansion": {func() Objects {
			o := withFilesystem(withPod(bound("1Gi")), volume.GiB)
			o.Class.Value = &storagev1.StorageClass{}
			return o
		}, SeverityNone, []string{"does not allow expansion", "kubectl patch storageclass fast -p"}},
		"class that is gone, and a growth": {func() Objects {
			o := bound("2Gi")
			o.Class.Err = absent
			return o
		}, SeverityWaits, []string{"no component has seen", "StorageClass fast does not exist", "create the StorageClass"}},
		"driver that is gone, and a growth": {func() Objects {
			o := bound("2Gi")
			o.CSIDriver.Err = absent
			return o
		}, SeverityStuck, []string{"request of 2 GiB: no component", "no CSIDriver loop.growvol.io", "install the driver"}},
		"node without the driver": {func() Objects {
			o := pending()
			o.Node.Value.Spec.Drivers = nil
			return o
		}, SeverityStuck, []string{"CSINode: kubelet of node1 does not have the driver loop.growvol.io", "restart"}},
		"attachment fails": {func() Objects {
			o := pending()
			o.Attachments.Value = attachment(storagev1.VolumeAttachmentStatus{AttachError: problem})
			return o
		}, SeverityStuck, []string{
			"VolumeAttachment: Kubernetes cannot attach the volume: no slot left (next step: free one)",
		}},
		"detachment fails": {func() Objects {
			o := bound("1Gi")
			o.Attachments.Value = attachment(storagev1.VolumeAttachmentStatus{Attached: true, DetachError: problem})
			o.Attachments.Value[1].DeletionTimestamp = &now
			return o
		}, SeverityStuck, []string{"cannot detach the volume: no slot left"}},
		"attachment waits": {func() Objects {
			o := pending()
			o.Attachments.Value = attachment(storagev1.VolumeAttachmentStatus{})
			return o
		}, SeverityWaits, []string{"is not attached to node1 yet"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := NewStatus(test.objects())
			got := s.Diagnosis.Sentence(s.ReadAt)
			for _, want := range test.want {
				if !strings.Contains(got, want) {
					t.Errorf("got %q, want %q in it", got, want)
				}
			}
			if s.Diagnosis.Severity != test.severity {
				t.Errorf("got the severity %s, want %s", s.Diagnosis.Severity, test.severity)
			}
		})
	}
}
