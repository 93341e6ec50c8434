package class

import (
	"strconv"
	"strings"

	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/volume"
)

// Parameters of a VolumeSnapshotClass besides ParamType, ParamZone (of a backup) and
// ParamMetadata.
const (
	// ParamForce set to "false" refuses snapshots of volumes in use. The default is "true",
	// as in Cinder from microversion 3.66 on.
	ParamForce = "force-create"
	// ParamBackupTime bounds how long cinder-csi-plugin waits for a backup. This driver accepts
	// it without effect, because it does not wait for backups.
	ParamBackupTime = "backup-max-duration-seconds-per-gb"
	// ParamIncremental makes backups contain only what has changed since the last backup of the
	// volume.
	ParamIncremental = "incremental"
)

// Values of ParamType in a VolumeSnapshotClass.
const (
	TypeSnapshot = "snapshot"
	TypeBackup   = "backup"
)

// Snapshot is what a VolumeSnapshotClass asks for.
type Snapshot struct {
	IsBackup    bool
	Force       bool
	Incremental bool
	Zone        string
	Metadata    map[string]string // with those of the driver
}

// ParseSnapshot reads the parameters of a VolumeSnapshotClass for a snapshot of the cluster.
// Kind Invalid: a parameter is not known, or has an impossible value.
func ParseSnapshot(parameters map[string]string, clusterID string) (Snapshot, error) {
	class := Snapshot{Force: true}
	for key, value := range parameters {
		var err error
		switch key {
		case ParamType:
			class.IsBackup = value == TypeBackup
			if value != TypeSnapshot && value != TypeBackup {
				err = impossible(key, value, TypeSnapshot+" or "+TypeBackup)
			}
		case ParamForce:
			class.Force, err = parseBool(key, value)
		case ParamIncremental:
			class.Incremental, err = parseBool(key, value)
		case ParamZone:
			class.Zone = value
		case ParamMetadata:
			class.Metadata, err = parseMetadata(value)
		case ParamBackupTime:
			if _, errNumber := strconv.ParseUint(value, 10, 32); errNumber != nil {
				err = impossible(key, value, "a number of seconds")
			}
		case ParamCloud: // without effect: a snapshot is in the cloud of its volume
		default:
			if !strings.HasPrefix(key, metadata.SidecarPrefix) {
				err = unknown("VolumeSnapshotClass", key,
					ParamType, ParamForce, ParamZone, ParamIncremental, ParamMetadata, ParamBackupTime)
			}
		}
		if err != nil {
			return class, err
		}
	}
	// external-snapshotter passes these with --extra-create-metadata.
	const prefix = metadata.SidecarPrefix
	class.Metadata = metadata.Own(class.Metadata, clusterID, parameters,
		prefix+"volumesnapshot/name", prefix+"volumesnapshot/namespace", prefix+"volumesnapshotcontent/name")
	return class, nil
}

func parseBool(key, value string) (bool, error) {
	set, err := strconv.ParseBool(value)
	if err != nil {
		return false, impossible(key, value, "true or false")
	}
	return set, nil
}

// impossible is the error for a value that a parameter cannot have.
func impossible(key, value, possible string) error {
	return volume.Errorf(volume.KindInvalid,
		"%q is not a possible value of the parameter %s, which is %s", value, key, possible).
		WithRemedy("correct the VolumeSnapshotClass")
}
