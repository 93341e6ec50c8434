package filesystem

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/growvol/growvol/pkg/volume"
)

// State is the answer of Probe.
type State uint8

// The states of a device that could be read.
const (
	// StateBlank: no signature, and every probed area is zero.
	StateBlank State = iota + 1
	// StateFormatted: a filesystem of a known Type.
	StateFormatted
	// StateForeign: something else; it must not be touched.
	StateForeign
)

// String returns the state's name as used in logs.
func (st State) String() string {
	switch st {
	case StateBlank:
		return "blank"
	case StateFormatted:
		return "formatted"
	case StateForeign:
		return "foreign"
	default:
		return fmt.Sprintf("state(%d)", uint8(st))
	}
}

// Signature is what a device holds.
type Signature struct {
	State State
	// Type is the filesystem of a Formatted device, or of one that is Foreign
	// because the superblock is damaged.
	Type Type
	// IsComplete is false for a Formatted device whose mkfs did not finish.
	IsComplete bool
	// Size is what the superblock of a Formatted device claims.
	Size volume.Size
	// Content says what a Foreign device holds: "LUKS encryption", "partition
	// table (GPT)", or "unknown data" when nothing was recognized.
	Content string
	// IsRecognized is true for a Foreign device whose content was recognized.
	IsRecognized bool
	// IsRandom is true for unknown data that cannot be told from random bytes:
	// how the unwritten sectors of an encrypted volume look from inside.
	IsRandom bool
}

// String describes the content for a message: "an xfs filesystem of 1 GiB".
func (sig Signature) String() string {
	switch {
	case sig.State == StateFormatted && sig.IsComplete:
		return fmt.Sprintf("an %s filesystem of %s", sig.Type, sig.Size)
	case sig.State == StateFormatted:
		return fmt.Sprintf("an %s filesystem whose mkfs did not finish", sig.Type)
	case sig.State == StateForeign && sig.IsRandom:
		return sig.Content + " (random bytes)"
	case sig.State == StateForeign:
		return sig.Content
	default:
		return "nothing"
	}
}

// unknownContent is the name of what has no known signature.
const unknownContent = "unknown data"

// probeLength is how much is read at either end of a device.
const probeLength = 1 << 20

// metadataLength is where the first user data of a filesystem can lie: before it
// are the group descriptors of ext and the group headers and roots of XFS.
const metadataLength = 8 << 10

// Probe reads the superblocks of a block device itself and tells apart a
// known filesystem, a blank device and foreign data. A device that cannot be
// read is an error (Internal; Deadline or Canceled when it does not answer
// within ctx), never Blank.
//
// Before it calls a device blank it reads the first and the last MiB, the
// places where backup superblocks lie, and 4 KiB at every 1/256 of the device;
// up to 16 MiB it reads everything. So any run of bytes other than zero that
// is longer than 1/256 of the device is found, wherever it lies. Less than
// that in the middle of a device, without a signature, may be missed: a raw
// device that was ever given to somebody must not be formatted on the word of
// Probe alone. The device may be mounted.
func (s *System) Probe(ctx context.Context, dev Device) (Signature, error) {
	return awaitDeviceRead(ctx, s, dev, func() (Signature, error) {
		size, err := sizeOf(dev)
		if err != nil {
			return Signature{}, err
		}
		sig, err := probe(ctx, dev, size.Bytes())
		if err != nil {
			return Signature{}, unreadableError(dev.Path(), err)
		}
		return sig, nil
	})
}

// probe examines size bytes behind r.
func probe(ctx context.Context, r io.ReaderAt, size int64) (Signature, error) {
	head, err := readArea(r, 0, min(size, probeLength))
	if err != nil {
		return Signature{}, err
	}
	tailStart := max(size-probeLength, 0)
	tail, err := readArea(r, tailStart, size-tailStart)
	if err != nil {
		return Signature{}, err
	}
	if sig, ok := recognize(head, tail, size); ok {
		return sig, nil
	}
	blank, random := isZero(head) && isZero(tail), isRandom(head) && isRandom(tail)
	for _, span := range sampleSpans(size) {
		if err := ctx.Err(); err != nil {
			return Signature{}, err
		}
		sample, err := readArea(r, span.at, span.length)
		if err != nil {
			return Signature{}, err
		}
		blank, random = blank && isZero(sample), random && (len(sample) < sampleLength || isUniform(sample))
	}
	if blank {
		return Signature{State: StateBlank}, nil
	}
	return Signature{State: StateForeign, Content: unknownContent, IsRandom: random}, nil
}

