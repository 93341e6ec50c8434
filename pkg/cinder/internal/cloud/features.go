package cloud

import "fmt"

// Feature is an ability that clouds have only from a certain release on.
type Feature uint8

// The features that callers ask for.
const (
	// FeatureOnlineExtend is extending a volume that is attached (Cinder 3.42, Pike).
	FeatureOnlineExtend Feature = iota
	// FeatureMultiattach is attaching a volume to several servers (Nova 2.60, Queens).
	FeatureMultiattach
	// FeatureMessages is reading the reasons of asynchronous failures (Cinder 3.3, Ocata).
	FeatureMessages
	// FeatureBackupSource is creating a volume from a backup (Cinder 3.47, Queens).
	FeatureBackupSource
	// FeatureExternalEvents is notifying Nova that a volume was extended (Nova 2.51, Pike).
	FeatureExternalEvents
)

// need is the microversion of a service that a feature or a call needs.
type need struct {
	what    string // for messages: "extending a volume that is in use"
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
	}
	return need{what: fmt.Sprintf("feature %d", uint8(f)), service: blockStorage, version: "99.0"}
}

// String describes the feature, for messages.
func (f Feature) String() string { return f.need().what }
