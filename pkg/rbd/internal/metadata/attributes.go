package metadata

import (
	"encoding/json"
	"fmt"
)

// AttributesKey is the key of the attributes of a volume (VolumeAttributesClass). It is a key of
// its own because images without a Record have attributes, too.
const AttributesKey = "growvol.io/attributes"

// attributes is the value of AttributesKey.
type attributes struct {
	ImageID string            `json:"imageID"` // see Record.ImageID
	Values  map[string]string `json:"values,omitempty"`
}

// EncodeAttributes returns the value of AttributesKey.
func EncodeAttributes(imageID string, values map[string]string) string {
	text, err := json.Marshal(attributes{ImageID: imageID, Values: values})
	if err != nil {
		panic(err) // strings can always be encoded
	}
	return string(text)
}

// ReadAttributes returns the attributes of the image of that id; nil: it has none. The error says
// that they cannot be decoded.
func ReadAttributes(imageID string, all map[string]string) (map[string]string, error) {
	text, ok := all[AttributesKey]
	if !ok {
		return nil, nil
	}
	var a attributes
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		return nil, fmt.Errorf("the metadata %s of image id %s cannot be decoded: %w", AttributesKey, imageID, err)
	}
	if a.ImageID != imageID {
		return nil, nil
	}
	return a.Values, nil
}
