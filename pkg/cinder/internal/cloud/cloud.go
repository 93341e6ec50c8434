package cloud

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/config"
)

// Cloud is one cloud as one project sees it. It has the calls of the APIs, as methods, and logs in
// when they need it.
type Cloud struct {
	name   string
	clouds *Clouds
	login  shared[*connection]

	// Of the last login that failed; used only while a login is under way.
	loginErr       error
	failedConfig   config.Cloud
	nextLoginAfter time.Time // no login with the same credentials before

	listedAt atomic.Pointer[time.Time] // when Cinder last listed volumes; see checkNotHidden

	mu               sync.Mutex // guards the rest
	conn             *connection
	refreshConfig    config.Cloud
	nextRefreshAfter time.Time // no refresh with the same credentials before
}

// Name is the cloud's name in the configuration.
func (c *Cloud) Name() string { return c.name }

// ProjectKey identifies the project of this cloud: two names in the configuration whose clouds
// have the same key show the same volumes. It is "" while there is no connection.
func (c *Cloud) ProjectKey() string {
	conn := c.current()
	if conn == nil {
		return ""
	}
	return conn.endpoints[blockStorage].url + " " + conn.project
}

// CheckFeature returns nil if the cloud offers f. It asks the service of f for its versions, and
// no other, unless that service has told them. Kinds: Unsupported (the message names the needed
// and the offered microversion), Unavailable (the service does not answer, or did not some seconds
// ago).
func (c *Cloud) CheckFeature(ctx context.Context, f Feature) error {
	n := f.need()
	return c.withLogin(ctx, "reading what "+string(n.service)+" offers", func(conn *connection) error {
		return conn.checkOffer(ctx, n)
	})
}

// current returns the connection that there is, or nil.
func (c *Cloud) current() *connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn
}
