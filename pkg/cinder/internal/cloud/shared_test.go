package cloud

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"regexp"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/utils"

	"github.com/growvol/growvol/pkg/cinder/internal/transport"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/fakecloud"
)

// requestsTo matches all requests to one service.
func requestsTo(s service) fakecloud.Match {
	path := map[service]string{identity: "^/identity/", blockStorage: "^/volume/", compute: "^/compute/"}[s]
	return fakecloud.Match{Path: regexp.MustCompile(path)}
}

// forgetFailure waits until no login is under way, and does what happens some seconds after one
// that has failed.
func (c *Cloud) forgetFailure(t *testing.T) {
	t.Helper()
	afterWork(t, c.clouds, &c.login, func() { c.loginErr = nil })
}

// afterWork waits until shared work has ended, and runs then while none is under way.
func afterWork[T any](t *testing.T, cs *Clouds, s *shared[T], then func()) {
	t.Helper()
	for hasRun := false; !hasRun; {
		_, err := s.do(t.Context(), cs, time.Minute, func(context.Context) (result T, err error) {
			hasRun = true
			then()
			return result, nil
		})
		if hasRun {
			must(t, err)
		}
	}
}

// contextFor returns a context that ends after d.
func contextFor(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// csiOptions names the clouds of a fake cloud, with the cloud "csi" as the default.
func csiOptions(t *testing.T, fake *fakecloud.Cloud, log *slog.Logger) Options {
	t.Helper()
	path, err := fake.WriteCloudsYAML(t.TempDir())
	must(t, err)
	return Options{CloudsYAML: path, Default: "csi", Dial: fakecloud.Dialer(fake), Log: log}
}

// A service that hangs delays neither calls of the other service nor the start.
func TestHangingServiceDelaysNoOther(t *testing.T) {
	for s, calls := range map[service]func(context.Context, *Cloud) error{
		compute: func(ctx context.Context, c *Cloud) error {
			_, errZones := c.Zones(ctx)
			v, errCreate := c.CreateVolume(ctx, NewVolume{Name: "pvc-1", Size: 1})
			_, errMessages := c.Messages(ctx, v.ID)
			return errors.Join(errZones, errCreate, errMessages, c.CheckFeature(ctx, FeatureOnlineExtend))
		},
		blockStorage: func(ctx context.Context, c *Cloud) error {
			_, err := c.ServerAttachment(ctx, absentID, absentID)
			return errors.Join(err, c.CheckFeature(ctx, FeatureMultiattach))
		},
	} {
		t.Run(string(s), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fake := fakecloud.Start(t, fakecloud.Options{InMemory: true})
				rule := fake.On(requestsTo(s), fakecloud.Hangs()).Always()
				ctx := contextFor(t, 5*time.Second)
				clouds, err := open(ctx, csiOptions(t, fake, discardLog()), fastTuning())
				must(t, err)
				t.Cleanup(clouds.Close)
				must(t, clouds.Ready(ctx))
				c, err := clouds.Cloud(ctx, "")
				must(t, err)
				must(t, calls(ctx, c))
				if n := rule.Hits(); n != 0 {
					t.Errorf("%d requests to the service that hangs, want none", n)
				}
			})
		})
	}
}

// Callers share one version request. Each waits only as long as its own context lasts; the answer
// is used also when no caller waits any more.
func TestVersionRequestOutlivesItsCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		rule := r.fake.On(requestsTo(compute), fakecloud.Hangs()).Always()
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				volumetest.WantKind(t, r.CheckFeature(ctx, FeatureMultiattach), volume.KindDeadline,
					"the versions it offers are not known",
					"waiting for the API versions of nova")
			})
		}
		wg.Wait()
		rule.Remove()
		must(t, r.CheckFeature(t.Context(), FeatureMultiattach))
		must(t, r.CheckFeature(t.Context(), FeatureExternalEvents))
		if n := r.fake.Count(fakecloud.Discover); n != 1 {
			t.Errorf("%d version requests for 20 callers, want 1", n)
		}
	})
}

// A version request has a short timeout of its own, and its failure is remembered for a while: the
// next callers do not wait.
func TestFailedVersionRequestIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		r.clouds.tuning.timeouts.versionsAttempt = 100 * time.Millisecond
		rule := r.fake.On(requestsTo(compute), fakecloud.Hangs()).Always()
		volumetest.WantKind(t, r.CheckFeature(contextFor(t, 10*time.Millisecond), FeatureMultiattach), volume.KindDeadline)
		afterWork(t, r.clouds, &r.conn.versions[compute].request, func() {})
		volumetest.WantKind(t, r.Attach(t.Context(), absentID, absentID, true), volume.KindUnavailable, "no answer from nova",
			"no complete answer within 100ms")
		if n := rule.Hits(); n > 2 {
			t.Errorf("%d version requests, want at most the 2 attempts of the first caller's", n)
		}
		r.log.wantLine(t, "WARN", "cannot read the API versions of a service", "service=nova")
	})
}

