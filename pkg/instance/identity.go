// Package instance finds out which server of an OpenStack cloud this machine is and where it is
// (Identify), and how many volumes can be attached to it (AttachLimit). It needs no credentials: it
// reads what Nova shows to the server itself.
package instance

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// Disks is what this package needs of the machine's disks; *blockdev.System implements it.
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

// Options are the parts of the identity that the operator has set, and where Identify reads the
// rest.
type Options struct {
	ID        string       // the server's id if the operator has set it
	Zone      string       // the availability zone if the operator has set it
	NeedsZone bool         // without a zone, Identify fails
	Disks     Disks        // required; the config drive is one of them
	Log       *slog.Logger // nil means no log

	sysfs    string                                                         // "/sys" when empty
	metadata metadataService                                                // defaultMetadataService when empty
	readFile func(device, fstype, name string, maxSize int) ([]byte, error) // readFromFilesystem when nil
}

// Identity says which server this machine is and where it is, with the sources of both.
type Identity struct {
	ID, IDSource     string // the server's id in Nova
	Zone, ZoneSource string // its availability zone, as Nova spells it; empty when not needed
}

// facts is what one source reported; the fields that it does not know are empty.
type facts struct{ id, zone string }

// Identify finds the identity of this machine. It takes id and zone from the first source that
// knows them, and asks no source for what is known:
//
//  1. the operator (Options.ID, Options.Zone);
//  2. the config drive, a small disk that Nova can have plugged in;
//  3. the DMI table, for the id: Nova writes it there as the product's UUID. Only if vendor or
//     product is "OpenStack": the UUID of any other machine is not a server's id;
//  4. the metadata service at 169.254.169.254.
//
// It is an error if the DMI table contradicts an id of another source: volumes would be attached to
// another server. The operator's id is not compared. An error names all sources that were tried.
// Kinds: Internal, Deadline, Canceled.
func Identify(ctx context.Context, o Options) (Identity, error) {
	o = o.withDefaults()
	const operator = "the command line"
	found := Identity{ID: o.ID, IDSource: operator, Zone: o.Zone, ZoneSource: operator}
	var tried []string
	for _, source := range []struct {
		name    string
		hasZone bool
		read    func(context.Context) (facts, error)
	}{
		{"config drive", true, o.readConfigDrive},
		{"DMI table", false, o.readDMI},
		{"metadata service", true, o.metadata.read},
	} {
		if isNeeded := found.ID == "" || source.hasZone && o.NeedsZone && found.Zone == ""; !isNeeded {
			continue
		}
		f, err := source.read(ctx)
		if ctx.Err() != nil {
			return Identity{}, volume.Wrap(
				fmt.Errorf("cannot ask the %s which server this machine is: %w", source.name, ctx.Err()), "", "")
		}
		if err != nil {
			tried = append(tried, source.name+": "+err.Error())
			o.Log.InfoContext(ctx, "cannot read the identity of this machine from a source",
				"source", source.name, "reason", err)
			continue
		}
		if found.ID == "" && f.id != "" {
			found.ID, found.IDSource = f.id, "the "+source.name
		}
		if found.Zone == "" && f.zone != "" {
			found.Zone, found.ZoneSource = f.zone, "the "+source.name
		}
	}
	if !o.NeedsZone {
		found.Zone, found.ZoneSource = "", ""
	}
	return found, o.check(ctx, found, strings.Join(tried, "; "))
}

// check returns an error if something is missing or contradictory. tried has the sources' errors.
func (o Options) check(ctx context.Context, found Identity, tried string) error {
	if found.ID == "" {
		return volume.Errorf(volume.KindInternal, "no source knows which server of OpenStack this machine is: %s", tried).
			WithRemedy("set --node-id to the server's id, or let this pod reach the metadata service at 169.254.169.254 " +
				"(Helm value node.hostNetwork: true)")
	}
	if o.NeedsZone && found.Zone == "" {
		return volume.Errorf(volume.KindInternal, "no source knows the availability zone of this machine: %s", tried).
			WithRemedy("set --zone, or --with-topology=false if every server can use the volumes of every zone, " +
				"or let this pod reach the metadata service at 169.254.169.254 (Helm value node.hostNetwork: true)")
	}
	if o.ID != "" {
		return nil
	}
	if f, err := o.readDMI(ctx); err == nil && f.id != found.ID {
		return volume.Errorf(volume.KindInternal,
			"according to %s this machine is the server %s, but according to its DMI table it is %s",
			found.IDSource, found.ID, f.id).
			WithRemedy("find out which id is right (openstack server show ID), then set --node-id to it")
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

// isVolumeSerial reports whether a disk with this serial is a Cinder volume: Nova gives such a disk
// the volume's id, of which virtio-blk and NVMe show 20 characters, and gives its other disks no
// serial.
func isVolumeSerial(serial string) bool {
	return len(serial) >= blockdev.MaxShownSerial && volume.IsUUIDPrefix(serial)
}
