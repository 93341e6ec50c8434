package fakecloud_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/volumeattach"

	"github.com/growvol/growvol/tests/fakecloud"
)

// client is a cloud with clients of gophercloud, which speak the wire format
// as every Go program does.
type client struct {
	*testing.T
	cloud    *fakecloud.Cloud
	provider *gophercloud.ProviderClient
	cinder   *gophercloud.ServiceClient
	nova     *gophercloud.ServiceClient
}

func connect(t *testing.T, o fakecloud.Options) client {
	t.Helper()
	cloud := fakecloud.Start(t, o)
	return login(t, cloud, "csi", fakecloud.Password)
}

func login(t *testing.T, cloud *fakecloud.Cloud, user, password string) client {
	t.Helper()
	p, err := openstack.AuthenticatedClient(t.Context(), gophercloud.AuthOptions{
		IdentityEndpoint: cloud.URL() + "/identity/v3", Username: user, Password: password, DomainName: "Default", TenantName: user, AllowReauth: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return clients(t, cloud, p)
}

func clients(t *testing.T, cloud *fakecloud.Cloud, p *gophercloud.ProviderClient) client {
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

func (c client) create(o volumes.CreateOpts) string {
	c.Helper()
	v, err := volumes.Create(c.Context(), c.cinder, o, nil).Extract()
	if err != nil {
		c.Fatal(err)
	}
	if v.Status != "creating" {
		c.Fatalf("a new volume is %s, not creating", v.Status)
	}
	return v.ID
}

// settled waits until the volume has the state.
func (c client) settled(id, status string) volumes.Volume {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), 5*time.Second)
	defer cancel()
	for {
		v, err := volumes.Get(ctx, c.cinder, id).Extract()
		if err != nil {
			c.Fatalf("waiting for %s: %v", status, err)
		}
		if v.Status == status {
			return *v
		}
		pause(ctx, time.Millisecond)
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (c client) available(gib int) string {
	c.Helper()
	id := c.create(volumes.CreateOpts{Size: gib, Name: "v"})
	c.settled(id, "available")
	return id
}

func (c client) attach(server, id string) {
	c.Helper()
	if _, err := volumeattach.Create(c.Context(), c.nova, server, volumeattach.CreateOpts{VolumeID: id}).Extract(); err != nil {
		c.Fatal(err)
	}
	c.settled(id, "in-use")
}

func (c client) extend(id string, gib int) {
	c.Helper()
	if err := volumes.ExtendSize(c.Context(), c.cinder, id, volumes.ExtendSizeOpts{NewSize: gib}).ExtractErr(); err != nil {
		c.Fatal(err)
	}
}

// refused checks the status of an error.
func (c client) refused(err error, status int) {
	c.Helper()
	if !gophercloud.ResponseCodeIs(err, status) {
		c.Fatalf("want %d %s, have: %v", status, http.StatusText(status), err)
	}
}

func TestVolumeGrowsUnderServer(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	server := c.cloud.AddServer("")
	id := c.available(1)
	c.extend(id, 2)
	if v := c.settled(id, "available"); v.Size != 2 {
		t.Fatalf("%d GiB after the extend to 2", v.Size)
	}
	c.attach(server, id)
	if gib, ok := c.cloud.GuestSize(server, id); !ok || gib != 2 {
		t.Fatalf("the guest sees %d GiB, %v", gib, ok)
	}
	c.cloud.SetLatency(fakecloud.GuestResize, fakecloud.Latency{Done: fakecloud.Fixed(time.Second)})
	c.extend(id, 4)
	if v := c.settled(id, "in-use"); v.Size != 4 {
		t.Fatalf("%d GiB after the extend to 4", v.Size)
	}
	if gib, _ := c.cloud.GuestSize(server, id); gib != 2 {
		t.Fatalf("the guest sees %d GiB before it was told", gib)
	}
	eventually(t, func() bool { gib, _ := c.cloud.GuestSize(server, id); return gib == 4 })
	if err := volumeattach.Delete(t.Context(), c.nova, server, id).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	c.settled(id, "available")
	if err := volumes.Delete(t.Context(), c.cinder, id, nil).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { _, ok := c.cloud.Volume(id); return !ok })
	_, err := volumes.Get(t.Context(), c.cinder, id).Extract()
	c.refused(err, http.StatusNotFound)
}

func eventually(t *testing.T, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for !done() {
		if ctx.Err() != nil {
			t.Fatal("it did not come about in 5 s")
		}
		pause(ctx, time.Millisecond)
	}
}