// However many calls are refused with 406, the service is asked for its versions once; and one
// whose servers differ is not asked after each refusal.
func TestRefusedVersionsAreAskedForOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		must(t, r.CheckFeature(t.Context(), FeatureMessages))
		r.fake.ClearRequests()
		r.fake.SetLatency(fakecloud.ListMessages, fakecloud.Latency{Answer: fakecloud.Uniform(10*time.Millisecond,
			60*time.Millisecond)})
		r.fake.On(fakecloud.Match{Call: fakecloud.ListMessages},
			fakecloud.Status(406, "Version 3.5 is not supported by the API.")).Always()
		for range 3 {
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					_, err := r.Messages(t.Context(), absentID)
					volumetest.WantKind(t, err, volume.KindPrecondition, "406")
				})
			}
			wg.Wait()
		}
		if n := r.fake.Count(fakecloud.Discover); n != 1 {
			t.Errorf("%d version requests after 60 refusals, want 1", n)
		}
	})
}

// A refusal of a request that was sent before the versions were read says nothing about them.
func TestRefusalOfAnEarlierRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &versions{}
		sent := time.Now()
		v.set(versionRange{askedAt: sent.Add(time.Second), SupportedMicroversions: utils.SupportedMicroversions{
			MaxMajor: 3,
			MaxMinor: 70,
		}})
		v.forget(sent)
		if _, known := v.cached(); !known {
			t.Error("an offer is forgotten for the refusal of a request that is older")
		}
		v.forget(sent.Add(2 * time.Second))
		if _, known := v.cached(); known {
			t.Error("an offer is kept that was refused")
		}
	})
}

// A login continues when its caller gives up, and the next caller uses it.
func TestLoginOutlivesItsCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		r.fake.RevokeTokens()
		r.fake.ClearRequests()
		rule := r.fake.On(requestsTo(identity), fakecloud.Hangs()).Always()
		for range 3 {
			_, err := r.Zones(contextFor(t, 500*time.Millisecond))
			volumetest.WantKind(t, err, volume.KindDeadline, "listing the availability zones",
				`waiting for the login to cloud "csi"`,
				"check that Keystone answers")
		}
		rule.Remove()
		_, err := r.Zones(t.Context())
		must(t, err)
		if n := r.fake.Count(fakecloud.CreateToken); n != 1 {
			t.Errorf("%d logins, want the one that was begun", n)
		}
	})
}

// A login that gets no answer within its timeout fails for all callers that wait for it.
func TestLoginHasALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		r.clouds.tuning.timeouts.login = 100 * time.Millisecond
		r.fake.RevokeTokens()
		rule := r.fake.On(requestsTo(identity), fakecloud.Hangs()).Always()
		for range 2 {
			_, err := r.Zones(t.Context())
			volumetest.WantKind(t, err, volume.KindUnavailable, "logging in to cloud")
		}
		if n := rule.Hits(); n > 1 {
			t.Errorf("%d logins of which one could fail for both callers", n)
		}
	})
}

// Close ends work that has no caller any more.
func TestCloseEndsDetachedWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		r.fake.On(requestsTo(compute), fakecloud.Hangs()).Always()
		r.fake.On(requestsTo(identity), fakecloud.Hangs()).Always()
		volumetest.WantKind(t, r.CheckFeature(contextFor(t, 20*time.Millisecond), FeatureMultiattach), volume.KindDeadline)
		_, err := r.clouds.Cloud(contextFor(t, 20*time.Millisecond), "admin")
		volumetest.WantKind(t, err, volume.KindDeadline)
		versions := r.conn.versions[compute]
		start := time.Now()
		r.clouds.Close()
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("Close took %s", took)
		}
		start = time.Now()
		for _, login := range []*shared[*connection]{&r.login, &r.clouds.cloud("admin").login} {
			afterWork(t, r.clouds, login, func() {})
		}
		afterWork(t, r.clouds, &versions.request, func() {})
		if took := time.Since(start); took > time.Second {
			t.Errorf("work was under way for %s after Close", took)
		}
	})
}

