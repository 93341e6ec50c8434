package attachment

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/volume"
)

// keyPrefix begins the key of an attachment in the metadata of the image; the name of the node
// follows.
const keyPrefix = "growvol.io/attached/"

// Key returns the key of the attachment to a node in the metadata of the image.
func Key(node string) string { return keyPrefix + node }

// Use is how a node uses an image, as the metadata record it.
type Use struct {
	// ImageID is the image that the record is about: librbd copies the metadata of an image to its
	// clones, which are not attached.
	ImageID  string `json:"imageID"`
	Mode     string `json:"mode"`
	Block    bool   `json:"block,omitempty"`
	ReadOnly bool   `json:"readOnly,omitempty"` // the node maps the image read-only: it cannot write
	Shared   bool   `json:"shared,omitempty"`   // other nodes may use it at the same time
}

// newUse returns the use that a request describes. Whether the mapping is read-only is decided as
// the node does it: one node alone that reads a filesystem has a mapping that can write.
func newUse(imageID string, access volume.Access) Use {
	return Use{
		ImageID: imageID, Mode: access.Mode.String(), Block: access.Block,
		ReadOnly: access.NeedsReadOnlyDevice(), Shared: access.IsShared(),
	}
}

// Uses returns the recorded attachments of an image by node, from all its metadata.
func Uses(imageID string, metadata map[string]string) (map[string]Use, error) {
	out := make(map[string]Use)
	for key, text := range metadata {
		name, ok := strings.CutPrefix(key, keyPrefix)
		if !ok || name == "" {
			continue
		}
		var u Use
		if err := json.Unmarshal([]byte(text), &u); err != nil {
			return nil, fmt.Errorf("cannot read the metadata %s of the image: %w", key, err)
		}
		if u.ImageID == imageID {
			out[name] = u
		}
	}
	return out, nil
}

// NodeNames returns the names of the nodes that an image is attached to, sorted, from all its
// metadata.
func NodeNames(imageID string, metadata map[string]string) ([]string, error) {
	uses, err := Uses(imageID, metadata)
	return slices.Sorted(maps.Keys(uses)), err
}

func (u Use) encode() (string, error) {
	text, err := json.Marshal(u)
	if err != nil {
		return "", fmt.Errorf("cannot encode the attachment: %w", err)
	}
	return string(text), nil
}

// String describes the use in messages.
func (u Use) String() string {
	if u.Block {
		return u.Mode + ", raw block"
	}
	return u.Mode + ", filesystem"
}
