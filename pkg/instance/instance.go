// Package instance finds out which server of an OpenStack cloud this machine
// is, where it is, and how many volumes it can take. It needs no credentials:
// it reads what Nova shows to the server itself.
package instance

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// Disks is what this package needs of the machine's disks; *blockdev.System
// is the real one.
type Disks interface {
	Disks() ([]blockdev.Device, error)
	Serial(d blockdev.Device) (string, error)
	ReadStart(d blockdev.Device, p []byte) (int, error)
	ByNumber(major, minor uint32) (blockdev.Device, error)
	Stack(d blockdev.Device) ([]blockdev.Device, error)
	Partitions(d blockdev.Device) ([]blockdev.Device, error)
	Holders(d blockdev.Device) ([]blockdev.Device, error)
	MountedFilesystem(d blockdev.Device) (fsType string)
}

// Options say what is known, and where to look for the rest.
type Options struct {
	ID   string // the server's id as the operator gave it; empty: to be found
	Zone string // the availability zone likewise
	// NeedsZone says that the zone is needed.
	NeedsZone bool
	Disks     Disks        // required; among them is the config drive
	Log       *slog.Logger // nil: none

	sysfs    string                                                         // "/sys"
	metadata metadataService                                                // its address and patience
	readFile func(device, fstype, name string, maxSize int) ([]byte, error) // reads a file of a filesystem on a device
}

// Identity is who and where this machine is, and who said so.
type Identity struct {
	ID, IDSource     string // the server's id in Nova
	Zone, ZoneSource string // its availability zone, as Nova spells it; empty when not needed
}

// facts is what one source says; empty fields are what it does not know.
type facts struct{ id, zone string }

// Identify finds the identity of this machine. Each thing is taken from the
// first source that knows it, and no source is asked in vain:
//
//  1. what the operator gave (Options.ID, Options.Zone);
//  2. the config drive, a small disk that Nova may have plugged in;
//  3. the DMI table, for the id: Nova puts it there as the product's UUID.
//     Only if vendor or product name "OpenStack", for the UUID of any other
//     machine is no server's id;
//  4. the metadata service at 169.254.169.254.
//
// A config drive and a DMI table that contradict one another are an error:
// volumes would be attached to another server. The error names all that was
// tried. Kinds: Internal, Deadline, Canceled.
func Identify(ctx context.Context, o Options) (Identity, error) {
	o = o.withDefaults()
	who := Identity{ID: o.ID, IDSource: "the command line", Zone: o.Zone, ZoneSource: "the command line"}
	var tried []string
	for _, source := range []struct {
		name  string
		knows func() bool // something that is still needed
		ask   func(context.Context) (facts, error)
	}{
		{"config drive", func() bool { return who.ID == "" || o.NeedsZone && who.Zone == "" }, o.readConfigDrive},
		{"DMI table", func() bool { return who.ID == "" }, o.readDMI},
		{"metadata service", func() bool { return who.ID == "" || o.NeedsZone && who.Zone == "" }, o.metadata.read},
	} {
		if !source.knows() {
			continue
		}
		f, err := source.ask(ctx)
		if ctx.Err() != nil {
			return Identity{}, volume.Wrap(fmt.Errorf("ask the %s who this machine is: %w", source.name, ctx.Err()), "", "")
		}
		if err != nil {
			tried = append(tried, source.name+": "+err.Error())
			o.Log.InfoContext(ctx, "a source of this machine's identity says nothing", "source", source.name, "reason", err)
			continue
		}
		if who.ID == "" && f.id != "" {
			who.ID, who.IDSource = f.id, "the "+source.name
		}
		if who.Zone == "" && f.zone != "" {
			who.Zone, who.ZoneSource = f.zone, "the "+source.name
		}
	}
	return who, o.checkComplete(ctx, &who, tried)
}

// checkComplete makes sure that nothing is missing, and that nothing contradicts.
func (o Options) checkComplete(ctx context.Context, who *Identity, tried []string) error {
	all := strings.Join(tried, "; ")
	if who.ID == "" {
		return volume.Errorf(volume.KindInternal, "no source tells which server of OpenStack this machine is: %s", all).
			WithRemedy("give --node-id, the server's id, or let this pod reach the metadata service (hostNetwork)")
	}
	if o.NeedsZone && who.Zone == "" {
		return volume.Errorf(volume.KindInternal, "no source tells the availability zone of this machine: %s", all).
			WithRemedy("give --zone, or --with-topology=false where zones mean nothing, or let this pod reach the metadata service (hostNetwork)")
	}
	if !o.NeedsZone {
		who.Zone, who.ZoneSource = "", ""
	}
	if o.ID != "" {
		return nil
	}
	if f, err := o.readDMI(ctx); err == nil && f.id != who.ID {
		return volume.Errorf(volume.KindInternal, "%s says that this machine is the server %s, but its DMI table says %s", who.IDSource, who.ID, f.id).
			WithRemedy("find out which is right, and give it as --node-id")
	}
	return nil
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.sysfs == "" {
		o.sysfs = "/sys"
	}
	if o.metadata.address == "" {
		o.metadata = defaultMetadataService()
	}
	if o.readFile == nil {
		o.readFile = readFromFilesystem
	}
	return o
}

// isVolumeSerial tells whether a disk with this serial is a Cinder volume: Nova
// gives it the volume's id, of which virtio-blk and NVMe show 20 characters.
// Nova gives its other disks none.
func isVolumeSerial(serial string) bool {
	const visible = 20
	return len(serial) >= visible && volume.IsUUIDPrefix(serial)
}
