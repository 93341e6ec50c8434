package node

import (
	"sync"
	"time"
)

// growthFailures remembers why the last growth of a volume's filesystem
// failed, for NodeGetVolumeHealth. The zero value is ready to use.
type growthFailures struct {
	mu    sync.Mutex
	cause map[string]error // by volume id
}

// record replaces what is known of a volume; a nil error clears it.
func (g *growthFailures) record(id string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err == nil {
		delete(g.cause, id)
		return
	}
	if g.cause == nil {
		g.cause = map[string]error{}
	}
	g.cause[id] = err
}

// last returns the error of the last growth, nil if it succeeded or is
// unknown.
func (g *growthFailures) last(id string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cause[id]
}

// publishTimes remembers when a volume was last published. The zero value is
// ready to use.
type publishTimes struct {
	mu sync.Mutex
	at map[string]time.Time // by volume id
}

func (p *publishTimes) record(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at == nil {
		p.at = map[string]time.Time{}
	}
	p.at[id] = time.Now()
}

func (p *publishTimes) forget(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.at, id)
}

// within reports whether the volume was published no longer ago than d.
func (p *publishTimes) within(id string, d time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.at[id]
	return ok && time.Since(at) <= d
}
