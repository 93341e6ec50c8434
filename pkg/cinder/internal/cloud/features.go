package cloud

import (
	"fmt"
	"iter"
)

// Feature is an ability that clouds have only from a certain release on. This file is the only one
// that knows microversions: what the calls of this package need, and what they prefer.
type Feature uint8

// The features. Callers ask for the exported ones; the others are needed by one call each.
const (
	// FeatureOnlineExtend is extending a volume that is attached (Cinder 3.42, Pike).
	FeatureOnlineExtend Feature = iota
	// FeatureMultiattach is attaching a volume to several servers (Nova 2.60, Queens).
	FeatureMultiattach
	// FeatureMessages is reading the reasons of asynchronous failures (Cinder 3.3, Newton).
	FeatureMessages
	// FeatureBackupSource is creating a volume from a backup (Cinder 3.47, Queens).
	FeatureBackupSource
	// FeatureExternalEvents is notifying Nova that a volume was extended (Nova 2.51, Pike).
	FeatureExternalEvents
	featureAttachments    // Cinder's attachment API (Ocata)
	featureBackupZone     // Rocky
	featureBackupMetadata // Pike

	featureCount
)

// The microversions of Cinder that calls request if the cloud has them. Without them these calls
// have another way.
const (
	messageFiltersVersion = "3.5"  // older versions list the messages of the whole project
	backupMetadataVersion = "3.43" // the first with the metadata of a backup
	snapshotInUseVersion  = "3.66" // takes snapshots of volumes in use without a flag
)

// need is the microversion of a service that a feature or a call needs.
type need struct {
	what    string // for messages and the metric: "extending a volume that is in use"
	service service
	version string // the lowest microversion that suffices, such as "3.42"
	remedy  string
}

func (f Feature) need() need {
	switch f {
	case FeatureOnlineExtend:
		return need{
			"extending a volume that is in use", blockStorage, "3.42",
			"detach the volume (scale the workload to zero) and expand it offline, or have the cloud upgraded",
		}
	case FeatureMultiattach:
		return need{
			"attaching a volume to several servers", compute, "2.60",
			"use a volume on one node only, or have the cloud upgraded",
		}
	case FeatureMessages:
		return need{"reading why an operation failed", blockStorage, "3.3", ""}
	case FeatureBackupSource:
		return need{
			"creating a volume from a backup", blockStorage, "3.47",
			"use snapshots, or have the cloud upgraded",
		}
	case FeatureExternalEvents:
		return need{"notifying Nova that a volume was extended", compute, "2.51", ""}
	case featureAttachments:
		return need{
			"reading or deleting attachments in Cinder", blockStorage, "3.27",
			"ask a cloud administrator to check the attachments of the volume",
		}
	case featureBackupZone:
		return need{
			"choosing the availability zone of a backup", blockStorage, "3.51",
			"remove the parameter availability from the VolumeSnapshotClass",
		}
	case featureBackupMetadata:
		return need{"setting metadata of a backup", blockStorage, backupMetadataVersion, ""}
	case featureCount: // is none
	}
	return need{what: fmt.Sprintf("feature %d", uint8(f)), service: blockStorage, version: "99.0"}
}

// needsOf returns what the features need of a service, in their order.
func needsOf(s service) iter.Seq[need] {
	return func(yield func(need) bool) {
		for f := range featureCount {
			if n := f.need(); n.service == s && !yield(n) {
				return
			}
		}
	}
}

// String describes the feature, for messages.
func (f Feature) String() string { return f.need().what }
