// Package noderecord holds what a node writes about itself for the controller of the RBD backend:
// which images its kernel has mapped, and by which Ceph client. The record is an annotation of the
// Node in Kubernetes. The controller fences exactly the clients that the record names; the watchers
// of an image alone do not say which node they are.
//
// Both programs import the package, so it links no Ceph library.
package noderecord

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
)

// Annotations of the Node.
const (
	// ClientsAnnotation holds the Record. Only the plugin of that node writes it.
	ClientsAnnotation = "growvol.io/rbd-clients"
	// FencedAnnotation holds the Fences. Only the controller writes it.
	FencedAnnotation = "growvol.io/rbd-fenced"
)

// maxSize bounds a record in bytes: all annotations of an object together may have 256 KiB.
const maxSize = 160 << 10

// Record lists the Ceph clients of a node's kernel and what they have mapped.
type Record struct {
	Clients []Client `json:"clients"`
}

// Client is one client of the kernel. All mappings with equal options share one.
type Client struct {
	FSID    string  `json:"fsid"`    // of the cluster
	Address string  `json:"address"` // ip:port/nonce, as in the list of an image's watchers
	Images  []Image `json:"images"`
}

// Image is an image that a client has mapped. Its ids identify it; the name changes with a rename.
type Image struct {
	PoolID    int64  `json:"poolID"`
	Namespace string `json:"namespace,omitempty"` // RADOS namespace
	ID        string `json:"id"`
	Snapshot  string `json:"snapshot,omitempty"` // empty: the image itself
	Name      string `json:"name"`               // pool/image or pool/namespace/image, for people
}

// Parse parses the annotation. ok is false for an empty one: the node has not written any.
func Parse(annotation string) (r Record, ok bool, err error) {
	if annotation == "" {
		return Record{}, false, nil
	}
	if err := json.Unmarshal([]byte(annotation), &r); err != nil {
		return Record{}, false, fmt.Errorf("cannot read the annotation %s: %w", ClientsAnnotation, err)
	}
	return r, true, nil
}

// String returns the annotation: the same text for the same mappings.
func (r Record) String() string { return encode(r) }

// encode returns the JSON of a value that can always be encoded.
func encode(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // no type of this package allows it
	}
	return string(text)
}

// MappedBy returns the addresses of the clients that have the image itself mapped, by the ids of
// image.
func (r Record) MappedBy(fsid string, image Image) []string {
	var out []string
	for _, c := range r.Clients {
		isImage := func(i Image) bool {
			return i.PoolID == image.PoolID && i.Namespace == image.Namespace && i.ID == image.ID && i.Snapshot == ""
		}
		if c.FSID == fsid && slices.ContainsFunc(c.Images, isImage) {
			out = append(out, c.Address)
		}
	}
	return out
}

// Has reports whether the address is a client of the node that has images mapped.
func (r Record) Has(fsid, address string) bool { return len(r.Names(fsid, address)) > 0 }

// Images returns all images that the client has mapped.
func (r Record) Images(fsid, address string) []Image {
	for _, c := range r.Clients {
		if c.FSID == fsid && c.Address == address {
			return c.Images
		}
	}
	return nil
}

// Names returns the names of all images that the client has mapped.
func (r Record) Names(fsid, address string) []string {
	var out []string
	for _, i := range r.Images(fsid, address) {
		out = append(out, i.String())
	}
	return out
}

// String returns the name of the image, with the snapshot.
func (i Image) String() string {
	name := i.Name
	if name == "" {
		name = strconv.FormatInt(i.PoolID, 10) + "/" + i.ID
	}
	if i.Snapshot != "" {
		return name + "@" + i.Snapshot
	}
	return name
}

// Fence is a client that the controller has fenced, or is about to fence.
type Fence struct {
	FSID    string `json:"fsid"`
	Address string `json:"address"`
	Since   string `json:"since"` // RFC 3339, for people
}

// ParseFences parses the annotation; empty: none.
func ParseFences(annotation string) ([]Fence, error) {
	if annotation == "" {
		return nil, nil
	}
	var out []Fence
	if err := json.Unmarshal([]byte(annotation), &out); err != nil {
		return nil, fmt.Errorf("cannot read the annotation %s: %w", FencedAnnotation, err)
	}
	return out, nil
}

// FormatFences returns the annotation; empty for none.
func FormatFences(fences []Fence) string {
	if len(fences) == 0 {
		return ""
	}
	return encode(fences)
}
