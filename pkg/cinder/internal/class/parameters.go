package class

import (
	"strings"

	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/volume"
)

// Parameters of classes. ParamType and ParamMetadata are parameters of all three kinds.
const (
	// ParamType is the name or id of a volume type; in a VolumeSnapshotClass it is TypeSnapshot or
	// TypeBackup.
	ParamType = "type"
	// ParamMetadata is metadata for the new object, or the volume, in addition to the driver's.
	ParamMetadata = "appendVolumeMetadata"
	// ParamZone is the availability zone of a volume or backup.
	ParamZone = "availability"
	// ParamCloud is the cloud of the volumes of a StorageClass. The secret of the same name overrides
	// it.
	ParamCloud = "cloud"
	// ParamAffinity and ParamAntiAffinity are ids or names of volumes, separated by commas, whose
	// storage backend a new volume shares or avoids.
	ParamAffinity     = "cinder.csi.openstack.org/affinity"
	ParamAntiAffinity = "cinder.csi.openstack.org/anti-affinity"
	// ParamPolicy, in a VolumeAttributesClass, says whether Cinder may move a volume to another
	// backend for its new type: PolicyOnDemand or PolicyNever (the default).
	ParamPolicy = "migration-policy"
)

// Values of ParamPolicy.
const (
	PolicyNever    = "never"
	PolicyOnDemand = "on-demand"
)

// Storage has the parsed parameters of a StorageClass.
type Storage struct {
	Cloud        string
	Type         string
	Zone         string
	Affinity     []string
	AntiAffinity []string
	Metadata     map[string]string // ParamMetadata and the driver's metadata
	Context      map[string]string // volume context, which is for the node
}

// ParseStorage parses the parameters of a StorageClass for a volume of the cluster.
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
				return class, unknownError("StorageClass", key, ParamType, ParamZone, ParamCloud, volume.MkfsOptionsKey,
					ParamMetadata, volume.EncryptedKey, ParamAffinity, ParamAntiAffinity)
			}
		}
	}
	class.Metadata = metadata.Own(class.Metadata, clusterID, parameters,
		metadata.Claim, metadata.ClaimNamespace, metadata.PersistentVolume)
	return class, nil
}

// Attributes has the parsed parameters of a VolumeAttributesClass.
type Attributes struct {
	Type     string // empty: unchanged
	Policy   string
	Metadata map[string]string // to add to the metadata of the volume
}

// ParseAttributes parses the parameters of a VolumeAttributesClass.
func ParseAttributes(parameters map[string]string) (Attributes, error) {
	class := Attributes{Policy: PolicyNever}
	for key, value := range parameters {
		var err error
		switch key {
		case ParamType:
			if class.Type = value; value == "" {
				err = valueError(key, value, "the name or id of a volume type")
			}
		case ParamPolicy:
			if class.Policy = value; value != PolicyNever && value != PolicyOnDemand {
				err = valueError(key, value, PolicyNever+" or "+PolicyOnDemand)
			}
		case ParamMetadata:
			class.Metadata, err = parseMetadata(value)
		default:
			if !strings.HasPrefix(key, metadata.SidecarPrefix) { // --extra-modify-metadata of external-resizer
				err = unknownError("VolumeAttributesClass", key, ParamType, ParamPolicy, ParamMetadata)
			}
		}
		if err != nil {
			return class, err
		}
	}
	return class, nil
}

// unknownError is the error for a parameter that the kind of class does not have.
func unknownError(kind, key string, known ...string) error {
	return volume.Errorf(volume.KindInvalid,
		"the %s has the unknown parameter %q; known are %s", kind, key, strings.Join(known, ", ")).
		WithRemedy("remove the parameter " + key + " from the " + kind)
}

// valueError is the error for a value that the parameter does not allow.
func valueError(key, value, allowed string) error {
	return volume.Errorf(volume.KindInvalid, "parameter %s has the value %q, but it must be %s", key, value, allowed).
		WithRemedy("correct the parameter " + key + " in the class")
}

// splitList splits text at its commas and drops empty items.
func splitList(text string) []string {
	var items []string
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}
