package cloud

import (
	"fmt"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/utils"

	"github.com/growvol/growvol/pkg/volume"
)

// offer is what a service says that it understands. The zero value of the versions: the service
// has no microversions.
type offer struct {
	utils.SupportedMicroversions
	isForbidden bool      // the configuration forbids microversions
	err         error     // why the versions are not known
	retryAt     time.Time // when to ask again, if so
	askedAt     time.Time // when the service was asked; zero: never
}

// check returns nil if the offer has what n needs, or an error of kind Unsupported that names the
// needed and the offered version (of the kind of o.err if the versions could not be read).
func (o offer) check(n need) error {
	problem := fmt.Sprintf("%s needs microversion %s of %s", n.what, n.version, n.service)
	refusal := func(format string, args ...any) error {
		return volume.Errorf(volume.KindUnsupported, problem+format, args...).WithRemedy(n.remedy)
	}
	if o.err != nil {
		return volume.Errorf(volume.KindOf(o.err), "%s, but the versions it offers are not known: %w", problem, o.err).
			WithRemedy(n.remedy)
	}
	if o.isForbidden {
		n.remedy = "remove ignore-volume-microversion from cloud.conf"
		return refusal(", but the configuration forbids microversions (ignore-volume-microversion in cloud.conf)")
	}
	if o.SupportedMicroversions == (utils.SupportedMicroversions{}) {
		return refusal(", which offers no microversions")
	}
	if isOffered, err := o.IsSupported(n.version); err != nil || !isOffered {
		return refusal(", which offers %d.%d to %d.%d", o.MinMajor, o.MinMinor, o.MaxMajor, o.MaxMinor)
	}
	return nil
}
