package cinder

import (
	"strconv"
	"strings"

	"github.com/growvol/growvol/pkg/volume"
)

// Parameters of a VolumeSnapshotClass, named as in cinder-csi-plugin, beside
// paramType ("snapshot" or "backup") and paramZone (of a backup).
const (
	// paramForce set to "false" refuses snapshots of volumes in use. Without it
	// they are taken, as Cinder itself has it from microversion 3.66 on.
	paramForce = "force-create"
	// paramBackupTime bounds how long cinder-csi-plugin waits for a backup. It
	// is accepted and means nothing: no call here waits for a backup.
	paramBackupTime = "backup-max-duration-seconds-per-gb"
	// paramIncremental makes backups hold only what has changed since the last
	// backup of the volume.
	paramIncremental = "incremental"
)

const (
	typeSnapshot = "snapshot"
	typeBackup   = "backup"
)

// metaBackupOf marks a snapshot that is there only for a backup to be made from
// it, and holds the backup's name.
const metaBackupOf = ownPrefix + "backup"

// sidecarSnapshotMetadata are the parameters of external-snapshotter
// (--extra-create-metadata) that are kept with the snapshot.
func sidecarSnapshotMetadata() []string {
	return []string{sidecarPrefix + "volumesnapshot/name", sidecarPrefix + "volumesnapshot/namespace", sidecarPrefix + "volumesnapshotcontent/name"}
}

// snapshotClass is what a VolumeSnapshotClass asks for.
type snapshotClass struct {
	backup      bool
	force       bool
	incremental bool
	zone        string
	metadata    map[string]string
}

// snapshotClass reads the parameters of a VolumeSnapshotClass. Kind Invalid:
// one is not known, or has an impossible value.
func (b *Backend) snapshotClass(parameters map[string]string) (snapshotClass, error) {
	class := snapshotClass{force: true}
	for key, value := range parameters {
		var err error
		switch key {
		case paramType:
			class.backup = value == typeBackup
			if value != typeSnapshot && value != typeBackup {
				err = impossible(key, value, typeSnapshot+" or "+typeBackup)
			}
		case paramForce:
			class.force, err = flag(key, value)
		case paramIncremental:
			class.incremental, err = flag(key, value)
		case paramZone:
			class.zone = value
		case paramMetadata:
			class.metadata, err = parseMetadata(value)
		case paramBackupTime:
			if _, errNumber := strconv.ParseUint(value, 10, 32); errNumber != nil {
				err = impossible(key, value, "a number of seconds")
			}
		case paramCloud: // the secret decides; the volume is where it is
		default:
			if !strings.HasPrefix(key, sidecarPrefix) {
				err = volume.Errorf(volume.KindInvalid, "unknown parameter %q of the VolumeSnapshotClass; known are %s", key,
					strings.Join([]string{paramType, paramForce, paramZone, paramIncremental, paramMetadata, paramBackupTime}, ", ")).
					WithRemedy("remove the parameter from the class")
			}
		}
		if err != nil {
			return class, err
		}
	}
	class.metadata = b.addOwnMetadata(class.metadata, parameters, sidecarSnapshotMetadata())
	return class, nil
}

func flag(key, value string) (bool, error) {
	set, err := strconv.ParseBool(value)
	if err != nil {
		return false, impossible(key, value, "true or false")
	}
	return set, nil
}

func impossible(key, value, possible string) error {
	return volume.Errorf(volume.KindInvalid, "%q is not a possible value of the parameter %s, which is %s", value, key, possible).
		WithRemedy("correct the VolumeSnapshotClass")
}
