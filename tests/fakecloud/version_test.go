package fakecloud_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/utils"

	"github.com/growvol/growvol/tests/fakecloud"
)

func TestMicroversionsAreOffered(t *testing.T) {
	c := connect(t, fakecloud.Options{CinderMax: "3.41", NovaMax: "2.53"})
	c.cinder.Microversion, c.nova.Microversion = "", ""
	top := *c.cinder // Cinder has its versions above the project
	top.Endpoint = c.cloud.URL() + "/volume/v3/"
	for client, want := range map[*gophercloud.ServiceClient]string{&top: "3.41", c.nova: "2.53"} {
		v, err := utils.GetSupportedMicroversions(t.Context(), client)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%d.%d", v.MaxMajor, v.MaxMinor); got != want {
			t.Errorf("the highest version is %s, want %s", got, want)
		}
	}
	id := c.createAvailable(1)
	c.cinder.Microversion = "3.42"
	c.wantStatus(c.tryExtend(id, 2), http.StatusNotAcceptable)
}
