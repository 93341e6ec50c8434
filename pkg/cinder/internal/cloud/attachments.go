package cloud

import (
	"context"
	"net/url"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/attachments"
	"github.com/gophercloud/gophercloud/v2/pagination"
)

// AttachmentRecord is Cinder's record of an attachment. It exists from the reservation of the
// volume to its release. Its Status is reserved, attaching, attached, detaching or one of Cinder's
// error states.
type AttachmentRecord = attachments.Attachment

// AttachmentRecords lists all of Cinder's attachments of a volume. Unlike Volume.Attachments they
// include those that are not completed. Kind Unsupported: the cloud does not have microversion
// 3.27.
func (c *Cloud) AttachmentRecords(ctx context.Context, volumeID string) ([]AttachmentRecord, error) {
	call := cinderCall("attachment_records", "listing the attachments of volume "+volumeID) // no 404 is about the volume
	call.needs = featureAttachments.need()
	query := url.Values{"volume_id": {volumeID}}.Encode()
	// attachments.List asks for details, which have the secrets of the storage's connections.
	records, _, err := listPage[AttachmentRecord](ctx, c, call, "attachments",
		func(client *serviceClient) pagination.Pager {
			return pagination.NewPager(client, client.ServiceURL("attachments")+"?"+query, nil)
		})
	// A filter that a cloud ignores must not make other volumes match.
	isOther := func(r AttachmentRecord) bool { return !strings.EqualFold(r.VolumeID, volumeID) }
	return slices.DeleteFunc(records, isOther), err
}

// DeleteAttachment deletes Cinder's record of an attachment and ends the access of the host to the
// volume. Cinder refuses that while the volume is still attached in Nova (OSSA-2023-003). Releases
// without this check do not refuse, so the caller must ask Nova first. Kinds: NotFound, InProgress
// (still attached in Nova), Unsupported.
func (c *Cloud) DeleteAttachment(ctx context.Context, id string) error {
	call := cinderCall("attachment_delete", "deleting attachment "+id, object{"attachment", id})
	call.needs = featureAttachments.need()
	return c.run(ctx, call, func(client *serviceClient) error { return attachments.Delete(ctx, client, id).ExtractErr() })
}
