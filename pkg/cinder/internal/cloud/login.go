package cloud

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/config"
	"github.com/growvol/growvol/pkg/cinder/internal/transport"
	"github.com/growvol/growvol/pkg/volume"
)

const (
	// renewMargin is how long before its end a token is renewed, so that services that act for us
	// later (Nova calling Cinder) still find it valid.
	renewMargin = 2 * time.Minute
	// refusedPause is how long credentials that were refused are not tried again, so that wrong ones
	// do not lock the account.
	refusedPause = 30 * time.Second
	// failedPause is the same after another failure: callers that come meanwhile get its error.
	failedPause = 2 * time.Second
	// refreshTimeout limits the wait for a login that could as well be made later, and refreshPause
	// is the time until the next attempt if it fails.
	refreshTimeout = 10 * time.Second
	refreshPause   = 15 * time.Second
)

// withLogin calls use with the connection, and once more with a new one if the token is refused:
// it may have run out. A service that refuses a new token refuses others as well (its access to
// Keystone may be broken): no call logs in for that until refusedPause has passed, or the
// credentials have changed.
func (c *Cloud) withLogin(ctx context.Context, what string, use func(*connection) error) error {
	conn, err := c.connection(ctx)
	if err != nil {
		return withContext(what, err)
	}
	err = use(conn)
	if StatusCode(err) != http.StatusUnauthorized || c.isNewlyRefused(conn) {
		return err
	}
	renewed, errRenew := c.renew(ctx, conn)
	if errRenew != nil {
		return withContext(what+": the token was refused and could not be renewed", errRenew)
	}
	err = use(renewed)
	if StatusCode(err) == http.StatusUnauthorized {
		now := time.Now()
		renewed.refusedAt.Store(&now)
	}
	return err
}

// isNewlyRefused reports whether a service refused the token of conn right after the login, not
// long ago, and the credentials are still the same.
func (c *Cloud) isNewlyRefused(conn *connection) bool {
	at := conn.refusedAt.Load()
	if at == nil || time.Since(*at) > refusedPause {
		return false
	}
	wanted, err := c.clouds.configOf(c.name, true)
	return err == nil && wanted == conn.config
}

// connection returns the connection to use, and logs in if there is none. If the credentials have
// changed or the token ends soon, it tries to replace the connection; see refresh for when it
// returns the old one.
func (c *Cloud) connection(ctx context.Context) (*connection, error) {
	wanted, err := c.clouds.configOf(c.name, false)
	if err != nil {
		return nil, err
	}
	conn := c.current()
	if conn == nil {
		if conn, err = c.renew(ctx, nil); err != nil {
			return nil, err
		}
	}
	if conn.config != wanted || !conn.renewAt.IsZero() && time.Now().After(conn.renewAt) {
		conn = c.refresh(ctx, conn, wanted)
	}
	return conn, nil
}

// refresh replaces a connection that may still work. If that has the wanted credentials and a
// token that has not ended by our clock, refresh returns it at once while the login runs in the
// background. Else it waits for the login, and returns the old connection only if the login fails,
// takes longer than refreshTimeout, or was tried less than refreshPause ago: a 401 then shows
// whether the old token is still good.
func (c *Cloud) refresh(ctx context.Context, old *connection, wanted config.Cloud) *connection {
	c.mu.Lock()
	isPaused := c.refreshConfig == wanted && time.Now().Before(c.nextRefreshAfter)
	if !isPaused {
		c.refreshConfig, c.nextRefreshAfter = wanted, time.Now().Add(refreshPause)
	}
	c.mu.Unlock()
	switch {
	case isPaused:
		return old
	case old.config == wanted && time.Now().Before(old.expiresAt):
		go func() { _, _ = c.renew(context.WithoutCancel(ctx), old) }() // replace logs what goes wrong
		return old
	}
	limited, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	next, err := c.renew(limited, old)
	if err != nil {
		return old
	}
	return next
}

