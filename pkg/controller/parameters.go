package controller

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/growvol/growvol/pkg/volume"
)

// classParameters are the parameters of a StorageClass: those that the backend reads, and
// those that this package reads for all backends.
type classParameters struct {
	backend   map[string]string // for the backend
	fsType    string            // value of fsTypeKey; empty: none
	encrypted bool
}

// fsTypeKey is the StorageClass parameter, in upper or lower case, that named the
// filesystem before external-provisioner had csi.storage.k8s.io/fstype. The provisioner
// puts the value into the volume capability and passes the parameter on.
const fsTypeKey = "fstype"

// The values of the parameter volume.EncryptedKey.
const (
	encryptedTrue  = "true"
	encryptedFalse = "false"
)

// parseClass separates the StorageClass parameters that are the same for all backends
// from those that the backend reads. Error kind Invalid: one has an impossible value, or
// two contradict each other.
func parseClass(class map[string]string) (classParameters, error) {
	p := classParameters{backend: withoutSecretKeys(class)}
	for key, value := range p.backend {
		switch {
		case key == volume.EncryptedKey:
			if value != encryptedTrue && value != encryptedFalse {
				return p, volume.Errorf(volume.KindInvalid, "the parameter %s of the StorageClass is %q, but must be %q or %q",
					key, value, encryptedTrue, encryptedFalse).
					WithRemedy(fmt.Sprintf("delete the StorageClass and create it again with %s: %q or %q",
						key, encryptedTrue, encryptedFalse))
			}
			p.encrypted = value == encryptedTrue
		case !strings.EqualFold(key, fsTypeKey):
			continue
		case value == "":
		case p.fsType != "" && !sameFilesystem(p.fsType, value):
			return p, volume.Errorf(volume.KindInvalid, "the StorageClass names the filesystems %q and %q",
				min(p.fsType, value), max(p.fsType, value)).
				WithRemedy("delete the StorageClass and create it again with one of them, as csi.storage.k8s.io/fstype")
		default:
			p.fsType = value
		}
		delete(p.backend, key)
	}
	return p, nil
}

// deprecatedSecretKeys returns the parameters of StorageClasses and VolumeSnapshotClasses
// that name secrets and have no prefix. The sidecars read them, or did so in earlier
// versions, and pass them on.
func deprecatedSecretKeys() []string {
	return []string{
		"csiProvisionerSecretName", "csiProvisionerSecretNamespace",
		"csiControllerPublishSecretName", "csiControllerPublishSecretNamespace",
		"csiNodeStageSecretName", "csiNodeStageSecretNamespace",
		"csiNodePublishSecretName", "csiNodePublishSecretNamespace",
		"csiSnapshotterSecretName", "csiSnapshotterSecretNamespace",
	}
}

// withoutSecretKeys returns a copy of the parameters of a class without those that name
// secrets for the sidecars.
func withoutSecretKeys(class map[string]string) map[string]string {
	rest := maps.Clone(class)
	for _, key := range deprecatedSecretKeys() {
		delete(rest, key)
	}
	return rest
}

// checkFSType returns an error of kind Invalid for an access with another filesystem than
// the class names: the node reads the access. external-provisioner makes them equal.
func (p classParameters) checkFSType(accesses []volume.Access) error {
	for _, a := range accesses {
		if p.fsType == "" || a.Block || sameFilesystem(a.FSType, p.fsType) {
			continue
		}
		found := "none"
		if a.FSType != "" {
			found = strconv.Quote(a.FSType)
		}
		return volume.Errorf(volume.KindInvalid,
			"the StorageClass names the filesystem %q, but the volume capability names %s", p.fsType, found).
			WithRemedy("name the same filesystem in the volume capability (fs_type)")
	}
	return nil
}

func sameFilesystem(a, b string) bool {
	return strings.EqualFold(strings.TrimSpace(a), strings.TrimSpace(b))
}
