// Package snapname holds the names of the driver's snapshots: the name inside the image, and the
// RADOS object that claims it for one volume of a pool.
package snapname

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
)

// Prefix begins the names of the snapshots of this driver, and of their objects.
const Prefix = "growvol.snapshot."

// maxNameLength keeps the name below 250 bytes, the maximum of the kernel's client (Linux,
// drivers/block/rbd.c, RBD_MAX_SNAP_NAME_LEN).
const maxNameLength = 128

// Claim says which volume has the snapshot of a name. It is the content of the object.
type Claim struct {
	Name     string `json:"name"`     // volume.SnapshotRequest.Name
	VolumeID string `json:"volumeID"` // handle of the volume
	ImageID  string `json:"imageID"`  // of the volume
}

// Object returns the name of the snapshot inside its image, and of the object. Names with other
// characters than letters, digits, and _ . - are replaced by a hash.
func (c Claim) Object() string {
	const characters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
	if len(c.Name) <= maxNameLength && strings.Trim(c.Name, characters) == "" {
		return Prefix + c.Name
	}
	hash := sha256.Sum256([]byte(c.Name))
	return Prefix + hex.EncodeToString(hash[:])
}

// Encode returns the content of the object.
func (c Claim) Encode() []byte {
	text, err := json.Marshal(c)
	if err != nil {
		panic(err) // strings can always be encoded
	}
	return text
}

// Decode decodes the content of the object of that name.
func Decode(object string, content []byte) (Claim, error) {
	var c Claim
	if err := json.Unmarshal(content, &c); err != nil {
		return Claim{}, fmt.Errorf("the object %s cannot be decoded: %w", object, err)
	}
	return c, nil
}