// renew replaces the connection old by a new one, with the credentials as they stand in the files
// now. Callers share one login, and each waits for it as long as its own ctx lasts; the login goes
// on without them.
func (c *Cloud) renew(ctx context.Context, old *connection) (*connection, error) {
	next, err := c.login.do(ctx, c.clouds, c.clouds.tuning.timeouts.login, func(ctx context.Context) (*connection, error) {
		return c.replace(ctx, old)
	})
	switch {
	case err == nil && next == old: // the login that was joined began before old was refused
		return c.renew(ctx, old)
	case err != nil && ctx.Err() != nil:
		return nil, volume.Errorf(volume.KindOf(ctx.Err()), "waiting for the login to cloud %q: %w", c.name, err).
			WithRemedy("no action needed: the login continues and the next call uses it; " +
				"if this lasts, check that Keystone answers: openstack token issue")
	}
	return next, err
}

// replace does the work of renew. Only one runs at a time.
func (c *Cloud) replace(ctx context.Context, old *connection) (*connection, error) {
	wanted, err := c.clouds.configOf(c.name, true)
	if err != nil {
		return nil, err
	}
	current := c.current()
	if current != nil && current != old && current.config == wanted {
		return current, nil
	}
	if c.loginErr != nil && c.failedConfig == wanted && time.Now().Before(c.nextLoginAfter) {
		return nil, c.loginErr
	}
	c.loginErr = nil
	next, err := c.connect(ctx, wanted, old)
	if err != nil {
		err = asUnavailable(err, c.clouds.tuning.timeouts.login)
		c.clouds.log.ErrorContext(ctx, "logging in failed", "cloud", c.name, "old_token", old != nil, "error", err)
		pause := failedPause
		if volume.IsKind(err, volume.KindUnauthenticated) {
			pause = refusedPause
		}
		c.loginErr, c.failedConfig, c.nextLoginAfter = err, wanted, time.Now().Add(pause)
		return nil, err
	}
	if old != nil && old.pool != next.pool {
		old.pool.CloseIdleConnections()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn, c.nextRefreshAfter = next, time.Time{}
	return next, nil
}

// connect logs in. It keeps the pool of the old connection if the cloud is still trusted in the
// same way.
func (c *Cloud) connect(ctx context.Context, wanted config.Cloud, old *connection) (*connection, error) {
	conn := &connection{
		clouds: c.clouds, config: wanted,
		ignoresMicroversions: c.clouds.Settings().IgnoreVolumeMicroversion,
	}
	trust := func(c config.Cloud) transport.TLS {
		return transport.TLS{CA: c.CA, Cert: c.Cert, Key: c.Key, Insecure: c.Insecure}
	}
	keepsPool := old != nil && trust(old.config) == trust(wanted)
	if keepsPool {
		conn.pool = old.pool
	} else {
		pool, err := transport.NewPool(trust(wanted))
		if err != nil {
			return nil, volume.Errorf(volume.KindUnavailable, "cloud %q: %s: %w", c.name, wanted.Origin, err)
		}
		if c.clouds.dial != nil {
			pool.DialContext = c.clouds.dial
		}
		conn.pool = pool
	}
	o := c.clouds.tuning.transport
	o.Base, o.Log, o.Metrics = conn.pool, c.clouds.log, c.clouds.metrics
	if err := conn.open(ctx, transport.New(o), c.clouds.userAgent); err != nil {
		if !keepsPool {
			conn.pool.CloseIdleConnections()
		}
		return nil, err
	}
	return conn, nil
}

// isOutage reports whether a login failed because Keystone, or the network on the way, does not
// work at present. What a correction of the configuration would repair is no outage: an answer
// that refuses, a host that does not exist, a certificate.
func isOutage(err error) bool {
	if !volume.IsKind(err, volume.KindUnavailable) && !volume.IsKind(err, volume.KindDeadline) {
		return false
	}
	status := StatusCode(err)
	var proxy *transport.ProxyError
	if errors.As(err, &proxy) {
		status = proxy.Status
	}
	if status != 0 {
		return status == http.StatusTooManyRequests || status >= http.StatusInternalServerError
	}
	var name *net.DNSError
	if errors.As(err, &name) && name.IsNotFound {
		return false
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op != "read" && op.Op != "write" && !transport.IsDialError(err) {
		return false // an alert of TLS
	}
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
