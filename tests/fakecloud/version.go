package fakecloud

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// microversion is a version of the API of Cinder or Nova, such as 3.42.
type microversion struct{ major, minor int }

func parseVersion(s string) (microversion, error) {
	major, minor, ok := strings.Cut(s, ".")
	a, err1 := strconv.Atoi(major)
	b, err2 := strconv.Atoi(minor)
	if !ok || err1 != nil || err2 != nil {
		const format = "API Version String %s is of invalid format. Must be of format MajorNum.MinorNum."
		return microversion{}, fmt.Errorf(format, s) //nolint:staticcheck // text of the services
	}
	return microversion{a, b}, nil
}

func (v microversion) String() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }

func (v microversion) isBelow(o microversion) bool {
	return v.major < o.major || (v.major == o.major && v.minor < o.minor)
}

// isAtLeast reports whether v has this minor version or a later one.
func (v microversion) isAtLeast(minor int) bool { return v.minor >= minor }

// versionRange has the versions that a service offers.
type versionRange struct{ lowest, highest microversion }

func parseVersionRange(lowest, highest string) (versionRange, error) {
	l, err := parseVersion(lowest)
	if err != nil {
		return versionRange{}, err
	}
	h, err := parseVersion(highest)
	if err != nil {
		return versionRange{}, err
	}
	return versionRange{l, h}, nil
}

// negotiate returns the version of a request. The client sends the header "OpenStack-API-Version:
// volume 3.42"; Nova also accepts "X-OpenStack-Nova-API-Version: 2.60". Without a header the
// version is the lowest.
func (vr versionRange) negotiate(header http.Header, service string) (microversion, *reply) {
	asked := ""
	for line := range strings.SplitSeq(strings.Join(header.Values("OpenStack-API-Version"), ","), ",") {
		if of, version, ok := strings.Cut(strings.TrimSpace(line), " "); ok && of == service {
			asked = strings.TrimSpace(version)
		}
	}
	if asked == "" && service == "compute" {
		asked = header.Get("X-OpenStack-Nova-API-Version")
	}
	switch asked {
	case "":
		return vr.lowest, nil
	case "latest":
		return vr.highest, nil
	}
	v, err := parseVersion(asked)
	if err != nil {
		return microversion{}, apiError(http.StatusBadRequest, err.Error())
	}
	if v.isBelow(vr.lowest) || vr.highest.isBelow(v) {
		return v, apiErrorf(http.StatusNotAcceptable,
			"Version %s is not supported by the API. Minimum is %s and maximum is %s.", v, vr.lowest, vr.highest)
	}
	return v, nil
}
