package filesystem

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// fakeImage is a device of 64 MiB that is zero outside of its parts.
type fakeImage struct {
	size       int64
	fill       []byte // repeated where there is no part; nil: zeros
	parts      map[int64][]byte
	readErrors map[int64]error // by offset: reads that contain it fail
}

const imageSize = 64 << 20

func newImage() *fakeImage {
	return &fakeImage{size: imageSize, parts: map[int64][]byte{}, readErrors: map[int64]error{}}
}

func (i *fakeImage) write(at int64, data []byte) *fakeImage {
	if at < 0 {
		at += i.size
	}
	i.parts[at] = data
	return i
}

func (i *fakeImage) ReadAt(p []byte, at int64) (int, error) {
	clear(p)
	for n := range p {
		if len(i.fill) > 0 {
			p[n] = i.fill[(at+int64(n))%int64(len(i.fill))]
		}
	}
	for where, err := range i.readErrors {
		if where >= at && where < at+int64(len(p)) {
			return 0, err
		}
	}
	for where, data := range i.parts {
		from, to := max(where, at), min(where+int64(len(data)), at+int64(len(p)))
		if from < to {
			copy(p[from-at:], data[from-where:to-where])
		}
	}
	return len(p), nil
}

func TestProbeRecognizesContent(t *testing.T) {
	ext2 := ext3Spec(volume.GiB)
	ext2.compat &^= extCompatHasJournal
	noJournal := ext4Spec(volume.GiB)
	noJournal.compat &^= extCompatHasJournal
	recover3, metaBG := ext3Spec(volume.GiB), ext3Spec(volume.GiB)
	recover3.incompat |= extIncompatRecover
	metaBG.incompat |= extIncompatMetaBG
	journal := ext4Spec(volume.GiB)
	journal.incompat = extIncompatJournalDev
	unfinished := ext4Spec(volume.GiB)
	unfinished.state = 0
	running := ext2
	running.state, running.mountTime = 0, 1700000000
	failed := ext4Spec(volume.GiB)
	failed.state = extStateError
	huge := ext4Spec(volume.GiB)
	huge.blocks = 1 << 61
	noise := make([]byte, probeLength)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(noise)
	mbrSector := make([]byte, 512)
	mbrSector[510], mbrSector[511], mbrSector[450], mbrSector[458] = 0x55, 0xAA, 0x83, 1
	bootSector := make([]byte, 512)
	bootSector[510], bootSector[511], bootSector[446] = 0x55, 0xAA, 0x33

	formatted := func(t Type) Signature {
		return Signature{State: StateFormatted, Type: t, IsComplete: true, Size: volume.GiB}
	}
	foreign := func(name string) Signature { return Signature{State: StateForeign, Content: name, IsRecognized: true} }
	unknown := Signature{State: StateForeign, Content: unknownContent}
	for _, tc := range []struct {
		name string
		disk *fakeImage
		want Signature
	}{
		{"blank", newImage(), Signature{State: StateBlank}},
		{"ext2", newImage().write(1024, ext2.encode()), formatted(TypeExt2)},
		{"ext2 mounted", newImage().write(1024, running.encode()), formatted(TypeExt2)},
		{"ext3", newImage().write(1024, ext3Spec(volume.GiB).encode()), formatted(TypeExt3)},
		{"ext3 to recover", newImage().write(1024, recover3.encode()), formatted(TypeExt3)},
		{"ext3 turned to meta_bg", newImage().write(1024, metaBG.encode()), formatted(TypeExt3)},
		{"ext4", newImage().write(1024, ext4Spec(volume.GiB).encode()), formatted(TypeExt4)},
		{"ext4 without journal", newImage().write(1024, noJournal.encode()), formatted(TypeExt4)},
		{"ext4 with errors", newImage().write(1024, failed.encode()), formatted(TypeExt4)},
		{
			"ext4 not finished", newImage().write(1024, unfinished.encode()),
			Signature{State: StateFormatted, Type: TypeExt4, Size: volume.GiB},
		},
		{"ext journal device", newImage().write(1024, journal.encode()), foreign("external ext journal")},
		{
			"ext with an impossible size", newImage().write(1024, huge.encode()),
			Signature{State: StateForeign, Type: TypeExt4, Content: "a damaged superblock of ext4", IsRecognized: true},
		},
		{"XFS", newImage().write(0, encodeXFS(1<<18, false)), formatted(TypeXFS)},
		{
			"XFS not finished", newImage().write(0, encodeXFS(1<<18, true)),
			Signature{State: StateFormatted, Type: TypeXFS, Size: volume.GiB},
		},
		{
			"XFS with an impossible size", newImage().write(0, encodeXFS(1<<60, false)),
			Signature{State: StateForeign, Type: TypeXFS, Content: "a damaged superblock of xfs", IsRecognized: true},
		},
		{"btrfs", newImage().write(btrfsOffset, encodeBtrfs(1<<30, btrfsMagic)), formatted(TypeBtrfs)},
		{
			"btrfs not finished", newImage().write(btrfsOffset, encodeBtrfs(1<<30, btrfsTemporaryMagic)),
			Signature{State: StateFormatted, Type: TypeBtrfs, Size: volume.GiB},
		},
		{
			"two filesystems",
			newImage().write(0, encodeXFS(1<<18, false)).write(btrfsOffset,
				encodeBtrfs(1<<30, btrfsMagic)),
			foreign("signatures of both xfs and btrfs"),
		},
		{
			"ext4 and swap", newImage().write(1024, ext4Spec(volume.GiB).encode()).write(4086, []byte("SWAPSPACE2")),
			foreign("both ext4 and a signature of swap"),
		},
		{
			"ext4 with a boot sector", newImage().write(0, mbrSector).write(1024, ext4Spec(volume.GiB).encode()),
			formatted(TypeExt4),
		},
		{
			"ext4 and a leftover GPT backup",
			newImage().write(1024, ext4Spec(volume.GiB).encode()).write(-512, []byte("EFI PART")), formatted(TypeExt4),
		},
		{
			"XFS whose data look like ISO 9660", newImage().write(0, encodeXFS(1<<18, false)).write(32769, []byte("CD001")),
			formatted(TypeXFS),
		},
		{"LUKS", newImage().write(0, []byte("LUKS\xba\xbe\x00\x02")), foreign("LUKS encryption")},
		{
			"LUKS, second header only", newImage().write(0x4000, []byte("SKUL\xba\xbe")),
			foreign("LUKS encryption (second header)"),
		},
		{
			"LVM2", newImage().write(0x200, []byte("LABELONE")).write(0x218, []byte("LVM2 001")),
			foreign("LVM2 physical volume"),
		},
		{"swap", newImage().write(4086, []byte("SWAPSPACE2")), foreign("swap")},
		{"GPT", newImage().write(512, []byte("EFI PART")), foreign("partition table (GPT)")},
		{"GPT backup", newImage().write(-512, []byte("EFI PART")), foreign("partition table (GPT backup)")},
		{"MBR", newImage().write(0, mbrSector), foreign("partition table (MBR)")},
		{"boot sector", newImage().write(0, bootSector), unknown},
		{"MD 1.2", newImage().write(4096, []byte("\xfc\x4e\x2b\xa9")), foreign("MD RAID member")},
		{"MD 1.0", newImage().write(-8192, []byte("\xfc\x4e\x2b\xa9")), foreign("MD RAID member")},
		{"MD 0.90", newImage().write(-65536, []byte("\xfc\x4e\x2b\xa9")), foreign("MD RAID member")},
		{"F2FS", newImage().write(1024, []byte("\x10\x20\xf5\xf2")), foreign("F2FS filesystem")},
		{"NTFS", newImage().write(3, []byte("NTFS    ")), foreign("NTFS filesystem")},
		{"Ceph BlueStore", newImage().write(0, []byte("bluestore block device\n")), foreign("Ceph BlueStore")},
		{"first byte", newImage().write(0, []byte{1}), unknown},
		{"last byte", newImage().write(-1, []byte{1}), unknown},
		{"ext backup superblock only", newImage().write(16384<<11, []byte{1}), unknown},
		{"second XFS group only", newImage().write(imageSize/4, []byte("XFSB")), unknown},
		{
			"random bytes", &fakeImage{size: imageSize, fill: noise},
			Signature{State: StateForeign, Content: unknownContent, IsRandom: true},
		},
		{"random at both ends only", newImage().write(0, noise).write(-probeLength, noise), unknown},
		{
			"random but for a file in the middle",
			(&fakeImage{size: imageSize, fill: noise, parts: map[int64][]byte{}}).
				write(40<<20+5000, bytes.Repeat([]byte("text "), imageSize/minSamples/4)),
			unknown,
		},
		{"random start only", newImage().write(0, noise), unknown},
		{"text", newImage().write(0, bytes.Repeat([]byte("text "), probeLength/5)).write(-probeLength, noise), unknown},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := probe(t.Context(), tc.disk, tc.disk.size)
			if err != nil || got != tc.want {
				t.Errorf("got %+v, %v\nwant %+v", got, err, tc.want)
			}
			if got.String() == "" {
				t.Error("no text")
			}
		})
	}
}

