package fakecloud_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/config"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"github.com/growvol/growvol/tests/fakecloud"
)

func TestCloudsYAMLSignsIn(t *testing.T) {
	cloud := fakecloud.Start(t, fakecloud.Options{})
	path, err := cloud.WriteCloudsYAML(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"csi", "appcred", "admin"} {
		auth, _, tls, err := clouds.Parse(clouds.WithLocations(path), clouds.WithCloudName(name))
		if err != nil {
			t.Fatal(err)
		}
		p, err := config.NewProviderClient(t.Context(), auth, config.WithTLSConfig(tls))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c := newClient(t, cloud, p)
		if _, err := volumes.List(c.cinder, nil).AllPages(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTokenHasItsLifetime(t *testing.T) {
	c := connect(t, fakecloud.Options{TokenLifetime: time.Hour})
	result, ok := c.provider.GetAuthResult().(tokens.CreateResult)
	if !ok {
		t.Fatalf("got the result %T, want tokens.CreateResult", c.provider.GetAuthResult())
	}
	token, err := result.ExtractToken()
	if err != nil {
		t.Fatal(err)
	}
	if rest := time.Until(token.ExpiresAt); rest < 50*time.Minute || rest > time.Hour {
		t.Errorf("the token expires in %v, want about 1h", rest)
	}
}

func TestRevokedAndExpiredTokensAreRefused(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	list := func() error { _, err := volumes.List(c.cinder, nil).AllPages(t.Context()); return err }
	c.cloud.RevokeTokens()
	if err := list(); err != nil || c.cloud.Count(fakecloud.CreateToken) != 2 {
		t.Errorf("after the revocation: got %v and %d tokens, want no error and 2", err, c.cloud.Count(fakecloud.CreateToken))
	}
	c.cloud.SetTokenLifetime(time.Nanosecond)
	c.cloud.RevokeTokens()
	if err := list(); err == nil {
		t.Error("a token that expires at once was accepted")
	}
	_, err := openstack.AuthenticatedClient(t.Context(), gophercloud.AuthOptions{
		IdentityEndpoint: c.cloud.URL() + "/identity/v3", Username: "csi", Password: "wrong", DomainName: "Default",
		TenantName: "csi",
	})
	c.wantStatus(err, http.StatusUnauthorized)
}
