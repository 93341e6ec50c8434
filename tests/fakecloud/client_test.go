package fakecloud_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/volumeattach"

	"github.com/growvol/growvol/tests/fakecloud"
)

// client is a cloud with clients of gophercloud, the library that Go programs use for OpenStack.
type client struct {
	*testing.T
	cloud    *fakecloud.Cloud
	provider *gophercloud.ProviderClient
	cinder   *gophercloud.ServiceClient
	nova     *gophercloud.ServiceClient
}

// connect starts a cloud and signs in as the user csi.
func connect(t *testing.T, o fakecloud.Options) client {
	t.Helper()
	cloud := fakecloud.Start(t, o)
	return login(t, cloud, "csi", fakecloud.Password)
}

// login signs in to the project with the name of the user.
func login(t *testing.T, cloud *fakecloud.Cloud, user, password string) client {
	t.Helper()
	p, err := openstack.AuthenticatedClient(t.Context(), gophercloud.AuthOptions{
		IdentityEndpoint: cloud.URL() + "/identity/v3", Username: user, Password: password, DomainName: "Default",
		TenantName: user, AllowReauth: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, cloud, p)
}

// newClient returns clients of Cinder 3.70 and Nova 2.93.
func newClient(t *testing.T, cloud *fakecloud.Cloud, p *gophercloud.ProviderClient) client {
	t.Helper()
	cinder, err := openstack.NewBlockStorageV3(p, gophercloud.EndpointOpts{Region: "RegionOne"})
	if err != nil {
		t.Fatal(err)
	}
	nova, err := openstack.NewComputeV2(p, gophercloud.EndpointOpts{Region: "RegionOne"})
	if err != nil {
		t.Fatal(err)
	}
	cinder.Microversion, nova.Microversion = "3.70", "2.93"
	return client{t, cloud, p, cinder, nova}
}

// create creates a volume and returns its ID.
func (c client) create(o volumes.CreateOpts) string {
	c.Helper()
	v, err := volumes.Create(c.Context(), c.cinder, o, nil).Extract()
	if err != nil {
		c.Fatal(err)
	}
	if v.Status != "creating" {
		c.Fatalf("a new volume: got the state %q, want creating", v.Status)
	}
	return v.ID
}

// awaitStatus waits until the volume has the state, and returns the volume.
func (c client) awaitStatus(id, status string) volumes.Volume {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), 5*time.Second)
	defer cancel()
	for {
		v, err := volumes.Get(ctx, c.cinder, id).Extract()
		if err != nil {
			c.Fatalf("wait until volume %s is %s: %v", id, status, err)
		}
		if v.Status == status {
			return *v
		}
		sleep(ctx, time.Millisecond)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// createAvailable creates an empty volume, waits until it is available and returns its ID.
func (c client) createAvailable(gib int) string {
	c.Helper()
	id := c.create(volumes.CreateOpts{Size: gib, Name: "v"})
	c.awaitStatus(id, "available")
	return id
}

// attach attaches a volume and waits until it is in use.
func (c client) attach(server, id string) {
	c.Helper()
	if _, err := volumeattach.Create(c.Context(), c.nova, server, volumeattach.CreateOpts{
		VolumeID: id,
	}).Extract(); err != nil {
		c.Fatal(err)
	}
	c.awaitStatus(id, "in-use")
}

// extend asks Cinder to extend a volume to a size in GiB, which Cinder must accept.
func (c client) extend(id string, gib int) {
	c.Helper()
	if err := c.tryExtend(id, gib); err != nil {
		c.Fatal(err)
	}
}

// wantStatus ends the test unless err is an answer with this status.
func (c client) wantStatus(err error, status int) {
	c.Helper()
	if !gophercloud.ResponseCodeIs(err, status) {
		c.Fatalf("got %v, want the status %d %s", err, status, http.StatusText(status))
	}
}

// await waits until done returns true.
func await(t *testing.T, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for !done() {
		if ctx.Err() != nil {
			t.Fatal("the condition does not hold after 5 s")
		}
		sleep(ctx, time.Millisecond)
	}
}

// userMessage is a user message of Cinder.
type userMessage struct {
	EventID     string `json:"event_id"`
	UserMessage string `json:"user_message"`
	RequestID   string `json:"request_id"`
}

// messages returns the user messages about the resource with this ID.
func (c client) messages(id string) []userMessage {
	c.Helper()
	var body struct{ Messages []userMessage }
	resp, err := c.cinder.Get(c.Context(), c.cinder.ServiceURL("messages")+"?resource_uuid="+id, &body, nil)
	if err != nil {
		c.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		c.Fatal(err)
	}
	return body.Messages
}

// tryExtend asks Cinder to extend a volume to a size in GiB.
func (c client) tryExtend(id string, gib int) error {
	return volumes.ExtendSize(c.Context(), c.cinder, id, volumes.ExtendSizeOpts{NewSize: gib}).ExtractErr()
}

// onExtend applies faults to the next extension.
func onExtend(c *fakecloud.Cloud, f ...fakecloud.Fault) *fakecloud.Rule {
	return c.On(fakecloud.Match{Call: fakecloud.ExtendVolume}, f...)
}

// lastRequest returns the last request of a call.
func lastRequest(c *fakecloud.Cloud, call fakecloud.Call) (last fakecloud.Request) {
	for _, r := range c.Requests() {
		if r.Call == call {
			last = r
		}
	}
	return last
}

// sendExtendedEvent tells Nova that a volume was extended and returns the code of the event.
func (c client) sendExtendedEvent(server, id string) int {
	c.Helper()
	var out struct{ Events []struct{ Code int } }
	body := map[string]any{"events": []any{map[string]any{"name": "volume-extended", "server_uuid": server, "tag": id}}}
	resp, err := c.nova.Post(c.Context(), c.nova.ServiceURL("os-server-external-events"), body, &out,
		&gophercloud.RequestOpts{OkCodes: []int{200, 207}})
	if err != nil {
		c.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		c.Fatal(err)
	}
	return out.Events[0].Code
}

// wantConnectionCut ends the test unless err is an error of the connection.
func (c client) wantConnectionCut(err error) {
	c.Helper()
	var u *url.Error
	if !errors.As(err, &u) {
		c.Fatalf("got %v, want an error of the connection", err)
	}
}
