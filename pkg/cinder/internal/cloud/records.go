package cloud

import (
	"context"
	"net/url"
	"strings"
)

// attachmentsAPI is the first microversion with attachments of their own.
func attachmentsAPI() need {
	return need{"looking at the attachments that Cinder keeps", blockStorage, microversion{3, 27}, "have an administrator look at the volume"}
}

// AttachmentRecord is what Cinder keeps of an attachment, from the reservation
// of the volume to its release.
type AttachmentRecord struct {
	ID, Instance string
	Status       string // reserved, attaching, attached, detaching, …
}

// AttachmentRecords lists all of Cinder's attachments of a volume, also the
// ones that are not completed, which the volume itself does not show. Kind
// Unsupported: the cloud is older than 3.27 (Ocata).
func (c *Cloud) AttachmentRecords(ctx context.Context, volumeID string) ([]AttachmentRecord, error) {
	if !known(volumeID) {
		return nil, unknown("volume", volumeID)
	}
	var answer struct {
		Attachments []struct {
			ID       string `json:"id"`
			Status   string `json:"status"`
			Instance string `json:"instance"`
			VolumeID string `json:"volume_id"`
		} `json:"attachments"`
	}
	needs := attachmentsAPI()
	err := c.do(ctx, call{
		service: blockStorage, name: "attachment_records", what: "listing the attachments of volume " + volumeID, method: "GET",
		path: query("attachments", url.Values{"volume_id": {volumeID}}), into: &answer, key: "attachments", needs: needs,
	})
	if err != nil {
		return nil, err
	}
	var records []AttachmentRecord
	for _, a := range answer.Attachments {
		// A filter that a cloud ignores must not make other volumes match.
		if strings.EqualFold(a.VolumeID, volumeID) {
			records = append(records, AttachmentRecord{ID: a.ID, Instance: a.Instance, Status: a.Status})
		}
	}
	return records, nil
}

// DeleteAttachment removes Cinder's record of an attachment and closes the
// volume to the host. Cinder refuses it while Nova still has the volume on
// that server (OSSA-2023-003); releases without that check believe the caller,
// who must have asked Nova. Kinds: NotFound, InProgress (Nova has it).
func (c *Cloud) DeleteAttachment(ctx context.Context, id string) error {
	if !known(id) {
		return unknown("attachment", id)
	}
	return c.do(ctx, call{
		service: blockStorage, name: "attachment_delete", what: "deleting attachment " + id, method: "DELETE", path: "attachments/" + id,
		ok: []int{200, 202, 204}, needs: attachmentsAPI(), objects: []string{id},
	})
}
