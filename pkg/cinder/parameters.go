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
)

// paramPolicy is the mutable parameter that lets Cinder move a volume to
// another backend for its new type: "on-demand", or "never", the default.
const paramPolicy = "migration-policy"

const (
	policyNever    = "never"
	policyOnDemand = "on-demand"
)

// Metadata of volumes.
const (
	metaCluster = "cinder.csi.openstack.org/cluster"
	// metaEncrypted is "true" for volumes that the node encrypts.
	metaEncrypted = "growvol.io/encrypted"
	// metaBackup is Cinder's own: the backup that a volume was restored from.
	metaBackup = "src_backup_id"
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
	for key, value := range class {
		switch key {
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
				return w, volume.Errorf(volume.Invalid, "unknown parameter %q of the StorageClass; known are %s", key,
					strings.Join([]string{paramType, paramZone, paramCloud, volume.MkfsOptionsKey, volume.EncryptedKey, paramNear, paramFar}, ", ")).
					WithRemedy("remove the parameter from the class")
			}
		}
	}
	w.metadata = map[string]string{metaCluster: b.opts.ClusterID}
	for _, key := range sidecarMetadata() {
		if value := class[key]; value != "" {
			w.metadata[key] = value
		}
	}
	return w, nil
}

// mutable reads the parameters of a VolumeAttributesClass. Kind Invalid: one is
// not known, or has an impossible value.
func mutable(class map[string]string) (volType, policy string, err error) {
	policy = policyNever
	for key, value := range class {
		switch {
		case key == paramType && value != "":
			volType = value
		case key == paramPolicy && (value == policyNever || value == policyOnDemand):
			policy = value
		case key == paramType, key == paramPolicy:
			return "", "", volume.Errorf(volume.Invalid, "%q is not a possible value of the parameter %s", value, key).
				WithRemedy("correct the VolumeAttributesClass: " + paramPolicy + " is " + policyNever + " or " + policyOnDemand)
		default:
			return "", "", volume.Errorf(volume.Invalid, "unknown parameter %q of the VolumeAttributesClass; known are %s and %s", key, paramType, paramPolicy).
				WithRemedy("remove the parameter from the class")
		}
	}
	return volType, policy, nil
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