// TestProbeFindsDataAnywhere finds every run of data that is longer than 1/256 of a device,
// and every byte of a small device.
func TestProbeFindsDataAnywhere(t *testing.T) {
	for _, size := range []int64{maxFullProbe + 512, 64<<20 - 4096, 256<<20 + 77*512, 10 << 30} {
		data := bytes.Repeat([]byte{7}, int(size/256)+1)
		for i := range int64(20) {
			at := 2<<20 + (size-4<<20-int64(len(data)))/20*i + i*509
			disk := &fakeImage{size: size, parts: map[int64][]byte{}}
			if sig, err := probe(t.Context(), disk.write(at, data), size); err != nil || sig.State != StateForeign {
				t.Fatalf("%d bytes at offset %d of %d: %+v, %v; want foreign", len(data), at, size, sig, err)
			}
		}
		spans, last := sampleSpans(size), int64(0)
		slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.offset, b.offset) })
		for _, s := range append(spans, span{offset: size}) {
			if s.offset-last > size/256 {
				t.Errorf("Probe reads nothing between the offsets %d and %d of %d", last, s.offset, size)
			}
			last = s.offset
		}
		if len(spans) > 300 {
			t.Errorf("%d reads for a device of %d bytes, want at most 300", len(spans), size)
		}
	}
	for _, at := range []int64{0, 1 << 20, 5<<20 + 333, 9<<20 - 1, maxFullProbe - 1} {
		disk := &fakeImage{size: maxFullProbe, parts: map[int64][]byte{at: {1}}}
		if sig, err := probe(t.Context(), disk, disk.size); err != nil || sig.State != StateForeign {
			t.Errorf("a byte at offset %d: %+v, %v; want foreign", at, sig, err)
		}
	}
}

