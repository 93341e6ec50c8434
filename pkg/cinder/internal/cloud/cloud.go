package cloud

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/config"
)

// Cloud is one cloud as one project sees it. Its methods are the API calls; they log in when that
// is necessary.
type Cloud struct {
	name   string
	clouds *Clouds
	login  shared[*connection]

	// The last failed login. Only replace uses these fields, and it never runs twice at once.
	loginErr       error
	failedConfig   config.Cloud
	nextLoginAfter time.Time // until then there is no login with the same credentials

	listedAt atomic.Pointer[time.Time] // when Cinder last listed volumes; see checkNotHidden

	mu               sync.Mutex // guards the rest
	conn             *connection
	refreshConfig    config.Cloud
	nextRefreshAfter time.Time // until then there is no refresh with the same credentials
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

// CheckFeature returns nil if the cloud offers f. It asks only the service of f for its versions,
// and only if they are not cached. Kinds: Unsupported (the message names the needed and the
// offered microversions), Unavailable (the service does not answer, or did not answer less than
// versionsPause ago).
func (c *Cloud) CheckFeature(ctx context.Context, f Feature) error {
	n := f.need()
	return c.withLogin(ctx, "reading what "+string(n.service)+" offers", func(conn *connection) error {
		return conn.checkVersion(ctx, n)
	})
}

// current returns the present connection, or nil before the first login.
func (c *Cloud) current() *connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn
}
