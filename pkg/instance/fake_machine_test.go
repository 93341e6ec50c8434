package instance

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

const (
	serverID = "d25f9882-eb5a-41ea-8d0c-7a1f0c0a9d11"
	otherID  = "1c3e5a70-0b1d-4c8e-9a55-6f2b7d904e21"
)

// machine is a fake of the machine: disks whose content are files, sysfs, and
// filesystems on the disks. It implements Disks.
type machine struct {
	t             *testing.T
	root          string
	disks         []blockdev.Device
	serials       map[string]string            // by name of the disk
	files         map[string]map[string]string // by device path: files of its filesystem
	fstypes       []string                     // of the filesystems that were opened
	disksByNumber map[string]blockdev.Device   // what a device rests on, by number
	above         map[string][]blockdev.Device // partitions and mappings of a device, by its name
	mounted       map[string]string            // types of mounted filesystems, by name of the device
	holdSerials   chan struct{}                // when set, no serial is answered before it is closed
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{
		t: t, root: t.TempDir(), serials: map[string]string{}, files: map[string]map[string]string{},
		disksByNumber: map[string]blockdev.Device{},
		above:         map[string][]blockdev.Device{}, mounted: map[string]string{},
	}
	m.write("proc/self/mountinfo", nil)
	return m
}

// limitOptions returns options that read this machine only.
func (m *machine) limitOptions() LimitOptions {
	return LimitOptions{Disks: m, sysfs: filepath.Join(m.root, "sys"), proc: filepath.Join(m.root, "proc")}
}

func (m *machine) write(path string, content []byte) string {
	m.t.Helper()
	path = filepath.Join(m.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		m.t.Fatal(err)
	}
	return path
}

func (m *machine) plug(name string, kind blockdev.Kind, serial string, content []byte) blockdev.Device {
	m.t.Helper()
	d := blockdev.Device{
		Major: 252, Minor: uint32(len(m.disks)), Name: name, Path: m.write("dev/"+name, content), Kind: kind,
	}
	m.disks = append(m.disks, d)
	m.serials[name] = serial
	return d
}

// plugConfigDrive plugs in a config drive with this meta_data.json.
func (m *machine) plugConfigDrive(name, serial, metadata string) {
	d := m.plug(name, blockdev.KindSCSI, serial, iso("config-2"))
	m.files[d.Path] = map[string]string{"openstack/latest/meta_data.json": metadata}
}

func (m *machine) writeDMI(values map[string]string) {
	for name, value := range values {
		m.write("sys/class/dmi/id/"+name, []byte(value+"\n"))
	}
}

func (m *machine) options() Options {
	return Options{
		Disks: m, NeedsZone: true, sysfs: filepath.Join(m.root, "sys"),
		metadata: metadataService{address: "http://127.0.0.1:1"},
		readFile: func(device, fstype, name string, _ int) ([]byte, error) {
			m.fstypes = append(m.fstypes, fstype)
			if content, ok := m.files[device][name]; ok {
				return []byte(content), nil
			}
			return nil, os.ErrNotExist
		},
	}
}

func (m *machine) Disks() ([]blockdev.Device, error) { return m.disks, nil }

func (m *machine) Serial(d blockdev.Device) (string, error) {
	if m.holdSerials != nil {
		<-m.holdSerials
	}
	serial, ok := m.serials[d.Name]
	if !ok {
		return "", volume.Errorf(volume.KindInternal, "%s does not answer", d)
	}
	return serial, nil
}

func (m *machine) ReadStart(d blockdev.Device, p []byte) (int, error) {
	data, err := os.ReadFile(d.Path)
	return copy(p, data), err
}

func (m *machine) ByNumber(major, minor uint32) (blockdev.Device, error) {
	if d, ok := m.disksByNumber[fmt.Sprintf("%d:%d", major, minor)]; ok {
		return d, nil
	}
	return blockdev.Device{}, volume.Errorf(volume.KindInternal, "no device %d:%d", major, minor)
}

func (m *machine) Stack(d blockdev.Device) ([]blockdev.Device, error) {
	return []blockdev.Device{{Name: "part", Kind: blockdev.KindPartition}, d}, nil
}

func (m *machine) Partitions(d blockdev.Device) ([]blockdev.Device, error) {
	return m.layersOn(d, true), nil
}

func (m *machine) layersOn(d blockdev.Device, partitions bool) []blockdev.Device {
	return slices.DeleteFunc(slices.Clone(m.above[d.Name]), func(d blockdev.Device) bool {
		return (d.Kind == blockdev.KindPartition) != partitions
	})
}

func (m *machine) Holders(d blockdev.Device) ([]blockdev.Device, error) {
	return m.layersOn(d, false), nil
}

func (m *machine) MountedFilesystem(d blockdev.Device) string { return m.mounted[d.Name] }

// iso is the beginning of an ISO 9660 image with a label.
func iso(label string) []byte {
	image := make([]byte, 40<<10)
	copy(image[isoDescriptor:], "\x01CD001\x01\x00")
	copy(image[isoDescriptor+isoLabel:], fmt.Sprintf("%-32s", label))
	return image
}

// fat is the beginning of a FAT filesystem with a label.
func fat(label, kind string) []byte {
	image := make([]byte, 40<<10)
	at := map[string]int{"FAT32": fat32Label, "FAT16": fat16Label, "FAT12": fat16Label}[kind]
	copy(image[at:], fmt.Sprintf("%-11s%-8s", label, kind))
	return image
}

func metadataOf(id, zone string) string {
	return fmt.Sprintf(`{"uuid": %q, "availability_zone": %q, "meta": {"x": "y"}, "devices": []}`, id, zone)
}

func wantWords(t *testing.T, err error, words ...string) {
	t.Helper()
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("error %v does not mention %q", err, w)
		}
	}
}

func TestReadLabelOfEachFilesystem(t *testing.T) {
	for name, c := range map[string]struct {
		head          []byte
		fstype, label string
	}{
		"iso":       {iso("config-2"), "iso9660", "config-2"},
		"fat16":     {fat("config-2", "FAT16"), "vfat", "config-2"},
		"fat12":     {fat("CONFIG-2", "FAT12"), "vfat", "CONFIG-2"},
		"fat32":     {fat("config-2", "FAT32"), "vfat", "config-2"},
		"blank":     {make([]byte, 40<<10), "", ""},
		"cut short": {iso("config-2")[:isoDescriptor+20], "iso9660", ""},
		"empty":     {nil, "", ""},
		"another":   {iso("cidata"), "iso9660", "cidata"},
	} {
		fstype, label := readLabel(c.head)
		if fstype != c.fstype || label != c.label {
			t.Errorf("%s: type %q, label %q; want %q, %q", name, fstype, label, c.fstype, c.label)
		}
	}
	if bytes.Equal(iso("a"), iso("b")) {
		t.Error("the fixture has no label")
	}
}

func FuzzReadLabel(f *testing.F) {
	f.Add(iso("config-2"))
	f.Add(fat("config-2", "FAT32"))
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, head []byte) {
		fstype, label := readLabel(head)
		if len(label) > isoLabelLength || fstype == "" && label != "" || !bytes.Contains(head, []byte(label)) {
			t.Errorf("type %q, label %q: not in the data, or too long", fstype, label)
		}
	})
}
