package kubeapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// VolumeAttachmentsPath is the path of VolumeAttachments, for Get.
const VolumeAttachmentsPath = "/apis/storage.k8s.io/v1/volumeattachments/"

// VolumeAttachmentName returns the name of the VolumeAttachment that Kubernetes makes for a volume
// of a CSI driver and a node (pkg/volume/csi of Kubernetes, getAttachmentName).
func VolumeAttachmentName(driver, handle, node string) string {
	sum := sha256.Sum256([]byte(handle + driver + node))
	return "csi-" + hex.EncodeToString(sum[:])
}

// IsAttached reports whether Kubernetes has a VolumeAttachment of the volume and the node that the
// driver has attached and that nobody has begun to remove. Kubernetes marks it as deleted before it
// calls ControllerUnpublishVolume.
func (a API) IsAttached(ctx context.Context, driver, handle, node string) (bool, error) {
	c, err := a.Open()
	if err != nil {
		return false, err
	}
	defer c.Close()
	var found struct {
		Metadata struct {
			Name              string `json:"name"`
			DeletionTimestamp string `json:"deletionTimestamp"`
		} `json:"metadata"`
		Spec struct {
			Attacher string `json:"attacher"`
			NodeName string `json:"nodeName"`
		} `json:"spec"`
		Status struct {
			Attached bool `json:"attached"`
		} `json:"status"`
	}
	name := VolumeAttachmentName(driver, handle, node)
	err = c.Get(ctx, VolumeAttachmentsPath, name, &found)
	if IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if found.Metadata.Name != name || found.Spec.Attacher != driver || found.Spec.NodeName != node {
		return false, fmt.Errorf("the API server answered with the VolumeAttachment %q of the driver %q and the node %q "+
			"for a request about %s", found.Metadata.Name, found.Spec.Attacher, found.Spec.NodeName, name)
	}
	return found.Status.Attached && found.Metadata.DeletionTimestamp == "", nil
}
