package cloud

import (
	"context"
	"net/url"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/attachments"
	"github.com/gophercloud/gophercloud/v2/pagination"
)

// attachmentsAPI is the first microversion with attachments of their own (Ocata).
func attachmentsAPI() need {
	return need{
		"reading the attachments that Cinder keeps", blockStorage, "3.27",
		"ask a cloud administrator to check the attachments of the volume",
	}
}

// AttachmentRecord is what Cinder keeps of an attachment, from the reservation of the volume to
// its release. Its Status is reserved, attaching, attached, detaching or one of Cinder's error
// states.
type AttachmentRecord = attachments.Attachment

// AttachmentRecords lists all of Cinder's attachments of a volume, also the ones that are not
// completed, which the volume itself does not show. Kind Unsupported: the cloud is older than
// 3.27.
func (c *Cloud) AttachmentRecords(ctx context.Context, volumeID string) ([]AttachmentRecord, error) {
	k := cinderCall("attachment_records", "listing the attachments of volume "+volumeID) // no 404 is about the volume
	k.needs = attachmentsAPI()
	query := url.Values{"volume_id": {volumeID}}.Encode()
	// attachments.List asks for details, which have the secrets of the storage's connections.
	records, _, err := listPage[AttachmentRecord](ctx, c, k, "attachments", func(client *serviceClient) pagination.Pager {
		return pagination.NewPager(client, client.ServiceURL("attachments")+"?"+query, nil)
	})
	// A filter that a cloud ignores must not make other volumes match.
	isOther := func(r AttachmentRecord) bool { return !strings.EqualFold(r.VolumeID, volumeID) }
	return slices.DeleteFunc(records, isOther), err
}

// DeleteAttachment removes Cinder's record of an attachment and closes the volume to the host.
// Cinder refuses it while Nova still has the volume on that server (OSSA-2023-003); releases
// without that check believe the caller, who must have asked Nova. Kinds: NotFound, InProgress
// (Nova has it).
func (c *Cloud) DeleteAttachment(ctx context.Context, id string) error {
	k := cinderCall("attachment_delete", "deleting attachment "+id, object{"attachment", id})
	k.needs = attachmentsAPI()
	return c.run(ctx, k, func(client *serviceClient) error { return attachments.Delete(ctx, client, id).ExtractErr() })
}
