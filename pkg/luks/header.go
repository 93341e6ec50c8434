package luks

import (
	"context"
	"fmt"
	"io"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// HeaderState says what a device has where a LUKS header would be.
type HeaderState uint8

// The states of a header.
const (
	// HeaderAbsent: no copy of a header. The device may hold anything else.
	HeaderAbsent HeaderState = iota
	// HeaderSound: LUKS2 with at least one key slot; its checksum is right.
	HeaderSound
	// HeaderUnfinished: LUKS2 without a key slot: no passphrase can open it. A
	// format that was cut short leaves this.
	HeaderUnfinished
	// HeaderLUKS1: a header of version 1, which cannot be grown without its key
	// and keeps no second copy.
	HeaderLUKS1
	// HeaderDamaged: a LUKS header was there, and no copy can be trusted.
	HeaderDamaged
	// HeaderUnsupported: LUKS2 in a layout that this driver does not drive.
	HeaderUnsupported
)

// String returns the state's name as used in logs.
func (s HeaderState) String() string {
	names := [...]string{"absent", "sound", "unfinished", "luks1", "damaged", "unsupported"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Header is what a device has where a LUKS header would be.
type Header struct {
	State HeaderState
	// UUID is that of a LUKS2 header; of a damaged one, what stands in its place.
	UUID string
	// Offset is where the encrypted data begin, and Sector what the mapping's
	// size is a multiple of. A mapping on a device of n bytes has n-Offset.
	Offset, Sector volume.Size
	// Memory is the most that unlocking a key slot takes.
	Memory volume.Size
	// Problem says what is wrong; also of a sound header that has lost one of its
	// copies, which cryptsetup restores when the mapping is opened.
	Problem string

	hasSecondary bool // something that begins like a second copy is there
}

// String describes the header for a message.
func (h Header) String() string {
	text := map[HeaderState]string{
		HeaderAbsent: "no LUKS header", HeaderSound: "a LUKS2 header", HeaderUnfinished: "a LUKS2 header without a key slot",
		HeaderLUKS1: "a LUKS1 header", HeaderDamaged: "a damaged LUKS header", HeaderUnsupported: "a LUKS2 header of another layout",
	}[h.State]
	if h.UUID != "" {
		text += " (UUID " + h.UUID + ")"
	}
	if h.Problem != "" {
		text += ": " + h.Problem
	}
	return text
}

// Header reads both copies of the LUKS2 header on a device and checks their
// checksums. A device that cannot be read is an error (Internal, Deadline,
// Canceled), never HeaderAbsent. The device may be in use.
func (s *System) Header(ctx context.Context, d blockdev.Device) (Header, error) {
	f, err := s.devices.File(ctx, d)
	if err != nil {
		return Header{}, err
	}
	defer closeQuietly(f)
	return headerOf(ctx, d, blockdev.Uncached(f))
}

// headerOf reads the header of d through an open file, within ctx.
func headerOf(ctx context.Context, d blockdev.Device, r io.ReaderAt) (Header, error) {
	h, err := operation.AwaitCall(ctx, func() (Header, error) { return readHeader(r) })
	if err != nil {
		return Header{}, volume.Errorf(volume.KindOf(err), "read the LUKS header of %s: %w", d, err).
			WithRemedy("check the kernel log of this node and the connection of the volume")
	}
	return h, nil
}

// readHeader examines both copies of the header.
func readHeader(r io.ReaderAt) (Header, error) {
	first, err := readCopy(r, 0, primaryMagic)
	if err != nil {
		return Header{}, err
	}
	if first.version == 1 {
		return Header{State: HeaderLUKS1}, nil
	}
	places := secondaryPlaces()
	if first.sound() {
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
	return assess(first, second), nil
}

// assess makes one header of its two copies.
func assess(first, second headerCopy) Header {
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
	case first.sound() && second.sound() && first.uuid != second.uuid:
		return damaged(fmt.Sprintf("its two copies have different UUIDs, %s and %s", first.uuid, second.uuid))
	case first.sound() && second.sound() && second.sequence > first.sequence:
		return second.header("", true)
	case first.sound() && second.sound():
		return first.header("", true)
	case first.sound():
		return first.header("its second copy "+second.problem, second.present)
	case second.sound() && !first.present && !first.zero:
		return damaged("the beginning of the device was overwritten with something else; the second copy is sound")
	case second.sound():
		return second.header("its first copy "+first.problem, true)
	default:
		return damaged(fmt.Sprintf("the first copy %s; the second copy %s", first.problem, second.problem))
	}
}
