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

// The layout of one copy of the header (LUKS2 On-Disk Format Specification 1.1.1, struct
// luks2_hdr_disk): 4096 bytes, big-endian, and JSON metadata up to the copy's size. The
// checksum covers both, with its own field zeroed.
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
	nameLength     = 32 // of the name of the checksum algorithm
	uuidLength     = 40
)

// secondaryOffsets returns the possible offsets of the second copy: it follows the first
// copy, whose size is one of these too.
func secondaryOffsets() []int64 {
	const minSize, maxSize = 0x4000, 0x400000
	var places []int64
	for at := int64(minSize); at <= maxSize; at *= 2 {
		places = append(places, at)
	}
	return places
}

// headerCopy is one of the two copies of a LUKS2 header.
type headerCopy struct {
	present  bool // begins with the magic number
	zero     bool // contains only zeros
	version  int
	size     int64
	sequence uint64
	uuid     string
	metadata headerMetadata
	problem  string // why the copy is not valid; empty: it is
}

// headerMetadata is the part of the JSON area that this package needs.
type headerMetadata struct {
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

func (c headerCopy) isSound() bool { return c.present && c.problem == "" }

// readCopy reads the copy of the header at an offset. A device that is too small for it has
// no copy there. err is an error of reading the device, never a defect of the copy.
func readCopy(r io.ReaderAt, at int64, magic string) (headerCopy, error) {
	b, err := readUpTo(r, at, binaryLength)
	if err != nil {
		return headerCopy{}, err
	}
	if len(b) < binaryLength || string(b[:atVersion]) != magic {
		zero := bytes.Count(b, []byte{0}) == len(b)
		return headerCopy{zero: zero, problem: "is missing"}, nil
	}
	c := headerCopy{
		present:  true,
		version:  int(binary.BigEndian.Uint16(b[atVersion:])),
		size:     int64(binary.BigEndian.Uint64(b[atSize:])),
		sequence: binary.BigEndian.Uint64(b[atSequence:]),
		uuid:     cString(b[atUUID : atUUID+uuidLength]),
	}
	checksum := cString(b[atChecksumName : atChecksumName+nameLength])
	switch {
	case c.version != 2:
		c.problem = fmt.Sprintf("has version %d", c.version)
	case !slices.Contains(secondaryOffsets(), c.size):
		c.problem = fmt.Sprintf("has an impossible size of %d bytes", c.size)
	case int64(binary.BigEndian.Uint64(b[atOwnOffset:])) != at:
		c.problem = "contains another offset than its own"
	case checksum != "sha256":
		c.problem = fmt.Sprintf("has the unknown checksum algorithm %q", checksum)
	case !volume.IsUUID(c.uuid):
		c.problem = "has no UUID"
	}
	if c.problem != "" {
		if !volume.IsUUID(c.uuid) {
			c.uuid = "" // no arbitrary bytes in a message
		}
		return c, nil
	}
	return c, c.readMetadata(r, at)
}

// readMetadata verifies the checksum and reads the JSON area.
func (c *headerCopy) readMetadata(r io.ReaderAt, at int64) error {
	b, err := readUpTo(r, at, int(c.size))
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

// header returns the header that a sound copy describes.
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
			return unsupported(fmt.Sprintf("its data segment has the type %q, the offset %q and the size %q",
				segment.Type, segment.Offset, segment.Size))
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

// readUpTo reads length bytes at an offset, or fewer if the device ends before.
func readUpTo(r io.ReaderAt, at int64, length int) ([]byte, error) {
	b := make([]byte, length)
	n, err := r.ReadAt(b, at)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%d bytes at offset %d: %w", length, at, err)
	}
	return b[:n], nil
}

// cString returns the string in a field that a NUL byte terminates.
func cString(field []byte) string {
	s, _, _ := bytes.Cut(field, []byte{0})
	return string(s)
}
