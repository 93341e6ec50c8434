package class

import (
	"strconv"

	"github.com/growvol/growvol/pkg/volume"
)

// This file holds the parameters that only ceph-csi has (ceph-csi,
// examples/rbd/storageclass.yaml). A StorageClass cannot be changed: one of ceph-csi must work as
// it is unless its volumes would then lack what it promises.

// paramOtherMounters is the parameter that lets ceph-csi try rbd-nbd when the kernel cannot map an
// image. Both of its values are accepted: the features that this driver gives to images can be
// mapped.
const paramOtherMounters = "tryOtherMounters"

// parseCephCSI parses a parameter that only ceph-csi has. Those of rbd-nbd do not concern volumes
// that the kernel maps. unmapOptions has force: this driver never unmaps a device in use.
func (p *storageParser) parseCephCSI(key, value string) error {
	switch key {
	case paramOtherMounters:
		if _, err := strconv.ParseBool(value); err != nil {
			return valueError(key, value, "true or false")
		}
	case "unmapOptions", "cephLogDir", "cephLogStrategy":
	case "encryptionKMSID", "encryptionType", "encryptionCipher", "encryptionKeySize", "encryptionSectorSize",
		"integrityMode":
		p.class.cephCSIEncryption = key
	default:
		return unknownError(key)
	}
	return nil
}

// CheckEncryption returns an error if encrypted volumes of the class would be encrypted by ceph-csi
// in another way than by this driver. Without encryption, ceph-csi does not use its parameters.
func (s Storage) CheckEncryption(isEncrypted bool) error {
	if !isEncrypted || s.cephCSIEncryption == "" {
		return nil
	}
	return volume.Errorf(volume.KindInvalid,
		"the StorageClass has the parameter %s for ceph-csi's encryption, but this driver encrypts volumes by LUKS2 with a "+
			"passphrase from a Secret", s.cephCSIEncryption).
		WithRemedy("create a StorageClass without the parameter " + s.cephCSIEncryption +
			", and name the Secret in it: csi.storage.k8s.io/node-stage-secret-name")
}
