package cloud

import (
	"context"
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
	// refreshWithin limits a login that could as well be made later, and
	// refreshPause is the time until the next try when it failed.
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
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if conn == nil {
		conn, err = c.renew(ctx, nil)
		if err != nil {
			return nil, err
		}
	}
	if conn.config != wanted || !conn.renewAt.IsZero() && time.Now().After(conn.renewAt) {
		conn = c.refresh(ctx, conn, wanted)
	}
	conn.look(ctx)
	return conn, nil
}

// refresh replaces a connection that still works, if that goes fast; else it
// returns the old one: whether its token is still good a 401 tells.
func (c *Cloud) refresh(ctx context.Context, old *connection, wanted config.Cloud) *connection {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	default:
		return old // somebody else is at it
	}
	if c.refreshAs == wanted && time.Now().Before(c.refreshAfter) {
		return old
	}
	limited, cancel := context.WithTimeout(ctx, refreshWithin)
	defer cancel()
	next, err := c.replace(limited, old)
	if err != nil {
		c.refreshAs, c.refreshAfter = wanted, time.Now().Add(refreshPause)
		return old
	}
	return next
}

// renew replaces the connection old by a new one, with the credentials as they
// stand in the files now. When somebody else has just done so it returns that
// one.
func (c *Cloud) renew(ctx context.Context, old *connection) (*connection, error) {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return nil, volume.Errorf(volume.KindOf(ctx.Err()), "waiting for the login to cloud %q: %w", c.name, ctx.Err())
	}
	return c.replace(ctx, old)
}

// replace does the work of renew and refresh; the caller has the turn.
func (c *Cloud) replace(ctx context.Context, old *connection) (*connection, error) {
	wanted, err := c.owner.entry(c.name, true)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	present := c.conn
	c.mu.Unlock()
	if present != nil && present != old && present.config == wanted {
		return present, nil
	}
	if c.failed != nil && c.failedAs == wanted && time.Now().Before(c.notUntil) {
		return nil, c.failed
	}
	c.failed = nil
	next, err := c.login(ctx, wanted, old)
	if err != nil {
		c.owner.log.ErrorContext(ctx, "logging in failed", "cloud", c.name, "old_token", old != nil, "error", err)
		if ctx.Err() == nil {
			pause := failedFor
			if volume.IsKind(err, volume.Unauthenticated) {
				pause = refusedFor
			}
			c.failed, c.failedAs, c.notUntil = err, wanted, time.Now().Add(pause)
		}
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
	conn := &connection{config: wanted, ignoreVersions: c.owner.watch.Current(false).Settings.IgnoreVolumeMicroversion, log: c.owner.log}
	trust := transport.TLS{CA: wanted.CA, Cert: wanted.Cert, Key: wanted.Key, Insecure: wanted.Insecure}
	if old != nil && old.trust == trust {
		conn.pool = old.pool
	} else {
		pool, err := transport.Pool(trust)
		if err != nil {
			return nil, volume.Errorf(volume.Unavailable, "cloud %q: %s: %w", c.name, wanted.Origin, err)
		}
		conn.pool = pool
	}
	conn.trust = trust
	o := c.owner.tune
	o.Base, o.Log, o.Metrics = conn.pool, c.owner.log, c.owner.metrics
	if err := conn.open(ctx, transport.New(o), c.owner.userAgent); err != nil {
		if old == nil || old.pool != conn.pool {
			conn.pool.CloseIdleConnections()
		}
		return nil, err
	}
	return conn, nil
}
