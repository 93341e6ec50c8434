package cloud

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// service names one of the two APIs as the metrics and messages do.
type service string

const (
	blockStorage service = "cinder"
	compute      service = "nova"
)

// microversion is the version of an API's behavior, such as 3.42. The zero
// value asks for none, which means the oldest.
type microversion struct{ major, minor int }

func (m microversion) String() string { return fmt.Sprintf("%d.%d", m.major, m.minor) }

func (m microversion) isZero() bool { return m == microversion{} }

func (m microversion) below(o microversion) bool {
	return m.major < o.major || m.major == o.major && m.minor < o.minor
}

// parseMicroversion reads "3.70". An empty text is the zero value.
func parseMicroversion(text string) (microversion, error) {
	if text == "" {
		return microversion{}, nil
	}
	major, minor, ok := strings.Cut(text, ".")
	a, errMajor := strconv.Atoi(major)
	b, errMinor := strconv.Atoi(minor)
	if !ok || errMajor != nil || errMinor != nil || a < 0 || b < 0 {
		return microversion{}, fmt.Errorf("%q is not a microversion", text)
	}
	return microversion{a, b}, nil
}

// Feature is something that only clouds of a certain age can do.
type Feature uint8

// The features that callers ask for.
const (
	// FeatureOnlineExtend is growing a volume that is attached (Cinder 3.42, Pike).
	FeatureOnlineExtend Feature = iota
	// FeatureMultiattach is attaching a volume to several servers (Nova 2.60, Queens).
	FeatureMultiattach
	// FeatureMessages are the reasons of asynchronous failures (Cinder 3.3, Ocata).
	FeatureMessages
	// FeatureBackupSource is making a volume from a backup (Cinder 3.47, Queens).
	FeatureBackupSource
	// FeatureSnapshotInUse is a snapshot of an attached volume without force (Cinder
	// 3.66, Xena). Older clouds do the same when they are told to force it.
	FeatureSnapshotInUse
	// FeatureExternalEvents is telling Nova that a volume has grown (Nova 2.51, Pike).
	FeatureExternalEvents
)

// need is what a feature takes.
type need struct {
	what    string
	service service
	version microversion // the first that has it
	remedy  string
}

func (f Feature) need() need {
	switch f {
	case FeatureOnlineExtend:
		return need{
			"growing a volume that is in use", blockStorage,
			microversion{3, 42},
			"detach the volume (scale the workload to zero) and expand it offline, or have the cloud upgraded",
		}
	case FeatureMultiattach:
		return need{"attaching a volume to several servers", compute, microversion{2, 60}, "use a volume on one node only, or have the cloud upgraded"}
	case FeatureMessages:
		return need{"reading why an operation failed", blockStorage, microversion{3, 3}, ""}
	case FeatureBackupSource:
		return need{"making a volume from a backup", blockStorage, microversion{3, 47}, "use snapshots, or have the cloud upgraded"}
	case FeatureSnapshotInUse:
		return need{"taking a snapshot of a volume in use without force", blockStorage, microversion{3, 66}, ""}
	case FeatureExternalEvents:
		return need{"telling Nova that a volume has grown", compute, microversion{2, 51}, ""}
	}
	return need{what: fmt.Sprintf("feature %d", uint8(f)), service: blockStorage, version: microversion{major: 99}}
}

// String says what the feature is, for messages.
func (f Feature) String() string { return f.need().what }

// offer is what a service says it understands.
type offer struct {
	min, max microversion
	ignored  bool      // the configuration forbids microversions
	err      error     // why the versions are not known
	again    time.Time // when to ask again, if so
	asked    time.Time // when the service was asked; zero: never
}

// supports returns nil, or an error of kind Unsupported that names the needed
// and the offered version (Unavailable while the versions could not be read).
func (o offer) supports(n need) error {
	err := func() *volume.Error {
		switch {
		case o.ignored:
			return volume.Errorf(volume.KindUnsupported, "%s needs microversion %s of %s, and the configuration forbids microversions (ignore-volume-microversion in cloud.conf)",
				n.what, n.version, n.service).WithRemedy("remove ignore-volume-microversion from cloud.conf")
		case o.err != nil:
			return volume.Errorf(volume.KindOf(o.err), "%s needs microversion %s of %s, and the versions it offers are not known: %w", n.what, n.version, n.service, o.err)
		case o.max.isZero():
			return volume.Errorf(volume.KindUnsupported, "%s needs microversion %s of %s, which offers no microversions", n.what, n.version, n.service)
		case o.max.below(n.version) || n.version.below(o.min):
			return volume.Errorf(volume.KindUnsupported, "%s needs microversion %s of %s, which offers %s to %s", n.what, n.version, n.service, o.min, o.max)
		}
		return nil
	}()
	if err == nil {
		return nil
	}
	if err.Remedy == "" {
		err = err.WithRemedy(n.remedy)
	}
	return err
}
