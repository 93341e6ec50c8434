package fakecloud

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// microversion is a version of an API, "3.42".
type microversion struct{ major, minor int }

func parseVersion(s string) (microversion, error) {
	major, minor, ok := strings.Cut(s, ".")
	a, err1 := strconv.Atoi(major)
	b, err2 := strconv.Atoi(minor)
	if !ok || err1 != nil || err2 != nil {
		return microversion{}, fmt.Errorf("API Version String %s is of invalid format. Must be of format MajorNum.MinorNum.", s) //nolint:revive,staticcheck // the cloud's own text
	}
	return microversion{a, b}, nil
}

func (v microversion) String() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }

func (v microversion) less(o microversion) bool {
	return v.major < o.major || (v.major == o.major && v.minor < o.minor)
}

// since tells whether v is the minor version or a later one.
func (v microversion) since(minor int) bool { return v.minor >= minor }

// span is what a service offers.
type span struct{ lowest, highest microversion }

func newSpan(lowest, highest string) (span, error) {
	l, err := parseVersion(lowest)
	if err != nil {
		return span{}, err
	}
	h, err := parseVersion(highest)
	if err != nil {
		return span{}, err
	}
	return span{l, h}, nil
}

// negotiate chooses the version for a request: the header says
// "OpenStack-API-Version: volume 3.42", for Nova also
// "X-OpenStack-Nova-API-Version: 2.60". Without a header it is the lowest.
func (s span) negotiate(header http.Header, service string) (microversion, *reply) {
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
		return s.lowest, nil
	case "latest":
		return s.highest, nil
	}
	v, err := parseVersion(asked)
	if err != nil {
		return microversion{}, fault(http.StatusBadRequest, err.Error())
	}
	if v.less(s.lowest) || s.highest.less(v) {
		return v, fault(http.StatusNotAcceptable, fmt.Sprintf("Version %s is not supported by the API. Minimum is %s and maximum is %s.", v, s.lowest, s.highest))
	}
	return v, nil
}
