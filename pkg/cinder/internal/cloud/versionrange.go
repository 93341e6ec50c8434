package cloud

import (
	"fmt"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/utils"

	"github.com/growvol/growvol/pkg/volume"
)

// versionRange is the range of microversions that a service offers. A zero SupportedMicroversions
// means that the service has no microversions.
type versionRange struct {
	utils.SupportedMicroversions
	isForbidden bool      // the configuration forbids microversions
	err         error     // why the versions could not be read; nil if they were
	retryAt     time.Time // if err is set: when to ask the service again
	askedAt     time.Time // when the service was asked; zero if it was not
}

// check returns nil if the range has the microversion that n needs. Else it returns an error of
// kind Unsupported that names the needed version and the range, or, if the versions could not be
// read, an error of the kind of r.err.
func (r versionRange) check(n need) error {
	problem := fmt.Sprintf("%s needs microversion %s of %s", n.what, n.version, n.service)
	refusal := func(format string, args ...any) error {
		return volume.Errorf(volume.KindUnsupported, problem+format, args...).WithRemedy(n.remedy)
	}
	if r.err != nil {
		return volume.Errorf(volume.KindOf(r.err), "%s, but the versions it offers are not known: %w", problem, r.err).
			WithRemedy(n.remedy)
	}
	if r.isForbidden {
		n.remedy = "remove ignore-volume-microversion from cloud.conf"
		return refusal(", but the configuration forbids microversions (ignore-volume-microversion in cloud.conf)")
	}
	if isOffered, err := r.IsSupported(n.version); err != nil || !isOffered {
		return refusal(", which offers %s", r)
	}
	return nil
}

// String returns the range for messages, such as "3.0 to 3.70".
func (r versionRange) String() string {
	switch {
	case r.err != nil:
		return "not known"
	case r.isForbidden:
		return "forbidden by ignore-volume-microversion"
	case r.SupportedMicroversions == (utils.SupportedMicroversions{}):
		return "no microversions"
	}
	lowest, highest := r.bounds()
	return lowest + " to " + highest
}

// bounds returns the lowest and the highest microversion that can be requested, such as "3.70";
// both are empty if there are none, or the configuration forbids them.
func (r versionRange) bounds() (lowest, highest string) {
	if r.SupportedMicroversions == (utils.SupportedMicroversions{}) {
		return "", ""
	}
	return fmt.Sprintf("%d.%d", r.MinMajor, r.MinMinor), fmt.Sprintf("%d.%d", r.MaxMajor, r.MaxMinor)
}
