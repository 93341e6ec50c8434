package instance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/operation"
)

// configLabel is the label of the filesystem on a config drive (Nova's user documentation, "Config
// drives").
const configLabel = "config-2"

// disksTimeout bounds a reading of all disks: a disk that hangs must not keep the node plugin from
// starting.
const disksTimeout = 20 * time.Second

var errNoConfigDrive = errors.New("this machine has none (no disk with a filesystem labeled " + configLabel + ")")

// readConfigDrive reads meta_data.json from the config drive.
func (o Options) readConfigDrive(ctx context.Context) (facts, error) {
	ctx, cancel := context.WithTimeout(ctx, disksTimeout)
	defer cancel()
	return operation.AwaitCall(ctx, func() (facts, error) {
		disks, err := o.Disks.Disks()
		if err != nil {
			return facts{}, err
		}
		lastErr := errNoConfigDrive
		for _, d := range disks {
			fstype := o.configDriveType(d)
			if fstype == "" {
				continue
			}
			data, err := o.readFile(d.Path, fstype, metadataPath, maxMetadataSize)
			if err == nil {
				return parseMetadata(data)
			}
			lastErr = fmt.Errorf("%s: %w", d, err)
		}
		return facts{}, lastErr
	})
}

// configDriveType returns the type of the filesystem on a disk that can be the config drive, empty
// if the disk is not. A volume never is, whatever its label: otherwise the user of a volume could
// give this machine the identity of another one.
func (o Options) configDriveType(d blockdev.Device) string {
	if !d.Kind.IsPluggable() && d.Kind != blockdev.KindOther {
		return ""
	}
	if serial, err := o.Disks.Serial(d); err != nil || isVolumeSerial(serial) {
		return ""
	}
	head := make([]byte, isoDescriptor+isoLabel+isoLabelLength)
	n, err := o.Disks.ReadStart(d, head)
	if err != nil {
		return "" // as for an empty CD drive
	}
	fstype, label := readLabel(head[:n])
	if !strings.EqualFold(label, configLabel) {
		return ""
	}
	return fstype
}

// The places of the labels, in bytes (ECMA-119, section 8.4; Microsoft's FAT specification, boot
// sector).
const (
	isoDescriptor  = 16 * 2048 // the primary volume descriptor
	isoLabel       = 40        // its field Volume Identifier
	isoLabelLength = 32
	fatLabelLength = 11
	fat16Label     = 43 // BS_VolLab
	fat16Type      = 54 // BS_FilSysType
	fat32Label     = 71 // BS_VolLab
	fat32Type      = 82 // BS_FilSysType
)

// readLabel reads type and label of an ISO 9660 or FAT filesystem from its first bytes. Both are
// empty for anything else.
func readLabel(head []byte) (fstype, label string) {
	at := func(offset, length int) []byte {
		if offset+length > len(head) {
			return nil
		}
		return head[offset : offset+length]
	}
	text := func(b []byte) string { return string(bytes.TrimRight(b, " \x00")) }
	switch {
	case string(at(isoDescriptor, 6)) == "\x01CD001":
		return "iso9660", text(at(isoDescriptor+isoLabel, isoLabelLength))
	case string(at(fat32Type, 5)) == "FAT32":
		return "vfat", text(at(fat32Label, fatLabelLength))
	case string(at(fat16Type, 3)) == "FAT":
		return "vfat", text(at(fat16Label, fatLabelLength))
	}
	return "", ""
}
