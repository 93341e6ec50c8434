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

// versionsPause is how long a service that did not tell its versions is not asked again, and how
// long what it told is believed although it refuses a version of it.
const versionsPause = 10 * time.Second

// versions is what one service says about its versions. The service is asked when a call needs to
// know.
type versions struct {
	request shared[offer]

	mu          sync.Mutex
	offer       offer
	forgottenAt time.Time // when forget last dropped an offer
}

// known returns what the service has told, or why it has not. It reports false if the service is
// to be asked.
func (v *versions) known() (offer, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	o := v.offer
	return o, !o.askedAt.IsZero() && (o.err == nil || time.Now().Before(o.retryAt))
}

func (v *versions) set(o offer) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.offer = o
}

// forget makes the next call that needs the versions ask for them: the service has refused one
// that it had told. The refusal of a request that was sent before the service was last asked says
// nothing about its last answer. And a service whose servers differ is not asked more often than
// once per versionsPause.
func (v *versions) forget(sent time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if sent.Before(v.offer.askedAt) || time.Since(v.forgottenAt) < versionsPause {
		return
	}
	v.offer, v.forgottenAt = offer{}, time.Now()
}

// checkOffer returns nil if the service of n offers what n needs; see offer.check for the errors.
// It asks that service for its versions unless it has told them. Callers share one request, and
// each waits for it as long as its own ctx lasts.
func (c *connection) checkOffer(ctx context.Context, n need) error {
	v := c.versions[n.service]
	o, known := v.known()
	if known {
		return o.check(n)
	}
	o, err := v.request.do(ctx, c.clouds, c.clouds.tuning.timeouts.versions, func(ctx context.Context) (offer, error) {
		o, known := v.known()
		if !known {
			o = c.askVersions(ctx, n.service)
			v.set(o)
		}
		return o, nil
	})
	if err != nil {
		o.err = volume.Errorf(volume.KindOf(err), "waiting for the API versions of %s: %w", n.service, err)
	}
	return o.check(n)
}

// askVersions asks a service for its versions. A failure is part of the offer, and holds until
// offer.retryAt.
func (c *connection) askVersions(ctx context.Context, s service) offer {
	began := time.Now()
	o := c.readVersions(ctx, s)
	o.askedAt = began
	if o.err != nil {
		o.err = asUnavailable(o.err, c.clouds.tuning.timeouts.versions)
		o.retryAt = time.Now().Add(versionsPause)
		c.clouds.log.WarnContext(ctx, "the API versions of a service are not known; what needs them does not work",
			"cloud", c.config.Name, "service", string(s), "error", o.err)
	}
	return o
}

// readVersions reads the version document of a service.
func (c *connection) readVersions(ctx context.Context, s service) offer {
	if s == blockStorage && c.ignoresMicroversions {
		return offer{isForbidden: true}
	}
	e := c.endpoints[s]
	if e.err != nil {
		return offer{err: e.err}
	}
	k := call{
		service: s, name: "versions_get", what: "reading the API versions of " + string(s),
		maxAttempts: 2, timeout: c.clouds.tuning.timeouts.versionsAttempt,
	}
	var document struct {
		Version  versionDocument   `json:"version"`
		Versions []versionDocument `json:"versions"`
	}
	address, major := splitVersion(e.url)
	// utils.GetSupportedMicroversions takes no endpoint that ends with a project, and no document
	// with several versions.
	err := newExchange(c.provider, k, address).run(ctx, func(client *serviceClient) error {
		return request(ctx, client, http.MethodGet, address, nil, &document, http.StatusOK, http.StatusMultipleChoices)
	})
	if err != nil {
		return offer{err: err}
	}
	for _, v := range append(document.Versions, document.Version) {
		last := cmp.Or(v.Version, v.MaxVersion)
		if v.ID == "" || major != "" && strings.SplitN(v.ID, ".", 2)[0] != strings.SplitN(major, ".", 2)[0] ||
			last == "" { // Nova shows 2.0, which has no microversions, beside 2.1
			continue
		}
		var o offer
		var errMin, errMax error
		o.MinMajor, o.MinMinor, errMin = utils.ParseMicroversion(cmp.Or(v.Min, "0.0"))
		o.MaxMajor, o.MaxMinor, errMax = utils.ParseMicroversion(last)
		if errMin != nil || errMax != nil || min(o.MinMajor, o.MaxMajor) < 0 {
			return offer{err: volume.Errorf(volume.KindUnavailable, "%s: %q to %q are not microversions", k.what, v.Min, last)}
		}
		return o
	}
	return offer{}
}

// versionDocument is what a service says about one major version.
type versionDocument struct {
	ID         string `json:"id"` // "v3.0"
	Version    string `json:"version"`
	MaxVersion string `json:"max_version"`
	Min        string `json:"min_version"`
}

// splitVersion cuts an endpoint behind its version (".../v3/<project>" becomes ".../v3/"), where
// the version document is, and returns that version. An endpoint without one stays as it is.
func splitVersion(endpoint string) (address, major string) {
	pattern := regexp.MustCompile(`^(\w+://[^/]+/(?:.*/)?(v\d+(?:\.\d+)?))(?:/.*)?$`)
	if found := pattern.FindStringSubmatch(endpoint); found != nil {
		return found[1] + "/", found[2]
	}
	return endpoint, ""
}
