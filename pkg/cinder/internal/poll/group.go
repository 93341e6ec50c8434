package poll

import (
	"context"
	"log/slog"
	"sync"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
)

// NamedReader is a cloud whose volumes a Group reads.
type NamedReader interface {
	Reader
	Name() string
}

// Group holds one Poller for each cloud. NewGroup makes one.
type Group struct {
	log *slog.Logger

	mu      sync.Mutex
	pollers map[string]*Poller // by name of the cloud
}

// NewGroup returns a Group without pollers; the first wait for a volume of a cloud makes
// the cloud's poller.
func NewGroup(log *slog.Logger) *Group {
	return &Group{log: log, pollers: make(map[string]*Poller)}
}

// Await calls Poller.Await on the poller of the cloud that api reads.
func (g *Group) Await(
	ctx context.Context, api NamedReader, id, op string, done func(cloud.Volume) bool,
) (cloud.Volume, error) {
	return g.of(api).Await(ctx, id, op, done)
}

func (g *Group) of(api NamedReader) *Poller {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.pollers[api.Name()]
	if p == nil {
		p = newPoller(api, g.log)
		g.pollers[api.Name()] = p
	}
	return p
}
