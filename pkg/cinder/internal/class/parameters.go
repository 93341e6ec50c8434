package class

import (
	"strings"

	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/volume"
)

// Parameters of classes. ParamMetadata, metadata for what is made besides those of the driver,
// is a parameter of all three kinds.
const (
	// ParamType is the volume type by name or id; of a VolumeSnapshotClass it is TypeSnapshot or
	// TypeBackup.
	ParamType  = "type"
	ParamZone  = "availability"
	ParamCloud = "cloud" // of a StorageClass; the secret of the same name comes first
	// ParamAffinity and ParamAntiAffinity are ids or names of volumes, separated by commas,
	// whose storage backend the new volume shares or avoids.
	ParamAffinity     = "cinder.csi.openstack.org/affinity"
	ParamAntiAffinity = "cinder.csi.openstack.org/anti-affinity"
	ParamMetadata     = "appendVolumeMetadata"
	// ParamPolicy lets Cinder move a volume to another backend for its new type (on-demand),
	// or not (never, the default). It is a parameter of VolumeAttributesClasses.
	ParamPolicy = "migration-policy"
)

// Values of ParamPolicy.
const (
	PolicyNever    = "never"
	PolicyOnDemand = "on-demand"
)

// Storage is what a StorageClass asks for.
type Storage struct {
	Cloud        string
	Type         string
	Zone         string
	Affinity     []string
	AntiAffinity []string
	Metadata     map[string]string // with those of the driver
	Context      map[string]string // for the node
}

// ParseStorage reads the parameters of a StorageClass for a volume of the cluster. Kind
// Invalid: a parameter is not known, or has an impossible value.
func ParseStorage(parameters map[string]string, clusterID string) (Storage, error) {
	var class Storage
	var err error
	for key, value := range parameters {
		switch key {
		case ParamMetadata:
			if class.Metadata, err = parseMetadata(value); err != nil {
				return class, err
			}
		case ParamCloud:
			class.Cloud = value
		case ParamType:
			class.Type = value
		case ParamZone:
			class.Zone = value
		case ParamAffinity:
			class.Affinity = splitList(value)
		case ParamAntiAffinity:
			class.AntiAffinity = splitList(value)
		case volume.MkfsOptionsKey:
			class.Context = map[string]string{volume.MkfsOptionsKey: value}
		default:
			if !strings.HasPrefix(key, metadata.SidecarPrefix) {
				return class, unknown("StorageClass", key, ParamType, ParamZone, ParamCloud, volume.MkfsOptionsKey,
					ParamMetadata, volume.EncryptedKey, ParamAffinity, ParamAntiAffinity)
			}
		}
	}
	class.Metadata = metadata.Own(class.Metadata, clusterID, parameters,
		metadata.Claim, metadata.ClaimNamespace, metadata.PersistentVolume)
	return class, nil
}

// Attributes is what a VolumeAttributesClass asks for.
type Attributes struct {
	Type     string // empty: unchanged
	Policy   string
	Metadata map[string]string // added to those of the volume
}

// ParseAttributes reads the parameters of a VolumeAttributesClass. Kind Invalid: a parameter is
// not known, or has an impossible value.
func ParseAttributes(parameters map[string]string) (Attributes, error) {
	class := Attributes{Policy: PolicyNever}
	for key, value := range parameters {
		var err error
		switch {
		case key == ParamType && value != "":
			class.Type = value
		case key == ParamPolicy && (value == PolicyNever || value == PolicyOnDemand):
			class.Policy = value
		case key == ParamMetadata:
			class.Metadata, err = parseMetadata(value)
		case key == ParamType, key == ParamPolicy:
			err = volume.Errorf(volume.KindInvalid, "%q is not a possible value of the parameter %s", value, key).
				WithRemedy("correct the VolumeAttributesClass: " + ParamPolicy + " is " + PolicyNever + " or " + PolicyOnDemand)
		case strings.HasPrefix(key, metadata.SidecarPrefix): // --extra-modify-metadata of external-resizer
		default:
			err = unknown("VolumeAttributesClass", key, ParamType, ParamPolicy, ParamMetadata)
		}
		if err != nil {
			return class, err
		}
	}
	return class, nil
}

// unknown is the error for a parameter that a kind of class does not have.
func unknown(kind, key string, known ...string) error {
	return volume.Errorf(volume.KindInvalid,
		"unknown parameter %q of the %s; known are %s", key, kind, strings.Join(known, ", ")).
		WithRemedy("remove the parameter from the class")
}

// splitList splits a list at its commas.
func splitList(text string) []string {
	var items []string
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}
