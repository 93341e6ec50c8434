package cloud

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"github.com/growvol/growvol/pkg/cinder/internal/config"
	"github.com/growvol/growvol/pkg/cinder/internal/transport"
	"github.com/growvol/growvol/pkg/volume"
)

const identity service = "keystone"

// connection is one login: a token with what came with it. It never changes,
// but for what the services say about their versions and the token; another token
// is another connection.
type connection struct {
	owner          *Clouds
	config         config.Cloud
	trust          transport.TLS
	pool           *http.Transport
	ignoreVersions bool

	provider  *gophercloud.ProviderClient
	project   string    // id; empty if the token has none
	renewAt   time.Time // when to log in anew; zero: not known
	endsAt    time.Time // when the token ends; zero: not known
	endpoints map[service]endpoint
	versions  map[service]*versions
	refused   atomic.Pointer[time.Time] // when a service refused the token right after the login; nil: never
}

// endpoint is where a service is, or why that is not known.
type endpoint struct {
	url string // ends with a slash
	err error
}

// open logs in over rt.
func (c *connection) open(ctx context.Context, rt http.RoundTripper, userAgent string) error {
	k := call{service: identity, name: "token_create", what: fmt.Sprintf("logging in to cloud %q", c.config.Name), method: "POST", path: "v3/auth/tokens"}
	provider, err := openstack.NewClient(c.config.AuthURL)
	if err != nil {
		return volume.Errorf(volume.KindUnavailable, "%s: %s: auth-url (auth_url) is not an address", k.what, c.config.Origin)
	}
	provider.HTTPClient = http.Client{
		Transport: rt,
		// A redirect would carry the token to wherever it points.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if userAgent != "" {
		provider.UserAgent.Prepend(userAgent)
	}
	authCtx := transport.WithCall(ctx, &transport.Call{
		Service: string(identity), Name: k.name, Repeatable: true, Timeout: c.owner.tune.limits.loginAttempt,
	})
	if err := openstack.AuthenticateV3(authCtx, provider, authOptions(c.config), gophercloud.EndpointOpts{}); err != nil {
		var refused gophercloud.ErrUnexpectedResponseCode
		if errors.As(err, &refused) {
			return within(c.config.Origin, refusal(k, refused, false))
		}
		return failure(ctx, k, err)
	}
	c.provider = provider
	result, ok := provider.GetAuthResult().(interface {
		ExtractToken() (*tokens.Token, error)
		ExtractServiceCatalog() (*tokens.ServiceCatalog, error)
		ExtractProject() (*tokens.Project, error)
	})
	if !ok {
		return volume.Errorf(volume.KindInternal, "%s: the login has no result", k.what)
	}
	token, err := result.ExtractToken()
	if err != nil {
		return failure(ctx, k, err)
	}
	catalog, err := result.ExtractServiceCatalog()
	if err != nil {
		return failure(ctx, k, err)
	}
	if project, err := result.ExtractProject(); err == nil && project != nil {
		c.project = project.ID
	}
	// With a clock that runs wrong a token may seem to have ended already; then
	// a 401 has to tell. Very short tokens must not be renewed at each call.
	if left := time.Until(token.ExpiresAt); left > 0 {
		c.renewAt, c.endsAt = token.ExpiresAt.Add(-min(early, left/10)), token.ExpiresAt
	}
	if err := c.checkRegions(catalog); err != nil {
		return err
	}
	c.endpoints = map[service]endpoint{
		blockStorage: c.locate(catalog, c.config.BlockStorageURL, typesOf(blockStorage)...),
		compute:      c.locate(catalog, c.config.ComputeURL, typesOf(compute)...),
	}
	c.versions = map[service]*versions{blockStorage: newVersions(), compute: newVersions()}
	return nil
}

// authOptions turns a description into what gophercloud takes.
func authOptions(c config.Cloud) *gophercloud.AuthOptions {
	o := &gophercloud.AuthOptions{
		IdentityEndpoint: c.AuthURL, Username: c.Username, UserID: c.UserID, Password: c.Password,
		DomainID: c.UserDomainID, DomainName: c.UserDomainName, TokenID: c.Token,
		ApplicationCredentialID: c.AppCredentialID, ApplicationCredentialName: c.AppCredentialName, ApplicationCredentialSecret: c.AppCredentialSecret,
	}
	if o.ApplicationCredentialID != "" || o.ApplicationCredentialName != "" {
		// The project is part of the credential, and Keystone refuses another;
		// gophercloud takes a password or a token before the credential.
		o.Password, o.TokenID = "", ""
		return o
	}
	if o.TokenID != "" {
		o.Username, o.UserID, o.Password, o.DomainID, o.DomainName = "", "", "", "", ""
	}
	if o.UserID != "" {
		o.Username, o.DomainID, o.DomainName = "", "", "" // the id says it all
	}
	switch {
	case c.TrustID != "":
		o.Scope = &gophercloud.AuthScope{TrustID: c.TrustID}
	case c.ProjectID != "":
		o.Scope = &gophercloud.AuthScope{ProjectID: c.ProjectID}
	case c.ProjectName != "":
		o.Scope = &gophercloud.AuthScope{ProjectName: c.ProjectName, DomainID: c.ProjectDomainID, DomainName: c.ProjectDomainName}
	}
	return o
}

// locate finds a service in the catalog under the first of its type names.
func (c *connection) locate(catalog *tokens.ServiceCatalog, override string, types ...string) endpoint {
	if override != "" {
		project := strings.NewReplacer("%(project_id)s", c.project, "$(project_id)s", c.project, "%(tenant_id)s", c.project, "$(tenant_id)s", c.project)
		return endpoint{url: gophercloud.NormalizeURL(project.Replace(override))}
	}
	var others []string
	for _, name := range types {
		for _, entry := range catalog.Entries {
			if entry.Type != name {
				continue
			}
			for _, e := range entry.Endpoints {
				if e.Interface == c.config.Interface && (c.config.Region == "" || e.Region == c.config.Region || e.RegionID == c.config.Region) {
					return endpoint{url: gophercloud.NormalizeURL(e.URL)}
				}
				others = append(others, e.Interface+" in "+e.Region)
			}
		}
	}
	slices.Sort(others)
	has := "has none at all"
	if len(others) > 0 {
		has = "has " + strings.Join(slices.Compact(others), ", ")
	}
	region := ""
	if c.config.Region != "" {
		region = " in region " + c.config.Region
	}
	return endpoint{err: volume.Errorf(volume.KindUnavailable, "the catalog of cloud %q has no %s endpoint of %s%s; it %s", c.config.Name, c.config.Interface, types[0], region, has).
		WithRemedy("check region and endpoint type of " + c.config.Origin)}
}
