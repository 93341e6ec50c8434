package luks

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/growvol/growvol/pkg/volume"
)

// The layout of the binary header (LUKS2 On-Disk Format Specification 1.1.1,
// struct luks2_hdr_disk): big-endian, 4096 bytes, with JSON metadata behind it
// up to the header's size. The checksum is of both, with its own field zeroed.
const (
	primaryMagic   = "LUKS\xba\xbe"
	secondaryMagic = "SKUL\xba\xbe"

	binaryLength   = 4096
	atVersion      = 6
	atSize         = 8
	atSequence     = 16
	atChecksumName = 72
	atUUID         = 168
	atOwnOffset    = 256
	atChecksum     = 448
	checksumField  = 64
	nameLength     = 32 // of the checksum's algorithm
	uuidLength     = 40
)

// secondaryPlaces returns where a second copy can begin: right behind a first
// copy of any size that the format allows.
func secondaryPlaces() []int64 {
	const smallest, largest = 0x4000, 0x400000
	var places []int64
	for at := int64(smallest); at <= largest; at *= 2 {
		places = append(places, at)
	}
	return places
}

// headerCopy is one of the two copies of a LUKS2 header.
type headerCopy struct {
	present  bool // it begins with the magic number
	zero     bool // it is nothing but zeros
	version  int
	size     int64
	sequence uint64
	uuid     string
	metadata metadata
	problem  string // why it cannot be trusted
}

// metadata is what this package needs of the JSON area.
type metadata struct {
	Keyslots map[string]struct {
		KDF struct {
			Memory int64 `json:"memory"` // KiB
		} `json:"kdf"`
	} `json:"keyslots"`
	Segments map[string]struct {
		Type   string `json:"type"`
		Offset string `json:"offset"`
		Size   string `json:"size"`
		Sector int64  `json:"sector_size"`
	} `json:"segments"`
	Config struct {
		Requirements struct {
			Mandatory []string `json:"mandatory"`
		} `json:"requirements"`
	} `json:"config"`
}

func (c headerCopy) sound() bool { return c.present && c.problem == "" }

// readCopy reads the copy of the header at an offset. A device that ends
// before has none; err is set only when the device cannot be read.
func readCopy(r io.ReaderAt, at int64, magic string) (headerCopy, error) {
	b, err := readAt(r, at, binaryLength)
	if err != nil {
		return headerCopy{}, err
	}
	if len(b) < binaryLength || string(b[:atVersion]) != magic {
		zero := bytes.Count(b, []byte{0}) == len(b)
		return headerCopy{zero: zero, problem: "is missing"}, nil
	}
	c := headerCopy{
		present: true, version: int(binary.BigEndian.Uint16(b[atVersion:])), size: int64(binary.BigEndian.Uint64(b[atSize:])),
		sequence: binary.BigEndian.Uint64(b[atSequence:]), uuid: text(b[atUUID : atUUID+uuidLength]),
	}
	checksum := text(b[atChecksumName : atChecksumName+nameLength])
	switch {
	case c.version != 2:
		c.problem = fmt.Sprintf("has version %d", c.version)
	case !slices.Contains(secondaryPlaces(), c.size):
		c.problem = fmt.Sprintf("says that it has %d bytes", c.size)
	case int64(binary.BigEndian.Uint64(b[atOwnOffset:])) != at:
		c.problem = "does not say its own place"
	case checksum != "sha256":
		c.problem = fmt.Sprintf("has a checksum of the kind %q", checksum)
	case !volume.IsUUID(c.uuid):
		c.problem = "has no UUID"
	}
	if c.problem != "" {
		if !volume.IsUUID(c.uuid) {
			c.uuid = "" // whatever stands there is not for a message
		}
		return c, nil
	}
	return c, c.readMetadata(r, at)
}

// readMetadata verifies the checksum and reads the JSON area.
func (c *headerCopy) readMetadata(r io.ReaderAt, at int64) error {
	b, err := readAt(r, at, int(c.size))
	if err != nil {
		return err
	}
	if int64(len(b)) < c.size {
		c.problem = "is cut off"
		return nil
	}
	field := b[atChecksum : atChecksum+checksumField]
	want := slices.Clone(field[:sha256.Size])
	clear(field)
	if got := sha256.Sum256(b); !bytes.Equal(got[:], want) {
		c.problem = "has a wrong checksum"
		return nil
	}
	area, _, _ := bytes.Cut(b[binaryLength:], []byte{0})
	if err := json.Unmarshal(area, &c.metadata); err != nil {
		c.problem = "has metadata that cannot be read"
	}
	return nil
}

// header is the header that a sound copy describes.
func (c headerCopy) header(problem string, hasSecondary bool) Header {
	h := Header{State: HeaderSound, UUID: c.uuid, Problem: problem, hasSecondary: hasSecondary}
	unsupported := func(why string) Header {
		return Header{State: HeaderUnsupported, UUID: c.uuid, Problem: why, hasSecondary: hasSecondary}
	}
	if m := c.metadata.Config.Requirements.Mandatory; len(m) > 0 {
		return unsupported("it requires " + strings.Join(m, ", "))
	}
	if n := len(c.metadata.Segments); n != 1 {
		return unsupported(fmt.Sprintf("it has %d data segments, not one", n))
	}
	for _, segment := range c.metadata.Segments {
		offset, err := strconv.ParseInt(segment.Offset, 10, 64)
		if err != nil || offset < 0 || segment.Type != "crypt" || segment.Size != "dynamic" {
			return unsupported(fmt.Sprintf("its data segment is of the type %q, begins at %q and has the size %q", segment.Type, segment.Offset, segment.Size))
		}
		if segment.Sector < sectorSize || segment.Sector%sectorSize != 0 {
			return unsupported(fmt.Sprintf("its sectors have %d bytes", segment.Sector))
		}
		h.Offset, h.Sector = volume.Size(offset), volume.Size(segment.Sector)
	}
	for _, slot := range c.metadata.Keyslots {
		h.Memory = max(h.Memory, volume.Size(slot.KDF.Memory)*volume.KiB)
	}
	if len(c.metadata.Keyslots) == 0 {
		h.State = HeaderUnfinished
	}
	return h
}

// readAt reads length bytes, or what there is of them before the device ends.
func readAt(r io.ReaderAt, at int64, length int) ([]byte, error) {
	b := make([]byte, length)
	n, err := r.ReadAt(b, at)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%d bytes at offset %d: %w", length, at, err)
	}
	return b[:n], nil
}

// text is a string of the C language in a field.
func text(field []byte) string {
	s, _, _ := bytes.Cut(field, []byte{0})
	return string(s)
}
