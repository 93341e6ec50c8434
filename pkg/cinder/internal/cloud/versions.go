package cloud

import (
	"context"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// askAgain is how long a service that did not tell its versions is left alone,
// and how long it is believed although it refuses a version that it has told.
const askAgain = 10 * time.Second

// versions is what one service says about its versions. It is asked when a call
// needs to know.
type versions struct {
	turn chan struct{} // held while the service is asked

	mu        sync.Mutex
	offer     offer
	forgotten time.Time // when forget last dropped an offer
}

func newVersions() *versions { return &versions{turn: make(chan struct{}, 1)} }

// known returns what the service has told, or why it has not. It reports false
// if the service is to be asked.
func (v *versions) known() (offer, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	o := v.offer
	return o, !o.asked.IsZero() && (o.err == nil || time.Now().Before(o.again))
}

func (v *versions) set(o offer) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.offer = o
}

// forget makes the next call that needs the versions ask for them: the service
// has refused one that it had told. A refusal of a request that was sent before
// the service was last asked says nothing about its last answer. And a service
// whose servers differ is not asked more often than every askAgain.
func (v *versions) forget(sent time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if sent.Before(v.offer.asked) || time.Since(v.forgotten) < askAgain {
		return
	}
	v.offer, v.forgotten = offer{}, time.Now()
}

// supports returns nil if the service of n offers what n needs, as
// offer.supports does. It asks that service for its versions unless it has told
// them. Callers share one request, and each waits for it as long as its own ctx
// lasts.
func (c *connection) supports(ctx context.Context, n need) error {
	v := c.versions[n.service]
	o, known := v.known()
	if known {
		return o.supports(n)
	}
	o, err := share(ctx, c.owner, v.turn, c.owner.tune.limits.versions, func(ctx context.Context) (offer, error) {
		if o, known := v.known(); known {
			return o, nil
		}
		o := c.ask(ctx, n.service)
		v.set(o)
		return o, nil
	})
	if err != nil {
		o.err = volume.Errorf(volume.KindOf(err), "waiting for the API versions of %s: %w", n.service, err)
	}
	return o.supports(n)
}

// ask asks a service for its versions. A failure is part of the offer, and
// holds until offer.again.
func (c *connection) ask(ctx context.Context, s service) offer {
	began := time.Now()
	o := c.readVersions(ctx, s)
	o.asked = began
	if o.err != nil {
		o.err = beyondLimit(o.err, c.owner.tune.limits.versions)
		o.again = time.Now().Add(askAgain)
		c.owner.log.WarnContext(ctx, "the API versions of a service are not known; what needs them does not work", "cloud", c.config.Name, "service", string(s), "error", o.err)
	}
	return o
}

// readVersions reads the version document of a service.
func (c *connection) readVersions(ctx context.Context, s service) offer {
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
	k := call{
		service: s, name: "versions_get", what: "reading the API versions of " + string(s), method: "GET", into: &document, ok: []int{200, 300},
		attempts: 2, timeout: c.owner.tune.limits.versionsAttempt,
	}
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
			return offer{err: volume.Errorf(volume.KindUnavailable, "%s: versions %q to %q make no sense", k.what, v.Min, v.max())}
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