func TestProbeFailsOnAnUnreadableArea(t *testing.T) {
	for _, at := range []int64{
		0, 1024, probeLength - 1, imageSize - probeLength, imageSize - 1, imageSize / 2,
		16384 << 11,
	} {
		disk := newImage()
		disk.readErrors[at] = unix.EIO
		if got, err := probe(t.Context(), disk, disk.size); !errors.Is(err, unix.EIO) || got.State != 0 {
			t.Errorf("unreadable at offset %d: %+v, %v; want the read error", at, got, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := probe(ctx, newImage(), imageSize); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled probe: %v", err)
	}
}

func TestProbeFailsOnABadDevice(t *testing.T) {
	for _, tc := range []struct {
		name  string
		call  string
		errno error
		size  volume.Size
		kind  volume.Kind
		text  string
	}{
		{"size unknown", "size", unix.EIO, volume.GiB, volume.KindInternal, "read the size"},
		{"size zero", "", nil, 0, volume.KindInternal, "size of 0 bytes"},
		{"read error", "read", unix.EIO, volume.GiB, volume.KindInternal, "cannot read device"},
		{"read error at the end", "read2", unix.EIO, volume.GiB, volume.KindInternal, "cannot read device"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := newFakeKernel(t)
			k.addDevice(testDevice, 0, tc.size)
			if tc.call == "read2" {
				k.errors["read"] = []error{nil, tc.errno}
			} else {
				k.errors[tc.call] = []error{tc.errno}
			}
			sig, err := k.system().Probe(t.Context(), k.device())
			volumetest.WantKind(t, err, tc.kind, tc.text)
			if sig != (Signature{}) {
				t.Errorf("signature %+v beside an error, want none", sig)
			}
		})
	}
	k := newFakeKernel(t)
	k.addDevice(testDevice, 0, 700)
	if sig, err := k.system().Probe(t.Context(), k.device()); err != nil || sig.State != StateBlank {
		t.Errorf("a device of 700 bytes: %+v, %v; want blank", sig, err)
	}
}

// FuzzProbe feeds the parsers. None may panic, call a device with any content blank, or
// accept a size that overflows.
func FuzzProbe(f *testing.F) {
	f.Add([]byte{}, []byte{})
	f.Add(encodeXFS(1<<18, false), []byte("EFI PART"))
	f.Add(append(make([]byte, 1024), ext4Spec(volume.GiB).encode()...), []byte{})
	f.Add(append(make([]byte, 1024), ext3Spec(volume.TiB).encode()...), []byte{0})
	f.Add(append(make([]byte, btrfsOffset), encodeBtrfs(1<<30, btrfsMagic)...), []byte{1})
	f.Fuzz(func(t *testing.T, head, tail []byte) {
		data := slices.Concat(head, tail)
		sig, err := probe(t.Context(), bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		if (sig.State == StateBlank) != isZero(data) && len(data) <= probeLength {
			t.Fatalf("%+v for %d bytes", sig, len(data))
		}
		if sig.State == StateFormatted && (sig.Size <= 0 || sig.Type == "") {
			t.Fatalf("signature without size or type: %+v", sig)
		}
		if sig.State == StateForeign && sig.Content == "" {
			t.Fatalf("foreign signature without content: %+v", sig)
		}
		if e, ok := parseExt(subslice(data, extOffset, extLength)); ok {
			g := &extGrower{superblock: e}
			for _, size := range []volume.Size{1, volume.MiB, volume.GiB, 100 * volume.TiB, 1<<63 - 1} {
				goal := g.goal(size)
				if goal.minResult > goal.blocks || goal.full > goal.blocks ||
					volume.Size(goal.blocks)*volume.Size(e.blockSize) > size {
					t.Fatalf("goal %+v on %s for %+v", goal, size, e)
				}
			}
		}
	})
}
