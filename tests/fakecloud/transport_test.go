package fakecloud_test

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"

	"github.com/growvol/growvol/tests/fakecloud"
)

func TestLostReplyIsExecuted(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.available(1)
	extendCall(c.cloud, fakecloud.LostReply())
	c.cutOff(c.extendErr(id, 2))
	eventually(t, func() bool { v, _ := c.cloud.Volume(id); return v.Size == 2 && v.Status == "available" })
}

// What hangs is executed when it goes on, also if its client has gone meanwhile.
func TestHangingRequestIsExecutedLate(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.available(1)
	rule := extendCall(c.cloud, fakecloud.Hangs())
	ctx, leave := context.WithCancel(t.Context())
	answer := make(chan error, 1)
	go func() {
		answer <- volumes.ExtendSize(ctx, c.cinder, id, volumes.ExtendSizeOpts{NewSize: 2}).ExtractErr()
	}()
	eventually(t, func() bool { return rule.Hits() == 1 })
	leave()
	if err := <-answer; !errors.Is(err, context.Canceled) {
		t.Errorf("a request that hangs: %v", err)
	}
	if v, _ := c.cloud.Volume(id); v.Size != 1 || v.Status != "available" {
		t.Errorf("%s, %d GiB before the request went on", v.Status, v.Size)
	}
	rule.Remove()
	eventually(t, func() bool { v, _ := c.cloud.Volume(id); return v.Size == 2 })
	rule.Remove() // ends nothing twice
}

func TestCutOffIsNotExecuted(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.available(1)
	extendCall(c.cloud, fakecloud.CutOff())
	c.cutOff(c.extendErr(id, 2))
	if v, _ := c.cloud.Volume(id); v.Size != 1 || v.Status != "available" {
		t.Errorf("it was executed: %s, %d GiB", v.Status, v.Size)
	}
	if c.cloud.Count(fakecloud.ExtendVolume) != 1 {
		t.Error("the request was not counted")
	}
}

func TestErrorStatus(t *testing.T) {
	for _, status := range []int{500, 502, 503, 504, 403, 406, 409} {
		c := connect(t, fakecloud.Options{})
		id := c.available(1)
		extendCall(c.cloud, fakecloud.Status(status, "no"))
		c.refused(c.extendErr(id, 2), status)
		if v, _ := c.cloud.Volume(id); v.Status != "available" {
			t.Errorf("%d: it was executed", status)
		}
		if last := lastOf(c.cloud, fakecloud.ExtendVolume); last.Status != status || last.Microversion != "3.70" {
			t.Errorf("recorded as %+v", last)
		}
	}
}

func TestThrottledWithAndWithoutRetryAfter(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.available(1)
	for _, test := range []struct {
		status, after int
		header        string
	}{{429, 7, "7"}, {413, 3, "3"}, {429, -1, ""}, {413, 0, "0"}} {
		extendCall(c.cloud, fakecloud.Throttled(test.status, test.after))
		err := c.extendErr(id, 2)
		var e gophercloud.ErrUnexpectedResponseCode
		if !errors.As(err, &e) || e.Actual != test.status {
			t.Fatalf("%+v: %v", test, err)
		}
		if have := e.ResponseHeader.Get("Retry-After"); have != test.header {
			t.Errorf("%+v: Retry-After %q", test, have)
		}
	}
}

func TestTokenExpiresInTheMiddle(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.available(1)
	before := c.cloud.Count(fakecloud.CreateToken)
	extendCall(c.cloud, fakecloud.TokenExpires())
	c.extend(id, 2) // gophercloud signs in again
	if n := c.cloud.Count(fakecloud.CreateToken) - before; n != 1 {
		t.Errorf("%d new tokens", n)
	}
	if n := c.cloud.Count(fakecloud.ExtendVolume); n != 2 {
		t.Errorf("%d requests to extend", n)
	}
}

func TestBodiesThatCannotBeRead(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.available(1)
	for name, f := range map[string]fakecloud.Fault{"half": fakecloud.Truncated(), "HTML": fakecloud.WrongContentType()} {
		c.cloud.On(fakecloud.Match{Call: fakecloud.GetVolume}, f)
		if _, err := volumes.Get(t.Context(), c.cinder, id).Extract(); err == nil {
			t.Errorf("%s: it was read", name)
		}
		if _, err := volumes.Get(t.Context(), c.cinder, id).Extract(); err != nil {
			t.Errorf("%s: the next one: %v", name, err)
		}
	}
}

func TestRulesInOrder(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.available(1)
	get := fakecloud.Match{Call: fakecloud.GetVolume}
	first := c.cloud.On(get, fakecloud.Status(500, "")).Times(2).After(1)
	forever := c.cloud.On(get, fakecloud.Status(503, "")).Always()
	var have []int
	for range 5 {
		status := http.StatusOK
		var e gophercloud.ErrUnexpectedResponseCode
		if _, err := volumes.Get(t.Context(), c.cinder, id).Extract(); errors.As(err, &e) {
			status = e.Actual
		}
		have = append(have, status)
	}
	forever.Remove()
	if _, err := volumes.Get(t.Context(), c.cinder, id).Extract(); err != nil {
		t.Error(err)
	}
	// The first request passes the first rule and meets the second.
	want := []int{503, 500, 500, 503, 503}
	for i := range want {
		if have[i] != want[i] {
			t.Fatalf("answers %v, want %v", have, want)
		}
	}
	if first.Hits() != 2 || forever.Hits() != 3 {
		t.Errorf("%d and %d hits", first.Hits(), forever.Hits())
	}
}

func TestShutRefusesConnections(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.available(1)
	c.cloud.Shut()
	_, err := volumes.Get(t.Context(), c.cinder, id).Extract()
	c.cutOff(err)
	if err := c.cloud.Reopen(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := volumes.Get(t.Context(), c.cinder, id).Extract(); err != nil {
		t.Fatal(err)
	}
}
