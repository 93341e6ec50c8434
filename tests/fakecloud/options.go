package fakecloud

import "time"

// Options says what cloud is wanted. The zero value is a cloud of the Zed
// release with no quota, one zone and fast work.
type Options struct {
	Seed         uint64        // of identifiers and latencies: the same seed gives the same ones
	CinderMin    string        // lowest microversion of Cinder; default "3.0"
	CinderMax    string        // highest; default "3.70"
	NovaMin      string        // lowest microversion of Nova; default "2.1"
	NovaMax      string        // highest; default "2.93"
	TokenLife    time.Duration // default one hour
	Zones        []string      // availability zones of Cinder, the default one first; default "nova"
	Quota        *Quota        // of the project csi; nil: no limit
	ListLimit    int           // the most items of one page (osapi_max_limit); default 1000
	MaxDisks     int           // volumes a server takes (max_disk_devices_to_attach); 0: no limit
	Types        []VolumeType  // default: DefaultTypes; the first is the default type
	Dependent    bool          // a snapshot cannot go before the volumes made from it, as with RBD
	ForbidEvents bool          // Nova refuses the events that Cinder sends: Cinder's user lacks the role
	// NoMetadataFilter takes "metadata" out of resource_filters.json: below 3.31
	// Cinder then ignores that filter of users.
	NoMetadataFilter bool
	ServiceRole      bool // the user csi has the role service, so it may send events to Nova
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

// Unlimited is a quota that never refuses.
func Unlimited() Quota { return Quota{-1, -1, -1, -1, -1, -1} }

// VolumeType is a volume type with its extra specs, as an administrator
// defines it.
type VolumeType struct {
	ID         string // default: made from the seed
	Name       string
	About      string            // the description
	Encrypted  bool              // volumes of it are encrypted by Nova (LUKS)
	ExtraSpecs map[string]string // such as multiattach="<is> True"
}

// Multiattach tells whether volumes of the type may be attached more than
// once.
func (t VolumeType) Multiattach() bool { return t.ExtraSpecs["multiattach"] == "<is> True" }

// DefaultTypes returns a plain, a faster, a shareable, a bounded and an
// encrypted type ("rbd", "rbd-gold", "rbd-multi", "rbd-small", "rbd-luks").
func DefaultTypes() []VolumeType {
	backend := func(more ...string) map[string]string {
		specs := map[string]string{"volume_backend_name": "rbd"}
		for i := 0; i+1 < len(more); i += 2 {
			specs[more[i]] = more[i+1]
		}
		return specs
	}
	return []VolumeType{
		{Name: "rbd", ExtraSpecs: backend()},
		{Name: "rbd-gold", ExtraSpecs: backend("csi:tier", "gold")},
		{Name: "rbd-multi", ExtraSpecs: backend("multiattach", "<is> True")},
		{Name: "rbd-small", About: "2 to 8 GiB", ExtraSpecs: backend("provisioning:min_vol_size", "2", "provisioning:max_vol_size", "8")},
		{Name: "rbd-luks", Encrypted: true, ExtraSpecs: backend()},
	}
}

func (o Options) withDefaults() Options {
	text := func(s *string, otherwise string) {
		if *s == "" {
			*s = otherwise
		}
	}
	text(&o.CinderMin, "3.0")
	text(&o.CinderMax, "3.70")
	text(&o.NovaMin, "2.1")
	text(&o.NovaMax, "2.93")
	if o.TokenLife == 0 {
		o.TokenLife = time.Hour
	}
	if len(o.Zones) == 0 {
		o.Zones = []string{"nova"}
	}
	if o.ListLimit == 0 {
		o.ListLimit = 1000
	}
	if o.Types == nil {
		o.Types = DefaultTypes()
	}
	if o.Quota == nil {
		none := Unlimited()
		o.Quota = &none
	}
	return o
}
