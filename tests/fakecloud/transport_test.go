package fakecloud_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"testing"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"

	"github.com/growvol/growvol/tests/fakecloud"
)

func TestLostReplyIsExecuted(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.createAvailable(1)
	onExtend(c.cloud, fakecloud.LostReply())
	c.wantConnectionCut(c.tryExtend(id, 2))
	await(t, func() bool { v, _ := c.cloud.Volume(id); return v.Size == 2 && v.Status == "available" })
}

// TestHangingRequestIsExecutedWhenRuleIsRemoved also covers a client that has gone meanwhile.
func TestHangingRequestIsExecutedWhenRuleIsRemoved(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.createAvailable(1)
	rule := onExtend(c.cloud, fakecloud.Hangs())
	ctx, cancel := context.WithCancel(t.Context())
	answer := make(chan error, 1)
	go func() {
		answer <- volumes.ExtendSize(ctx, c.cinder, id, volumes.ExtendSizeOpts{NewSize: 2}).ExtractErr()
	}()
	await(t, func() bool { return rule.Hits() == 1 })
	cancel()
	if err := <-answer; !errors.Is(err, context.Canceled) {
		t.Errorf("a hanging request: got %v, want context.Canceled", err)
	}
	if v, _ := c.cloud.Volume(id); v.Size != 1 || v.Status != "available" {
		t.Errorf("before Remove: got %s with %d GiB, want available with 1 GiB", v.Status, v.Size)
	}
	rule.Remove()
	await(t, func() bool { v, _ := c.cloud.Volume(id); return v.Size == 2 })
	rule.Remove() // has no effect the second time
}

func TestCutOffIsNotExecuted(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.createAvailable(1)
	onExtend(c.cloud, fakecloud.CutOff())
	c.wantConnectionCut(c.tryExtend(id, 2))
	if v, _ := c.cloud.Volume(id); v.Size != 1 || v.Status != "available" {
		t.Errorf("got %s with %d GiB, want available with 1 GiB", v.Status, v.Size)
	}
	if c.cloud.Count(fakecloud.ExtendVolume) != 1 {
		t.Errorf("got %d requests counted, want 1", c.cloud.Count(fakecloud.ExtendVolume))
	}
}

func TestStatusExecutesNothing(t *testing.T) {
	for _, status := range []int{500, 502, 503, 504, 403, 406, 409} {
		c := connect(t, fakecloud.Options{})
		id := c.createAvailable(1)
		onExtend(c.cloud, fakecloud.Status(status, "no"))
		c.wantStatus(c.tryExtend(id, 2), status)
		if v, _ := c.cloud.Volume(id); v.Status != "available" {
			t.Errorf("%d: got the state %s, want available", status, v.Status)
		}
		if last := lastRequest(c.cloud, fakecloud.ExtendVolume); last.Status != status || last.Microversion != "3.70" {
			t.Errorf("got the record %+v, want the status %d and the version 3.70", last, status)
		}
	}
}

func TestThrottledSetsRetryAfter(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.createAvailable(1)
	for _, test := range []struct {
		status, after int
		header        string
	}{{429, 7, "7"}, {413, 3, "3"}, {429, -1, ""}, {413, 0, "0"}} {
		onExtend(c.cloud, fakecloud.Throttled(test.status, test.after))
		err := c.tryExtend(id, 2)
		var e gophercloud.ErrUnexpectedResponseCode
		if !errors.As(err, &e) || e.Actual != test.status {
			t.Fatalf("got %v, want the status %d", err, test.status)
		}
		if got := e.ResponseHeader.Get("Retry-After"); got != test.header {
			t.Errorf("%d: got Retry-After %q, want %q", test.status, got, test.header)
		}
	}
}

func TestTokenExpiresOnceUntilNextSignIn(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.createAvailable(1)
	before := c.cloud.Count(fakecloud.CreateToken)
	onExtend(c.cloud, fakecloud.TokenExpires())
	c.extend(id, 2) // gophercloud signs in again
	if n := c.cloud.Count(fakecloud.CreateToken) - before; n != 1 {
		t.Errorf("got %d new tokens, want 1", n)
	}
	if n := c.cloud.Count(fakecloud.ExtendVolume); n != 2 {
		t.Errorf("got %d requests to extend, want 2", n)
	}
}

func TestTruncatedAndHTMLBodiesCannotBeRead(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.createAvailable(1)
	for name, f := range map[string]fakecloud.Fault{"half": fakecloud.Truncated(), "HTML": fakecloud.WrongContentType()} {
		c.cloud.On(fakecloud.Match{Call: fakecloud.GetVolume}, f)
		if _, err := volumes.Get(t.Context(), c.cinder, id).Extract(); err == nil {
			t.Errorf("%s: the body was read without an error", name)
		}
		if _, err := volumes.Get(t.Context(), c.cinder, id).Extract(); err != nil {
			t.Errorf("%s: the next request: %v", name, err)
		}
	}
}

func TestOldestMatchingRuleActs(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.createAvailable(1)
	get := fakecloud.Match{Call: fakecloud.GetVolume}
	first := c.cloud.On(get, fakecloud.Status(500, "")).Times(2).After(1)
	forever := c.cloud.On(get, fakecloud.Status(503, "")).Always()
	var got []int
	for range 5 {
		status := http.StatusOK
		var e gophercloud.ErrUnexpectedResponseCode
		if _, err := volumes.Get(t.Context(), c.cinder, id).Extract(); errors.As(err, &e) {
			status = e.Actual
		}
		got = append(got, status)
	}
	forever.Remove()
	if _, err := volumes.Get(t.Context(), c.cinder, id).Extract(); err != nil {
		t.Error(err)
	}
	// The first rule lets the first request pass, which the second rule then answers.
	want := []int{503, 500, 500, 503, 503}
	if !slices.Equal(got, want) {
		t.Fatalf("got the answers %v, want %v", got, want)
	}
	if first.Hits() != 2 || forever.Hits() != 3 {
		t.Errorf("got %d and %d hits, want 2 and 3", first.Hits(), forever.Hits())
	}
}

func TestStopListeningRefusesConnections(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.createAvailable(1)
	c.cloud.StopListening()
	_, err := volumes.Get(t.Context(), c.cinder, id).Extract()
	c.wantConnectionCut(err)
	if err := c.cloud.ResumeListening(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := volumes.Get(t.Context(), c.cinder, id).Extract(); err != nil {
		t.Fatal(err)
	}
}
