package cloud

import (
	"cmp"
	"context"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/utils"

	"github.com/growvol/growvol/pkg/volume"
)

// versionsPause is the least time between a failed request for the versions of a service and the
// next one, and between two calls of forget that discard the versions.
const versionsPause = 10 * time.Second

// versions caches the microversions of one service. The service is asked for them when a call
// first needs them.
type versions struct {
	request shared[versionRange]

	mu          sync.Mutex
	last        versionRange
	forgottenAt time.Time // when forget last discarded the versions
}

// cached returns the result of the last request for the versions, which can be an error. It
// reports false if the service must be asked: it was not asked yet, the versions were discarded,
// or the last request failed and its retryAt has passed.
func (v *versions) cached() (versionRange, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := v.last
	return r, !r.askedAt.IsZero() && (r.err == nil || time.Now().Before(r.retryAt))
}

func (v *versions) set(r versionRange) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last = r
}

// forget discards the versions after the service has refused one of them with 406; sent is when
// the refused request was sent. The next call that needs the versions then asks for them again.
// forget does nothing if the request was sent before the service was last asked, because the
// refusal may be older than the versions. It also does nothing within versionsPause of the last
// discard: the servers of a service can differ, and then each call would ask again.
func (v *versions) forget(sent time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if sent.Before(v.last.askedAt) || time.Since(v.forgottenAt) < versionsPause {
		return
	}
	v.last, v.forgottenAt = versionRange{}, time.Now()
}

// checkVersion returns nil if the service of n has the microversion that n needs; see
// versionRange.check for the errors, and offeredVersions for the request.
func (c *connection) checkVersion(ctx context.Context, n need) error {
	return c.offeredVersions(ctx, n.service).check(n)
}

// offeredVersions returns the versions of a service; the err of the result says why they are not
// known. It asks the service unless the versions are cached. Callers share one request, and each
// waits for it until its own ctx ends.
func (c *connection) offeredVersions(ctx context.Context, s service) versionRange {
	v := c.versions[s]
	if r, isCached := v.cached(); isCached {
		return r
	}
	ask := func(ctx context.Context) (versionRange, error) {
		r, isCached := v.cached()
		if !isCached {
			r = c.askVersions(ctx, s)
			v.set(r)
		}
		return r, nil
	}
	r, err := v.request.do(ctx, c.clouds, c.clouds.tuning.timeouts.versions, ask)
	if err != nil {
		r.err = volume.Errorf(volume.KindOf(err), "waiting for the API versions of %s: %w", s, err)
	}
	return r
}

// askVersions asks a service for its versions. A failure is in the err of the result, with the
// time of the next request in retryAt.
func (c *connection) askVersions(ctx context.Context, s service) versionRange {
	began := time.Now()
	r := c.readVersions(ctx, s)
	r.askedAt = began
	if r.err != nil {
		r.err = asUnavailable(r.err, c.clouds.tuning.timeouts.versions)
		r.retryAt = time.Now().Add(versionsPause)
		c.clouds.log.WarnContext(ctx, "cannot read the API versions of a service; "+
			"calls that need a microversion fail until it answers",
			"cloud", c.config.Name, "service", string(s), "error", r.err)
	}
	return r
}

// readVersions reads the version document of a service.
func (c *connection) readVersions(ctx context.Context, s service) versionRange {
	if s == blockStorage && c.ignoresMicroversions {
		return versionRange{isForbidden: true}
	}
	e := c.endpoints[s]
	if e.err != nil {
		return versionRange{err: e.err}
	}
	call := call{
		service: s, name: "versions_get", what: "reading the API versions of " + string(s),
		maxAttempts: 2, timeout: c.clouds.tuning.timeouts.versionsAttempt,
	}
	var document struct {
		Version  versionDocument   `json:"version"`
		Versions []versionDocument `json:"versions"`
	}
	address, major := splitVersion(e.url)
	// utils.GetSupportedMicroversions cannot be used: it fails for an endpoint that ends with a
	// project, and for a document with several versions.
	err := newExchange(c.provider, call, address).run(ctx, func(client *serviceClient) error {
		return request(ctx, client, http.MethodGet, address, nil, &document, http.StatusOK, http.StatusMultipleChoices)
	})
	if err != nil {
		return versionRange{err: err}
	}
	for _, v := range append(document.Versions, document.Version) {
		maxVersion := cmp.Or(v.Version, v.MaxVersion)
		if v.ID == "" || major != "" && strings.SplitN(v.ID, ".", 2)[0] != strings.SplitN(major, ".", 2)[0] ||
			maxVersion == "" { // Nova lists 2.0, which has no microversions, in addition to 2.1
			continue
		}
		var r versionRange
		var errMin, errMax error
		r.MinMajor, r.MinMinor, errMin = utils.ParseMicroversion(cmp.Or(v.Min, "0.0"))
		r.MaxMajor, r.MaxMinor, errMax = utils.ParseMicroversion(maxVersion)
		if errMin != nil || errMax != nil || min(r.MinMajor, r.MaxMajor) < 0 {
			return versionRange{err: volume.Errorf(volume.KindUnavailable,
				"%s: %q to %q are not microversions", call.what, v.Min, maxVersion)}
		}
		return r
	}
	return versionRange{}
}

// versionDocument is the part of a service's version document about one major version.
type versionDocument struct {
	ID         string `json:"id"` // "v3.0"
	Version    string `json:"version"`
	MaxVersion string `json:"max_version"`
	Min        string `json:"min_version"`
}

// splitVersion returns the address of the version document of an endpoint, and the endpoint's
// version: ".../v3/<project>" gives ".../v3/" and "v3". For an endpoint without a version it
// returns the endpoint and "".
func splitVersion(endpoint string) (address, major string) {
	pattern := regexp.MustCompile(`^(\w+://[^/]+/(?:.*/)?(v\d+(?:\.\d+)?))(?:/.*)?$`)
	if match := pattern.FindStringSubmatch(endpoint); match != nil {
		return match[1] + "/", match[2]
	}
	return endpoint, ""
}