// Open succeeds while Keystone does not work; the login is made when Keystone works again.
func TestStartWithoutKeystone(t *testing.T) {
	for name, fault := range map[string]fakecloud.Fault{
		"hangs": fakecloud.Hangs(), "503": fakecloud.Status(503, ""), "cuts": fakecloud.CutOff(),
		"429": fakecloud.Throttled(429, -1),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fake := fakecloud.Start(t, fakecloud.Options{InMemory: true})
				tune := fastTuning()
				tune.timeouts.start, tune.timeouts.ready = 300*time.Millisecond, 50*time.Millisecond
				rule := fake.On(requestsTo(identity), fault).Always()
				log := &logRecorder{}
				start := time.Now()
				clouds, err := open(t.Context(), csiOptions(t, fake, log.logger()), tune)
				must(t, err)
				t.Cleanup(clouds.Close)
				if took := time.Since(start); took > 3*time.Second {
					t.Errorf("the start took %s", took)
				}
				log.wantLine(t, "WARN", "starts without a login", "cloud=csi")
				volumetest.WantKind(t, clouds.Ready(t.Context()), volume.KindInProgress, "not logged in to the cloud yet",
					`cloud "csi"`)
				rule.Remove()
				clouds.cloud("csi").forgetFailure(t)
				for err = clouds.Ready(t.Context()); volume.IsKind(err, volume.KindInProgress); err = clouds.Ready(t.Context()) {
					must(t, operation.Sleep(t.Context(), time.Millisecond))
				}
				must(t, err)
			})
		})
	}
}

// Open fails where only a correction of the configuration helps.
func TestStartWithAWrongConfiguration(t *testing.T) {
	for name, fault := range map[string]fakecloud.Fault{
		"401": fakecloud.Status(401, "no"), "403": fakecloud.Status(403, "no"), "404": fakecloud.Status(404, "no"),
		"HTML": fakecloud.WrongContentType(),
	} {
		t.Run(name, func(t *testing.T) {
			fake := fakecloud.Start(t, fakecloud.Options{InMemory: true})
			fake.On(requestsTo(identity), fault).Always()
			clouds, err := open(t.Context(), csiOptions(t, fake, discardLog()), fastTuning())
			if err == nil {
				clouds.Close()
				t.Error("the program starts")
			}
		})
	}
	fake := fakecloud.Start(t, fakecloud.Options{InMemory: true})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := open(ctx, csiOptions(t, fake, discardLog()), fastTuning())
	volumetest.WantKind(t, err, volume.KindCanceled)
}

func TestIsOutage(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"refused":    {&net.OpError{Op: "dial", Err: errors.New("connection refused")}, true},
		"reset":      {&net.OpError{Op: "read", Err: errors.New("connection reset by peer")}, true},
		"no name":    {&net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}, false},
		"silent DNS": {&net.OpError{Op: "dial", Err: &net.DNSError{IsTimeout: true}}, true},
		"cut":        {io.ErrUnexpectedEOF, true},
		"deadline":   {context.DeadlineExceeded, true},
		"proxy is down": {&net.OpError{
			Op:  "proxyconnect",
			Err: &net.OpError{Op: "dial", Err: errors.New("connection refused")},
		}, true},
		"proxy has no name": {&net.OpError{
			Op:  "proxyconnect",
			Err: &net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}},
		}, false},
		"no TLS of the proxy": {&net.OpError{
			Op:  "proxyconnect",
			Err: errors.New("tls: first record does not look like a TLS handshake"),
		}, false},
		"proxy reaches nobody": {&transport.ProxyError{Proxy: "proxy:3128", Status: 503}, true},
		"proxy is busy":        {&transport.ProxyError{Proxy: "proxy:3128", Status: 429}, true},
		"proxy wants a login":  {&transport.ProxyError{Proxy: "proxy:3128", Status: 407}, false},
		"TLS alert":            {&net.OpError{Op: "remote error", Err: errors.New("tls: certificate required")}, false},
		"certificate":          {&tls.CertificateVerificationError{Err: errors.New("unknown authority")}, false},
		"no TLS":               {errors.New("http: server gave HTTP response to HTTPS client"), false},
		"bad CA file":          {errors.New("the CA file holds no certificate in PEM form"), false},
		"wrapped once": {
			fmt.Errorf("%w: %w", errors.New("no complete answer within 1s"), context.DeadlineExceeded),
			true,
		},
	} {
		err := noAnswerError(t.Context(), call{service: identity, what: "logging in", method: "POST", isRepeatable: true},
			c.err)
		if isOutage(err) != c.want {
			t.Errorf("%s: isOutage(%v) = %t", name, err, !c.want)
		}
	}
	if isOutage(volume.Errorf(volume.KindUnauthenticated, "logging in: %w", io.EOF)) {
		t.Error("refused credentials are an outage")
	}
}

func (r *logRecorder) logger() *slog.Logger { return slog.New(slog.NewTextHandler(r, nil)) }

func TestEndedContextBeginsNoSharedWork(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := r.login.do(ctx, r.clouds, time.Minute, func(context.Context) (*connection, error) {
		t.Error("the work began")
		return nil, nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
}
