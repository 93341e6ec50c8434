package class

import (
	"strconv"
	"strings"

	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
)

// Parameters of a VolumeSnapshotClass besides ParamType, ParamZone (of a backup), ParamMetadata and
// ParamCloud (ignored).
const (
	// ParamForce says whether snapshots of volumes in use are allowed. The default is "true", as in
	// Cinder from microversion 3.66 on.
	ParamForce = "force-create"
	// ParamBackupTime bounds how long cinder-csi-plugin waits for a backup. This driver ignores it,
	// because it does not wait for backups.
	ParamBackupTime = "backup-max-duration-seconds-per-gb"
	// ParamIncremental says whether a backup contains only the changes since the last backup of the
	// volume. The default is "false".
	ParamIncremental = "incremental"
)

// Values of ParamType in a VolumeSnapshotClass.
const (
	TypeSnapshot = "snapshot"
	TypeBackup   = "backup"
)

// Snapshot has the parsed parameters of a VolumeSnapshotClass.
type Snapshot struct {
	IsBackup    bool
	Force       bool
	Incremental bool
	Zone        string
	Metadata    map[string]string // ParamMetadata and the driver's metadata
}

// ParseSnapshot parses the parameters of a VolumeSnapshotClass for a snapshot of the cluster.
func ParseSnapshot(parameters map[string]string, clusterID string) (Snapshot, error) {
	class := Snapshot{Force: true}
	for key, value := range parameters {
		var err error
		switch key {
		case ParamType:
			class.IsBackup = value == TypeBackup
			if value != TypeSnapshot && value != TypeBackup {
				err = valueError(key, value, TypeSnapshot+" or "+TypeBackup)
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
				err = valueError(key, value, "a number of seconds")
			}
		case ParamCloud: // ignored: a snapshot is in the cloud of its volume
		default:
			if !strings.HasPrefix(key, metadata.SidecarPrefix) {
				err = unknownError("VolumeSnapshotClass", key,
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
		return false, valueError(key, value, "true or false")
	}
	return set, nil
}
