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
	// early is how long before its end a token is renewed, so that services
	// that act for us later (Nova calling Cinder) still find it valid.
	early = 2 * time.Minute
	// refusedFor is how long credentials that were refused are not tried
	// again, so that wrong ones do not lock the account.
	refusedFor = 30 * time.Second
	// failedFor is the same after another failure: whoever waited for the
	// login meanwhile shares its result.
	failedFor = 2 * time.Second
	// refreshWithin limits the wait for a login that could as well be made later,
	// and refreshPause is the time until the next try when it failed.
	refreshWithin = 10 * time.Second
	refreshPause  = 15 * time.Second
)

// connection returns the present connection, made anew if there is none, if
// the credentials have changed or if the token ends soon.
func (c *Cloud) connection(ctx context.Context) (*connection, error) {
	wanted, err := c.owner.entry(c.name, false)
	if err != nil {
		return nil, err
	}
	conn := c.present()
	if conn == nil {
		conn, err = c.renew(ctx, nil)
		if err != nil {
			return nil, err
		}
	}
	if conn.config != wanted || !conn.renewAt.IsZero() && time.Now().After(conn.renewAt) {
		conn = c.refresh(ctx, conn, wanted)
	}
	return conn, nil
}

// refresh replaces a connection that still works. It waits for the new one only
// if the old one is none of the wanted credentials or has a token that has ended
// by our clock, and not for long; else it returns the old one: whether its token
// is still good a 401 tells.
func (c *Cloud) refresh(ctx context.Context, old *connection, wanted config.Cloud) *connection {
	select {
	case c.turn <- struct{}{}:
	default:
		return old // a login is under way
	}
	if c.refreshAs == wanted && time.Now().Before(c.refreshAfter) {
		<-c.turn
		return old
	}
	login := begin(ctx, c.owner, c.turn, c.owner.tune.limits.login, func(ctx context.Context) (*connection, error) {
		next, err := c.replace(ctx, old)
		if err != nil {
			c.refreshAs, c.refreshAfter = wanted, time.Now().Add(refreshPause)
		}
		return next, err
	})
	if old.config == wanted && time.Now().Before(old.endsAt) {
		return old
	}
	limited, cancel := context.WithTimeout(ctx, refreshWithin)
	defer cancel()
	next, err := await(limited, login)
	if err != nil {
		return old
	}
	return next
}

// renew replaces the connection old by a new one, with the credentials as they
// stand in the files now. Callers share one login, and each waits for it as long
// as its own ctx lasts; the login goes on without them.
func (c *Cloud) renew(ctx context.Context, old *connection) (*connection, error) {
	next, err := share(ctx, c.owner, c.turn, c.owner.tune.limits.login, func(ctx context.Context) (*connection, error) {
		return c.replace(ctx, old)
	})
	if err != nil && ctx.Err() != nil {
		return nil, volume.Errorf(volume.KindOf(ctx.Err()), "waiting for the login to cloud %q: %w", c.name, err).
			WithRemedy("the login goes on and the next call uses it; if this lasts, check that Keystone answers: openstack token issue")
	}
	return next, err
}

// isOutage reports whether a login failed because Keystone, or the network on
// the way, does not work at present. What a correction of the configuration
// would mend is none: an answer that refuses, a host that does not exist, a
// certificate.
func isOutage(err error) bool {
	if !volume.IsKind(err, volume.KindUnavailable) && !volume.IsKind(err, volume.KindDeadline) {
		return false
	}
	if status := StatusCode(err); status != 0 {
		return status == http.StatusTooManyRequests || status >= http.StatusInternalServerError
	}
	var proxy *transport.ProxyError
	if errors.As(err, &proxy) {
		return proxy.Status == http.StatusTooManyRequests || proxy.Status >= http.StatusInternalServerError
	}
	var unknownHost *net.DNSError
	if errors.As(err, &unknownHost) && unknownHost.IsNotFound {
		return false
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op != "read" && op.Op != "write" && transport.Dialing(err) == nil {
		return false // an alert of TLS
	}
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// replace does the work of renew and refresh, which have the turn.
func (c *Cloud) replace(ctx context.Context, old *connection) (*connection, error) {
	wanted, err := c.owner.entry(c.name, true)
	if err != nil {
		return nil, err
	}
	present := c.present()
	if present != nil && present != old && present.config == wanted {
		return present, nil
	}
	if c.failed != nil && c.failedAs == wanted && time.Now().Before(c.notUntil) {
		return nil, c.failed
	}
	c.failed = nil
	next, err := c.login(ctx, wanted, old)
	if err != nil {
		err = beyondLimit(err, c.owner.tune.limits.login)
		c.owner.log.ErrorContext(ctx, "logging in failed", "cloud", c.name, "old_token", old != nil, "error", err)
		pause := failedFor
		if volume.IsKind(err, volume.KindUnauthenticated) {
			pause = refusedFor
		}
		c.failed, c.failedAs, c.notUntil = err, wanted, time.Now().Add(pause)
		return nil, err
	}
	if old != nil && old.pool != next.pool {
		old.pool.CloseIdleConnections()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = next
	return next, nil
}

// login makes a connection; the pool of the old one is kept if the cloud is
// still trusted in the same way.
func (c *Cloud) login(ctx context.Context, wanted config.Cloud, old *connection) (*connection, error) {
	conn := &connection{owner: c.owner, config: wanted, ignoreVersions: c.owner.watch.Current(false).Settings.IgnoreVolumeMicroversion}
	trust := transport.TLS{CA: wanted.CA, Cert: wanted.Cert, Key: wanted.Key, Insecure: wanted.Insecure}
	if old != nil && old.trust == trust {
		conn.pool = old.pool
	} else {
		pool, err := transport.Pool(trust)
		if err != nil {
			return nil, volume.Errorf(volume.KindUnavailable, "cloud %q: %s: %w", c.name, wanted.Origin, err)
		}
		conn.pool = pool
	}
	conn.trust = trust
	o := c.owner.tune.transport
	o.Base, o.Log, o.Metrics = conn.pool, c.owner.log, c.owner.metrics
	if err := conn.open(ctx, transport.New(o), c.owner.userAgent); err != nil {
		if old == nil || old.pool != conn.pool {
			conn.pool.CloseIdleConnections()
		}
		return nil, err
	}
	return conn, nil
}
