package cloud

import (
	"context"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// askAgain is how long a service that did not tell its versions is left alone.
const askAgain = 10 * time.Second

// supports tells whether the service of n offers what it takes.
func (c *connection) supports(n need) error {
	c.mu.Lock()
	o, asked := c.offers[n.service]
	c.mu.Unlock()
	if !asked {
		o.err = volume.Errorf(volume.Unavailable, "it has not been asked yet")
	}
	return o.supports(n)
}

// look asks the services for their versions, unless they have told. A service
// that does not answer keeps nothing from working but what needs versions.
func (c *connection) look(ctx context.Context) {
	for _, s := range []service{blockStorage, compute} {
		c.mu.Lock()
		o, asked := c.offers[s]
		due := !asked || o.err != nil && time.Now().After(o.again)
		c.mu.Unlock()
		if !due {
			continue
		}
		o = c.ask(ctx, s)
		if o.err != nil {
			if ctx.Err() == nil {
				o.again = time.Now().Add(askAgain)
			}
			c.log.WarnContext(ctx, "the API versions of a service are not known; what needs them does not work", "cloud", c.config.Name, "service", string(s), "error", o.err)
		}
		c.mu.Lock()
		c.offers[s] = o
		c.mu.Unlock()
	}
}

// forget makes the next call ask a service for its versions again.
func (c *connection) forget(s service) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.offers, s)
}

// ask reads the version document of a service.
func (c *connection) ask(ctx context.Context, s service) offer {
	if s == blockStorage && c.ignoreVersions {
		return offer{ignored: true}
	}
	e := c.endpoints[s]
	if e.err != nil {
		return offer{err: e.err}
	}
	address, major := versioned(e.url)
	var document struct {
		Version  versionDocument   `json:"version"`
		Versions []versionDocument `json:"versions"`
	}
	k := call{service: s, name: "versions_get", what: "reading the API versions of " + string(s), method: "GET", into: &document, ok: []int{200, 300}}
	if err := c.request(ctx, k, address, microversion{}); err != nil {
		return offer{err: err}
	}
	for _, v := range append(document.Versions, document.Version) {
		if v.ID == "" || major != "" && strings.SplitN(v.ID, ".", 2)[0] != strings.SplitN(major, ".", 2)[0] {
			continue
		}
		lowest, errMin := parseMicroversion(v.Min)
		highest, errMax := parseMicroversion(v.max())
		if errMin != nil || errMax != nil {
			return offer{err: volume.Errorf(volume.Unavailable, "%s: versions %q to %q make no sense", k.what, v.Min, v.max())}
		}
		// Nova shows 2.0, which has no microversions, beside 2.1.
		if !highest.isZero() {
			return offer{min: lowest, max: highest}
		}
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

func (v versionDocument) max() string {
	if v.Version != "" {
		return v.Version
	}
	return v.MaxVersion
}

// versioned cuts an endpoint behind its version (".../v3/<project>" becomes
// ".../v3/"), where the version document is, and returns that version. An
// endpoint without one is left as it is.
func versioned(endpoint string) (address, major string) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return endpoint, ""
	}
	isVersion := regexp.MustCompile(`^v\d+(\.\d+)?$`)
	parts := strings.Split(strings.Trim(u.Path, "/"), "/")
	for i := len(parts) - 1; i >= 0; i-- {
		if isVersion.MatchString(parts[i]) {
			u.Path = "/" + strings.Join(parts[:i+1], "/") + "/"
			return u.String(), parts[i]
		}
	}
	return endpoint, ""
}
