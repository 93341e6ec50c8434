package luks

import (
	"context"
	"fmt"
	"io"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// HeaderState classifies what a device has in the place of a LUKS header.
type HeaderState uint8

// The states of a header.
const (
	// HeaderAbsent means no copy of a header. The device can hold other content.
	HeaderAbsent HeaderState = iota
	// HeaderSound means LUKS2 with at least one key slot; its checksum is right.
	HeaderSound
	// HeaderUnfinished means LUKS2 without a key slot, so that no passphrase can open it. An
	// interrupted format leaves such a header.
	HeaderUnfinished
	// HeaderLUKS1 means a header of version 1, which has no second copy and which this driver does
	// not open.
	HeaderLUKS1
	// HeaderDamaged means leftovers of a LUKS header, but no valid copy, or two copies that
	// contradict each other, or a valid second copy behind an overwritten first one.
	HeaderDamaged
	// HeaderUnsupported means LUKS2 in a layout that this driver does not support.
	HeaderUnsupported
)

// String describes the state for a message.
func (s HeaderState) String() string {
	names := [...]string{
		"no LUKS header", "a LUKS2 header", "a LUKS2 header without a key slot", "a LUKS1 header",
		"a damaged LUKS header", "a LUKS2 header of another layout",
	}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Header describes the LUKS header of a device, or its absence.
type Header struct {
	State HeaderState
	// UUID is the UUID of a LUKS2 header; of a damaged one as far as it can be read.
	UUID string
	// Offset is the offset in bytes of the encrypted data. A mapping on a device of n bytes
	// has n-Offset bytes, rounded down to a multiple of Sector, the encryption sector.
	Offset, Sector volume.Size
	// Memory is the maximum memory in bytes that unlocking a key slot takes.
	Memory volume.Size
	// Problem describes the defect. A sound header has one if one of its copies is lost;
	// cryptsetup restores that copy when it opens the mapping.
	Problem string

	hasSecondary bool // there is a second copy, whether valid or not
}

// String describes the header for a message.
func (h Header) String() string {
	text := h.State.String()
	if h.UUID != "" {
		text += " (UUID " + h.UUID + ")"
	}
	if h.Problem != "" {
		text += ": " + h.Problem
	}
	return text
}

// Header reads both copies of the LUKS2 header on a device and verifies their checksums. The
// device can be in use. Kinds, for a device that cannot be read: Internal, Deadline,
// Canceled; it never counts as HeaderAbsent.
func (s *System) Header(ctx context.Context, d blockdev.Device) (Header, error) {
	f, err := s.devices.OpenFile(ctx, d)
	if err != nil {
		return Header{}, err
	}
	defer closeQuietly(f)
	return readHeaderOf(ctx, d, blockdev.NewUncachedReader(f))
}

// readHeaderOf reads the header of d through an open file, until ctx ends.
func readHeaderOf(ctx context.Context, d blockdev.Device, r io.ReaderAt) (Header, error) {
	h, err := operation.AwaitCall(ctx, func() (Header, error) { return readHeader(r) })
	if err != nil {
		return Header{}, volume.Errorf(volume.KindOf(err), "cannot read the LUKS header of %s: %w", d, err).
			WithRemedy("check the kernel log of this node, and that the volume is still attached to it")
	}
	return h, nil
}

// readHeader reads both copies of the header and merges them.
func readHeader(r io.ReaderAt) (Header, error) {
	first, err := readCopy(r, 0, primaryMagic)
	if err != nil {
		return Header{}, err
	}
	if first.version == 1 {
		return Header{State: HeaderLUKS1}, nil
	}
	places := secondaryOffsets()
	if first.isSound() {
		places = []int64{first.size}
	}
	var second headerCopy
	for _, at := range places {
		if second, err = readCopy(r, at, secondaryMagic); err != nil {
			return Header{}, err
		}
		if second.present {
			break
		}
	}
	return mergeCopies(first, second), nil
}

// mergeCopies returns the header that the two copies describe together.
func mergeCopies(first, second headerCopy) Header {
	damaged := func(problem string) Header {
		uuid := first.uuid
		if !first.present {
			uuid = second.uuid
		}
		return Header{State: HeaderDamaged, UUID: uuid, Problem: problem, hasSecondary: second.present}
	}
	switch {
	case !first.present && !second.present:
		return Header{}
	case first.isSound() && second.isSound() && first.uuid != second.uuid:
		return damaged(fmt.Sprintf("its two copies have different UUIDs, %s and %s", first.uuid, second.uuid))
	case first.isSound() && second.isSound() && second.sequence > first.sequence:
		return second.header("", true)
	case first.isSound() && second.isSound():
		return first.header("", true)
	case first.isSound():
		return first.header("its second copy "+second.problem, second.present)
	case second.isSound() && !first.present && !first.zero:
		return damaged("the beginning of the device was overwritten, but the second copy is sound")
	case second.isSound():
		return second.header("its first copy "+first.problem, true)
	default:
		return damaged(fmt.Sprintf("the first copy %s; the second copy %s", first.problem, second.problem))
	}
}
