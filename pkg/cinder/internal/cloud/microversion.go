package cloud

import (
	"fmt"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/utils"

	"github.com/growvol/growvol/pkg/volume"
)

// microversion is the version of an API's behavior, such as 3.42. The zero value asks for none, which
// means the oldest.
type microversion struct{ major, minor int }

func (m microversion) String() string { return fmt.Sprintf("%d.%d", m.major, m.minor) }

func (m microversion) isZero() bool { return m == microversion{} }

func (m microversion) isBelow(o microversion) bool {
	return m.major < o.major || m.major == o.major && m.minor < o.minor
}

// parseMicroversion reads a version such as "3.70"; "" is the zero value.
func parseMicroversion(text string) (microversion, error) {
	if text == "" {
		return microversion{}, nil
	}
	major, minor, err := utils.ParseMicroversion(text)
	if err != nil || major < 0 || minor < 0 {
		return microversion{}, fmt.Errorf("%q is not a microversion", text)
	}
	return microversion{major, minor}, nil
}

// offer is what a service says that it understands. Zero versions: it has no microversions.
type offer struct {
	min, max    microversion
	isForbidden bool      // the configuration forbids microversions
	err         error     // why the versions are not known
	retryAt     time.Time // when to ask again, if so
	askedAt     time.Time // when the service was asked; zero: never
}

// check returns nil if the offer has what n needs, or an error of kind Unsupported that names the
// needed and the offered version (of the kind of o.err if the versions could not be read).
func (o offer) check(n need) error {
	kind, remedy := volume.KindUnsupported, n.remedy
	needs := fmt.Sprintf("%s needs microversion %s of %s", n.what, n.version, n.service)
	switch {
	case o.isForbidden:
		return volume.Errorf(kind, "%s, but the configuration forbids microversions (ignore-volume-microversion in cloud.conf)", needs).
			WithRemedy("remove ignore-volume-microversion from cloud.conf")
	case o.err != nil:
		return volume.Errorf(volume.KindOf(o.err), "%s, but the versions it offers are not known: %w", needs, o.err).WithRemedy(remedy)
	case o.max.isZero():
		return volume.Errorf(kind, "%s, which offers no microversions", needs).WithRemedy(remedy)
	case o.max.isBelow(n.version), n.version.isBelow(o.min):
		return volume.Errorf(kind, "%s, which offers %s to %s", needs, o.min, o.max).WithRemedy(remedy)
	}
	return nil
}
