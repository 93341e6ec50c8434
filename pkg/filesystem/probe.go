package filesystem

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/growvol/growvol/pkg/volume"
)

// State is the kind of content that Probe finds on a device. Probe decides by it what may be
// formatted: a blank device only.
type State uint8

// The states of a device that could be read.
const (
	// StateBlank: no signature, and every probed area is zero.
	StateBlank State = iota + 1
	// StateFormatted: a filesystem of a known Type.
	StateFormatted
	// StateForeign: something else, which must not be touched.
	StateForeign
)

// Signature describes the content of a device.
type Signature struct {
	State State
	// Type is the filesystem of a formatted device, or that of a foreign device with a
	// damaged superblock.
	Type Type
	// IsComplete is false for a formatted device whose mkfs did not finish.
	IsComplete bool
	// Size is the size in the superblock of a formatted device.
	Size volume.Size
	// Content says what a foreign device holds: "LUKS encryption", "partition table (GPT)",
	// or "unknown data" when nothing was recognized.
	Content string
	// IsRecognized is true for a foreign device whose content was recognized.
	IsRecognized bool
	// IsRandom is true for unknown data that cannot be distinguished from random bytes. The
	// unwritten sectors of an encrypted volume read like that.
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

// holdsComplete reports whether the device holds a complete filesystem of type t.
func (sig Signature) holdsComplete(t Type) bool {
	return sig.State == StateFormatted && sig.IsComplete && sig.Type == t
}

// foreign returns the signature of recognized content that must not be touched.
func foreign(content string) Signature {
	return Signature{State: StateForeign, Content: content, IsRecognized: true}
}

const (
	// unknownContent is the Content of a device without a known signature.
	unknownContent = "unknown data"
	// probeLength is how much is read at either end of a device, in bytes.
	probeLength = 1 << 20
	// metadataLength is where the first user data of a filesystem can lie, in bytes: the group
	// descriptors of ext, and the group headers and roots of XFS, lie before it.
	metadataLength = 8 << 10
)

// Probe reads the superblocks of a block device itself, and distinguishes a known
// filesystem, a blank device and foreign data. A device that cannot be read is an error,
// never blank. The device is allowed to be mounted.
//
// Before it reports a device as blank, Probe reads the first and the last MiB, the places of
// backup superblocks, and 4 KiB at every 1/256 of the device; it reads all of a device of up
// to 16 MiB. So it finds every run of bytes other than zero that is longer than 1/256 of the
// device. It can miss a shorter run without a signature in the middle of the device: if a
// user ever had the device as a raw volume, a blank result alone does not allow a format.
//
// Kinds: Internal; Deadline or Canceled when the device does not answer before ctx ends.
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
		sample, err := readArea(r, span.offset, span.length)
		if err != nil {
			return Signature{}, err
		}
		blank = blank && isZero(sample)
		random = random && (len(sample) < sampleLength || isUniform(sample))
	}
	if blank {
		return Signature{State: StateBlank}, nil
	}
	return Signature{State: StateForeign, Content: unknownContent, IsRandom: random}, nil
}

// recognize looks for signatures at both ends of a device. It reports false if it finds none.
func recognize(head, tail []byte, size int64) (Signature, bool) {
	fs, isFS := findFilesystem(head)
	searched := head
	if isFS {
		// Behind its metadata a filesystem has user data, which can look like anything.
		searched = head[:min(len(head), metadataLength)]
	}
	other := findMagic(searched, foreignMagics())
	switch {
	case isFS && other != "" && fs.State == StateFormatted:
		// Neither mounting nor formatting is safe, because something else claims the device too.
		return foreign(fmt.Sprintf("both %s and a signature of %s", fs.Type, other)), true
	case isFS:
		return fs, true
	case other != "":
		return foreign(other), true
	case hasMBR(head):
		return foreign("partition table (MBR)"), true
	}
	if other := findMagic(tail, foreignTailMagics()); other != "" {
		return foreign(other), true
	}
	if hasMDSuperblock(tail, size) {
		return foreign("MD RAID member"), true
	}
	return Signature{}, false
}

