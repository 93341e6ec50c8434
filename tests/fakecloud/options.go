package fakecloud

import (
	"cmp"
	"time"
)

// Options describes a cloud. The zero value is a cloud of the Zed release without quota, with one
// zone and fast work.
type Options struct {
	Seed                uint64        // of identifiers and latencies
	CinderMin           string        // lowest microversion of Cinder; default "3.0"
	CinderMax           string        // highest; default "3.70"
	NovaMin             string        // lowest microversion of Nova; default "2.1"
	NovaMax             string        // highest; default "2.93"
	TokenLifetime       time.Duration // default one hour
	Zones               []string      // availability zones of Cinder, the default one first; default "nova"
	Quota               *Quota        // of the project csi; nil: no limit
	ListLimit           int           // maximum items of one page (osapi_max_limit); default 1000
	MaxDisks            int           // maximum disks of a server (max_disk_devices_to_attach); 0: no limit
	Types               []VolumeType  // default: DefaultTypes; the first is the default type
	KeepClonedSnapshots bool          // Cinder refuses to delete a snapshot that has clones, as with RBD
	ForbidEvents        bool          // Nova refuses events of Cinder because Cinder's user lacks the role
	// NoMetadataFilter removes "metadata" from resource_filters.json: Cinder then ignores that filter
	// of users below 3.31 and refuses it from 3.31 on.
	NoMetadataFilter bool
	// InMemory makes the cloud listen for Dialer alone, without a socket: a test can then run in a
	// bubble of testing/synctest, whose clock stands still while a goroutine waits for the network.
	InMemory    bool
	ServiceRole bool // the user csi has the role service and may send events to Nova
}

// Quota has the limits of a project; -1 means no limit, as in Cinder.
type Quota struct {
	Gigabytes          int // GiB of volumes and snapshots together
	Volumes            int
	Snapshots          int
	PerVolumeGigabytes int // GiB of one volume
	Backups            int
	BackupGigabytes    int
}

// UnlimitedQuota returns a quota without limits.
func UnlimitedQuota() Quota { return Quota{-1, -1, -1, -1, -1, -1} }

// VolumeType is a volume type with its extra specs, as an administrator defines it.
type VolumeType struct {
	ID          string // default: a random UUID
	Name        string
	Description string
	Encrypted   bool              // Nova encrypts volumes of this type (LUKS)
	ExtraSpecs  map[string]string // such as multiattach="<is> True"
}

// Multiattach reports whether volumes of the type may have several attachments.
func (vt VolumeType) Multiattach() bool { return vt.ExtraSpecs["multiattach"] == "<is> True" }

// DefaultTypes returns the types "rbd" (plain), "rbd-gold" (another tier), "rbd-multi"
// (multiattach), "rbd-small" (2 to 8 GiB) and "rbd-luks" (encrypted).
func DefaultTypes() []VolumeType {
	specs := func(more ...string) map[string]string {
		all := map[string]string{"volume_backend_name": "rbd"}
		for i := 0; i+1 < len(more); i += 2 {
			all[more[i]] = more[i+1]
		}
		return all
	}
	return []VolumeType{
		{Name: "rbd", ExtraSpecs: specs()},
		{Name: "rbd-gold", ExtraSpecs: specs("csi:tier", "gold")},
		{Name: "rbd-multi", ExtraSpecs: specs("multiattach", "<is> True")},
		{
			Name:        "rbd-small",
			Description: "2 to 8 GiB",
			ExtraSpecs:  specs("provisioning:min_vol_size", "2", "provisioning:max_vol_size", "8"),
		},
		{Name: "rbd-luks", Encrypted: true, ExtraSpecs: specs()},
	}
}

func (o Options) withDefaults() Options {
	o.CinderMin = cmp.Or(o.CinderMin, "3.0")
	o.CinderMax = cmp.Or(o.CinderMax, "3.70")
	o.NovaMin = cmp.Or(o.NovaMin, "2.1")
	o.NovaMax = cmp.Or(o.NovaMax, "2.93")
	o.TokenLifetime = cmp.Or(o.TokenLifetime, time.Hour)
	o.ListLimit = cmp.Or(o.ListLimit, 1000)
	if len(o.Zones) == 0 {
		o.Zones = []string{"nova"}
	}
	if o.Types == nil {
		o.Types = DefaultTypes()
	}
	if o.Quota == nil {
		o.Quota = new(UnlimitedQuota())
	}
	return o
}
