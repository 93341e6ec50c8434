package cloud

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"github.com/growvol/growvol/pkg/cinder/internal/config"
	"github.com/growvol/growvol/pkg/volume"
)

// connection is one login: a token with what came with it. It never changes, except for what the
// services say about their versions and the token; another token is another connection.
type connection struct {
	clouds               *Clouds
	config               config.Cloud
	pool                 *http.Transport
	ignoresMicroversions bool // the configuration forbids those of Cinder

	provider  *gophercloud.ProviderClient
	project   string    // id; empty if the token has none
	renewAt   time.Time // when to renew the token; zero: not known
	expiresAt time.Time // when the token ends; zero: not known
	endpoints map[service]endpoint
	versions  map[service]*versions
	refusedAt atomic.Pointer[time.Time] // when a service refused the token right after the login; nil: never
}

// open logs in over rt.
func (c *connection) open(ctx context.Context, rt http.RoundTripper, userAgent string) error {
	call := call{
		service: identity, name: "token_create", what: fmt.Sprintf("logging in to cloud %q", c.config.Name),
		isRepeatable: true, timeout: c.clouds.tuning.timeouts.loginAttempt,
	}
	provider, err := openstack.NewClient(c.config.AuthURL)
	if err != nil {
		return volume.Errorf(volume.KindUnavailable, "%s: %s: auth-url (auth_url) is not an address", call.what,
			c.config.Origin)
	}
	provider.HTTPClient = http.Client{
		Transport: rt,
		// A redirect would carry the token to wherever it points.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if userAgent != "" {
		provider.UserAgent.Prepend(userAgent)
	}
	e := newExchange(provider, call, provider.IdentityBase)
	err = openstack.AuthenticateV3(ctx, &e.provider, authOptions(c.config), gophercloud.EndpointOpts{})
	if err != nil {
		err = e.toError(ctx, err)
		if StatusCode(err) != 0 {
			return withContext(c.config.Origin, err)
		}
		return err
	}
	c.provider = &e.provider
	c.provider.HTTPClient.Transport = rt
	result, ok := c.provider.GetAuthResult().(interface { // tokens.CreateResult, or GetResult of a given token
		ExtractToken() (*tokens.Token, error)
		ExtractServiceCatalog() (*tokens.ServiceCatalog, error)
		ExtractProject() (*tokens.Project, error)
	})
	if !ok {
		return volume.Errorf(volume.KindInternal, "%s: the login has no result", call.what)
	}
	token, errToken := result.ExtractToken()
	catalog, errCatalog := result.ExtractServiceCatalog()
	if err := errors.Join(errToken, errCatalog); err != nil {
		return e.toError(ctx, err)
	}
	if project, err := result.ExtractProject(); err == nil && project != nil {
		c.project = project.ID
	}
	// With a wrong clock a token may seem to have ended already; then it is used until a 401. Very
	// short tokens must not be renewed at each call.
	if left := time.Until(token.ExpiresAt); left > 0 {
		c.renewAt, c.expiresAt = token.ExpiresAt.Add(-min(renewMargin, left/10)), token.ExpiresAt
	}
	if err := c.checkRegions(catalog); err != nil {
		return err
	}
	c.endpoints = map[service]endpoint{
		blockStorage: c.findEndpoint(catalog, blockStorage, c.config.BlockStorageURL),
		compute:      c.findEndpoint(catalog, compute, c.config.ComputeURL),
	}
	c.versions = map[service]*versions{blockStorage: {}, compute: {}}
	return nil
}

// authOptions returns the credentials of a cloud as gophercloud takes them.
func authOptions(c config.Cloud) *gophercloud.AuthOptions {
	o := &gophercloud.AuthOptions{
		IdentityEndpoint: c.AuthURL, Username: c.Username, UserID: c.UserID, Password: c.Password,
		DomainID: c.UserDomainID, DomainName: c.UserDomainName, TokenID: c.Token,
		ApplicationCredentialID: c.AppCredentialID, ApplicationCredentialName: c.AppCredentialName,
		ApplicationCredentialSecret: c.AppCredentialSecret,
	}
	if o.ApplicationCredentialID != "" || o.ApplicationCredentialName != "" {
		// The project is part of the credential, and Keystone refuses another; gophercloud takes a
		// password or a token before the credential.
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
		o.Scope = &gophercloud.AuthScope{
			ProjectName: c.ProjectName, DomainID: c.ProjectDomainID, DomainName: c.ProjectDomainName,
		}
	}
	return o
}