// recognize looks for signatures at both ends of a device.
func recognize(head, tail []byte, size int64) (Signature, bool) {
	fs, isFS := findFilesystem(head)
	searched := head
	if isFS {
		// Farther in, a filesystem may have user data, which may be anything.
		searched = head[:min(len(head), metadataLength)]
	}
	other := findMagic(searched, foreignMagics())
	switch {
	case isFS && other != "" && fs.State == StateFormatted:
		// Two owners claim the device: neither mounting nor formatting is safe.
		return Signature{State: StateForeign, Content: fmt.Sprintf("both %s and a signature of %s", fs.Type, other), IsRecognized: true}, true
	case isFS:
		return fs, true
	case other != "":
		return Signature{State: StateForeign, Content: other, IsRecognized: true}, true
	case hasMBR(head):
		return Signature{State: StateForeign, Content: "partition table (MBR)", IsRecognized: true}, true
	}
	if other := findMagic(tail, foreignTailMagics()); other != "" {
		return Signature{State: StateForeign, Content: other, IsRecognized: true}, true
	}
	if hasMDSuperblock(tail, size) {
		return Signature{State: StateForeign, Content: "MD RAID member", IsRecognized: true}, true
	}
	return Signature{}, false
}

// findFilesystem looks for the superblocks of ext, XFS and btrfs. A magic
// number with impossible fields behind it is foreign: something was there.
func findFilesystem(head []byte) (Signature, bool) {
	var found []Signature
	if b := subslice(head, 0, xfsLength); hasXFSMagic(b) {
		x, ok := parseXFS(b)
		found = append(found, filesystemSignature(TypeXFS, !x.inProgress, x.size(), ok))
	}
	if b := subslice(head, extOffset, extLength); hasExtMagic(b) {
		e, ok := parseExt(b)
		if t, isFS := e.fsType(); isFS {
			found = append(found, filesystemSignature(t, e.isComplete(), e.size(), ok))
		} else {
			found = append(found, Signature{State: StateForeign, Content: "external ext journal", IsRecognized: true})
		}
	}
	if b := subslice(head, btrfsOffset, btrfsLength); hasBtrfsMagic(b) {
		x, ok := parseBtrfs(b)
		found = append(found, filesystemSignature(TypeBtrfs, !x.inProgress, x.size(), ok))
	}
	switch len(found) {
	case 0:
		return Signature{}, false
	case 1:
		return found[0], true
	default:
		return Signature{State: StateForeign, Content: fmt.Sprintf("signatures of both %s and %s", found[0].Type, found[1].Type), IsRecognized: true}, true
	}
}

func filesystemSignature(t Type, complete bool, size volume.Size, valid bool) Signature {
	if !valid {
		return Signature{State: StateForeign, Type: t, Content: "a damaged superblock of " + string(t), IsRecognized: true}
	}
	return Signature{State: StateFormatted, Type: t, IsComplete: complete, Size: size}
}

// sampleLength covers a backup superblock at the start of its group.
const sampleLength = 4096

// samples is how many evenly spread places are read, at least; a device of no
// more than probedWhole bytes is read whole.
const (
	minSamples   = 256
	maxFullProbe = 16 << 20
)

// span is a part of a device.
type span struct{ at, length int64 }

// sampleSpans lists what is read between the two ends: places at most 1/256 of
// the device apart, and those where superblocks lie: VMFS, the backups of ext
// with 1, 2 and 4 KiB blocks, the mirrors of btrfs, and the second to fourth
// allocation group of XFS. A device whose first MiB was lost is not blank.
func sampleSpans(size int64) []span {
	stride, length := int64(probeLength), int64(probeLength)
	var places []int64
	if size > maxFullProbe {
		stride, length = size/minSamples&^(sampleLength-1), sampleLength
		places = []int64{1 << 20, 2 << 20, 8193 << 10, 16384 << 11, 32768 << 12, 64 << 20, 256 << 30}
		for i := range int64(3) {
			places = append(places, size/4*(i+1)&^(sampleLength-1))
		}
	}
	for at := int64(0); at < size; at += stride {
		places = append(places, at)
	}
	spans := make([]span, 0, len(places))
	for _, at := range places {
		if at < size {
			spans = append(spans, span{at: at, length: min(length, size-at)})
		}
	}
	return spans
}

func subslice(b []byte, from, length int) []byte {
	if from+length > len(b) {
		return nil
	}
	return b[from : from+length]
}

func readArea(r io.ReaderAt, at, length int64) ([]byte, error) {
	b := make([]byte, length)
	n, err := r.ReadAt(b, at)
	if int64(n) == length {
		return b, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return nil, fmt.Errorf("%d bytes at offset %d: %w", length, at, err)
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