// findFilesystem looks for the superblocks of ext, XFS and btrfs, and reports false if there
// is none. A superblock with impossible fields is foreign: a filesystem was there.
func findFilesystem(head []byte) (Signature, bool) {
	var found []Signature
	if b := subslice(head, 0, xfsLength); hasXFSMagic(b) {
		x, ok := parseXFS(b)
		found = append(found, filesystemSignature(TypeXFS, x.isComplete, x.size(), ok))
	}
	if b := subslice(head, extOffset, extLength); hasExtMagic(b) {
		e, ok := parseExt(b)
		if t, isFS := e.fsType(); isFS {
			found = append(found, filesystemSignature(t, e.isComplete(), e.size(), ok))
		} else {
			found = append(found, foreign("external ext journal"))
		}
	}
	if b := subslice(head, btrfsOffset, btrfsLength); hasBtrfsMagic(b) {
		x, ok := parseBtrfs(b)
		found = append(found, filesystemSignature(TypeBtrfs, x.isComplete, x.size(), ok))
	}
	switch len(found) {
	case 0:
		return Signature{}, false
	case 1:
		return found[0], true
	default:
		return foreign(fmt.Sprintf("signatures of both %s and %s", found[0].Type, found[1].Type)), true
	}
}

// filesystemSignature returns the signature of a superblock. isValid is false for one with
// impossible fields.
func filesystemSignature(t Type, isComplete bool, size volume.Size, isValid bool) Signature {
	if !isValid {
		sig := foreign("a damaged superblock of " + string(t))
		sig.Type = t
		return sig
	}
	return Signature{State: StateFormatted, Type: t, IsComplete: isComplete, Size: size}
}

const (
	// sampleLength covers a backup superblock at the start of its group, in bytes.
	sampleLength = 4096
	// minSamples is the minimum number of evenly spread samples.
	minSamples = 256
	// maxFullProbe is the largest device that is read as a whole, in bytes.
	maxFullProbe = 16 << 20
)

// span is a part of a device, in bytes.
type span struct{ offset, length int64 }

// sampleSpans returns the parts of a device that Probe reads beside its ends: samples that are
// at most 1/256 of the device apart, and the places of superblocks, because a device whose
// first MiB was lost is not blank.
func sampleSpans(size int64) []span {
	stride, length := int64(probeLength), int64(probeLength)
	var offsets []int64
	if size > maxFullProbe {
		stride, length = size/minSamples&^(sampleLength-1), sampleLength
		offsets = []int64{
			1 << 20, 2 << 20, // VMFS: the volume and the filesystem
			8193 << 10, 16384 << 11, 32768 << 12, // ext: the first backup, with blocks of 1, 2 and 4 KiB
			64 << 20, 256 << 30, // btrfs: the mirrors
		}
		for i := range int64(3) { // XFS: the second to fourth of the 4 allocation groups of mkfs.xfs
			offsets = append(offsets, size/4*(i+1)&^(sampleLength-1))
		}
	}
	for offset := int64(0); offset < size; offset += stride {
		offsets = append(offsets, offset)
	}
	spans := make([]span, 0, len(offsets))
	for _, offset := range offsets {
		if offset < size {
			spans = append(spans, span{offset: offset, length: min(length, size-offset)})
		}
	}
	return spans
}

// subslice returns part of b, or nil if b is shorter.
func subslice(b []byte, from, length int) []byte {
	if from+length > len(b) {
		return nil
	}
	return b[from : from+length]
}

// readArea reads length bytes at an offset. It returns an error if the device ends before.
func readArea(r io.ReaderAt, offset, length int64) ([]byte, error) {
	b := make([]byte, length)
	n, err := r.ReadAt(b, offset)
	if int64(n) == length {
		return b, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return nil, fmt.Errorf("%d bytes at offset %d: %w", length, offset, err)
}
