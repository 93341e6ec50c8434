package controller

import (
	"maps"
	"strconv"
	"strings"

	"github.com/growvol/growvol/pkg/volume"
)

// The values of the parameter volume.EncryptedKey.
const (
	isTrue  = "true"
	isFalse = "false"
)

// fsTypeKey is the StorageClass parameter with the filesystem, in any case of its
// letters, from before external-provisioner had one with its own prefix. The
// provisioner puts it into the volume capability, and hands it on.
const fsTypeKey = "fstype"

// deprecatedSecretKeys returns the parameters of StorageClasses and
// VolumeSnapshotClasses that name secrets and have no prefix. The sidecars read
// them, or did so in former versions, and hand them on.
func deprecatedSecretKeys() []string {
	return []string{
		"csiProvisionerSecretName", "csiProvisionerSecretNamespace",
		"csiControllerPublishSecretName", "csiControllerPublishSecretNamespace",
		"csiNodeStageSecretName", "csiNodeStageSecretNamespace",
		"csiNodePublishSecretName", "csiNodePublishSecretNamespace",
		"csiSnapshotterSecretName", "csiSnapshotterSecretNamespace",
	}
}

// classParameters are the parameters of a class, sorted by who reads them.
type classParameters struct {
	backend   map[string]string // what the backend reads
	fsType    string            // the filesystem that the class names without a prefix; empty: none
	encrypted bool
}

// parseClass separates the StorageClass parameters that are the same for all
// backends from those that the backend reads. Kind Invalid: one has an
// impossible value, or two contradict each other.
func parseClass(class map[string]string) (classParameters, error) {
	p := classParameters{backend: withoutSecretKeys(class)}
	for key, value := range p.backend {
		switch {
		case key == volume.EncryptedKey:
			if value != isTrue && value != isFalse {
				return p, volume.Errorf(volume.KindInvalid, "the parameter %s of the StorageClass is %q, which is neither %q nor %q",
					volume.EncryptedKey, value, isTrue, isFalse).
					WithRemedy("correct the StorageClass: " + volume.EncryptedKey + ": \"" + isTrue + "\"")
			}
			p.encrypted = value == isTrue
		case !strings.EqualFold(key, fsTypeKey):
			continue
		case value == "":
		case p.fsType != "" && !sameFilesystem(p.fsType, value):
			return p, volume.Errorf(volume.KindInvalid, "the StorageClass names the filesystems %q and %q", min(p.fsType, value), max(p.fsType, value)).
				WithRemedy("keep one of them, with the key csi.storage.k8s.io/fstype")
		default:
			p.fsType = value
		}
		delete(p.backend, key)
	}
	return p, nil
}

// withoutSecretKeys returns a copy of the parameters of a class without those that
// name secrets for the sidecars.
func withoutSecretKeys(class map[string]string) map[string]string {
	rest := maps.Clone(class)
	for _, key := range deprecatedSecretKeys() {
		delete(rest, key)
	}
	return rest
}

// checkFSType refuses a request whose capabilities do not have the filesystem that
// the class names: the node goes by the capability. external-provisioner makes them
// the same.
func (p classParameters) checkFSType(accesses []volume.Access) error {
	for _, a := range accesses {
		if p.fsType == "" || a.Block || sameFilesystem(a.FSType, p.fsType) {
			continue
		}
		has := "none"
		if a.FSType != "" {
			has = strconv.Quote(a.FSType)
		}
		return volume.Errorf(volume.KindInvalid, "the StorageClass names the filesystem %q, and the volume capability %s", p.fsType, has).
			WithRemedy("name the filesystem in the volume capability (fs_type)")
	}
	return nil
}

func sameFilesystem(x, y string) bool {
	return strings.EqualFold(strings.TrimSpace(x), strings.TrimSpace(y))
}
