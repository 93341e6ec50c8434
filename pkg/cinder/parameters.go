package cinder

import (
	"strings"

	"github.com/growvol/growvol/pkg/volume"
)

// Parameters of a StorageClass, named as in cinder-csi-plugin where it has
// them.
const (
	paramType = "type" // volume type, by name or id; also of a VolumeAttributesClass
	paramZone = "availability"
	// paramCloud names the cloud; the secret of the same name comes first.
	paramCloud = "cloud"
	// paramNear and paramFar are ids or names of volumes, separated by commas,
	// whose storage backend the new volume shares or avoids.
	paramNear = "cinder.csi.openstack.org/affinity"
	paramFar  = "cinder.csi.openstack.org/anti-affinity"
	// paramMetadata is a JSON object of strings: metadata for the volume, the
	// snapshot or the backup, beside those of this driver. It is a parameter of
	// StorageClasses, VolumeSnapshotClasses and VolumeAttributesClasses.
	paramMetadata = "appendVolumeMetadata"
)

// paramPolicy is the mutable parameter that lets Cinder move a volume to
// another backend for its new type: "on-demand", or "never", the default.
const paramPolicy = "migration-policy"

const (
	policyNever    = "never"
	policyOnDemand = "on-demand"
)

// Prefixes of the metadata keys of cinder-csi-plugin and of this driver.
const (
	reservedPrefix = "cinder.csi.openstack.org/"
	ownPrefix      = "growvol.io/"
)

// Metadata of volumes.
const (
	metaCluster = reservedPrefix + "cluster"
	// metaEncrypted is "true" for volumes that the node encrypts.
	metaEncrypted = ownPrefix + "encrypted"
	// metaBackup is Cinder's own: the backup that a volume was restored from.
	metaBackup = "src_backup_id"
	// metaReadOnly and metaAttachedMode are Cinder's own: it shows what it has noted
	// under them, whatever a client has set.
	metaReadOnly     = "readonly"
	metaAttachedMode = "attached_mode"
	// sidecarPrefix marks parameters that the CSI sidecars add; external-provisioner
	// tells the names of the claim with them (--extra-create-metadata).
	sidecarPrefix = "csi.storage.k8s.io/"
)

const (
	// metaVolume is the name of the PersistentVolume, which is that of the volume.
	metaVolume         = sidecarPrefix + "pv/name"
	metaClaim          = sidecarPrefix + "pvc/name"
	metaClaimNamespace = sidecarPrefix + "pvc/namespace"
)

// sidecarMetadata are the parameters of external-provisioner that are kept with
// the volume.
func sidecarMetadata() []string {
	return []string{metaClaim, metaClaimNamespace, metaVolume}
}

// description is the one that cinder-csi-plugin gives, by which people find
// the volumes.
const description = "Created by OpenStack Cinder CSI driver"

// wanted is what a class asks for.
type wanted struct {
	cloud    string
	volType  string
	zone     string
	near     []string
	far      []string
	metadata map[string]string
	context  map[string]string // for the node
}

// parameters reads the parameters of a StorageClass. Kind Invalid: one is not
// known.
func (b *Backend) parameters(class map[string]string) (wanted, error) {
	var w wanted
	var err error
	for key, value := range class {
		switch key {
		case paramMetadata:
			if w.metadata, err = parseMetadata(value); err != nil {
				return w, err
			}
		case paramCloud:
			w.cloud = value
		case paramType:
			w.volType = value
		case paramZone:
			w.zone = value
		case paramNear:
			w.near = list(value)
		case paramFar:
			w.far = list(value)
		case volume.MkfsOptionsKey:
			w.context = map[string]string{volume.MkfsOptionsKey: value}
		default:
			if !strings.HasPrefix(key, sidecarPrefix) {
				return w, volume.Errorf(volume.KindInvalid, "unknown parameter %q of the StorageClass; known are %s", key,
					strings.Join([]string{paramType, paramZone, paramCloud, volume.MkfsOptionsKey, paramMetadata, volume.EncryptedKey, paramNear, paramFar}, ", ")).
					WithRemedy("remove the parameter from the class")
			}
		}
	}
	w.metadata = b.addOwnMetadata(w.metadata, class, sidecarMetadata())
	return w, nil
}

// mutations is what a VolumeAttributesClass asks for.
type mutations struct {
	volType  string // empty: as it is
	policy   string
	metadata map[string]string // to add to what is there
}

// mutable reads the parameters of a VolumeAttributesClass. Kind Invalid: one is
// not known, or has an impossible value.
func mutable(class map[string]string) (mutations, error) {
	m := mutations{policy: policyNever}
	for key, value := range class {
		var err error
		switch {
		case key == paramType && value != "":
			m.volType = value
		case key == paramPolicy && (value == policyNever || value == policyOnDemand):
			m.policy = value
		case key == paramMetadata:
			m.metadata, err = parseMetadata(value)
		case key == paramType, key == paramPolicy:
			err = volume.Errorf(volume.KindInvalid, "%q is not a possible value of the parameter %s", value, key).
				WithRemedy("correct the VolumeAttributesClass: " + paramPolicy + " is " + policyNever + " or " + policyOnDemand)
		case strings.HasPrefix(key, sidecarPrefix): // the names of the claim, by --extra-modify-metadata of external-resizer
		default:
			err = volume.Errorf(volume.KindInvalid, "unknown parameter %q of the VolumeAttributesClass; known are %s", key,
				strings.Join([]string{paramType, paramPolicy, paramMetadata}, ", ")).
				WithRemedy("remove the parameter from the class")
		}
		if err != nil {
			return m, err
		}
	}
	return m, nil
}

// list splits a list at its commas.
func list(text string) []string {
	var out []string
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}
