package poll

import (
	"context"
	"log/slog"
	"sync"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
)

// Group waits for the volumes of all clouds: it holds a Poller for each cloud. NewGroup makes one.
type Group struct {
	log *slog.Logger

	mu      sync.Mutex
	pollers map[string]*Poller // by name of the cloud
}

// NewGroup returns a Group without pollers: Await makes the poller of a cloud when it first needs
// it.
func NewGroup(log *slog.Logger) *Group {
	return &Group{log: log, pollers: make(map[string]*Poller)}
}

// Await calls Poller.Await on the poller of the cloud that api reads.
func (g *Group) Await(
	ctx context.Context, api Reader, id, op string, done func(cloud.Volume) bool,
) (cloud.Volume, error) {
	g.mu.Lock()
	p := g.pollers[api.Name()]
	if p == nil {
		p = newPoller(api, g.log)
		g.pollers[api.Name()] = p
	}
	g.mu.Unlock()
	return p.Await(ctx, id, op, done)
}
