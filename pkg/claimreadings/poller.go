package claimreadings

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/growvol/growvol/pkg/readings"
)

const (
	// MinInterval is the shortest time between two readings of a node.
	MinInterval = time.Second
	// ListInterval is the time between two lists of the claims and their nodes.
	ListInterval = 10 * time.Second
	// readTimeout bounds one reading of a node. It is longer than a plugin waits for a filesystem that
	// does not answer, so that the plugin can answer for the others.
	readTimeout = 20 * time.Second
	// maxConcurrentReads bounds the readings at the same time.
	maxConcurrentReads = 16
	// unreadAfter is how long a node does not answer until the metric counts it.
	unreadAfter = 2 * time.Minute
)

// Reader reads the answer of the driver's plugin on a node.
type Reader interface {
	// ReadNode returns the volumes of the handles that are staged on the Kubernetes node.
	ReadNode(ctx context.Context, node string, handles ...string) (readings.Answer, error)
}

// Reading is what is known of one claim's volume on one node after an attempt to read it.
type Reading struct {
	Claim  *corev1.PersistentVolumeClaim // from the cache; it is a copy
	Node   string                        // where a pod runs with the claim
	Volume *readings.Volume              // nil: not read
	Err    error                         // why, if Volume is nil
}

// Observer is what uses the readings.
type Observer interface {
	// Interval returns how often the claim's volume is read at least. Zero: the observer does not need
	// it. The claim is that of the cache, and must not be changed.
	Interval(ctx context.Context, c *corev1.PersistentVolumeClaim) time.Duration
	// Observe receives each reading of a claim with an interval. It returns after which time the next
	// one is needed, if that is earlier; otherwise zero. Calls are concurrent.
	Observe(ctx context.Context, r Reading) time.Duration
	// Retain drops what is known of all claims but these, which the observer needs.
	Retain(claims map[types.NamespacedName]types.UID)
}

// Options are what a Poller works with. All are required.
type Options struct {
	Driver    string        // whose volumes are read
	Reader    Reader        // of that driver
	Client    client.Reader // reads from a cache, which has the index of package claimcache
	Observers []Observer
	Metrics   prometheus.Registerer
	Log       *slog.Logger
}

// Poller reads nodes at intervals.
type Poller struct {
	Options
	metrics *metrics
	slots   chan struct{} // a reading that runs has one
	wait    sync.WaitGroup

	mu    sync.Mutex
	nodes map[string]*node
}

// node is a node with volumes that are needed.
type node struct {
	volumes   []target
	interval  time.Duration
	due       time.Time
	isReading bool
	failing   time.Time // since when it does not answer; zero: it does
}

// New returns a poller. It reads after a call of Start.
func New(o Options) *Poller {
	return &Poller{
		Options: o, metrics: newMetrics(o.Metrics), slots: make(chan struct{}, maxConcurrentReads), nodes: map[string]*node{},
	}
}

// Start reads until ctx ends, and until all readings have ended. It implements manager.Runnable:
// with leader election, only the active replica reads.
func (p *Poller) Start(ctx context.Context) error {
	defer p.wait.Wait()
	ticker := time.NewTicker(MinInterval)
	defer ticker.Stop()
	var listed time.Time
	for {
		if now := time.Now(); now.Sub(listed) >= ListInterval {
			listed = now
			if err := p.list(ctx, now); err != nil && ctx.Err() == nil {
				p.Log.WarnContext(ctx, "the claims to be read are not known; the list is repeated", "error", err)
			}
		}
		p.startDue(ctx, time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// startDue starts the readings that are due.
func (p *Poller) startDue(ctx context.Context, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, n := range p.nodes {
		if n.isReading || now.Before(n.due) {
			continue
		}
		select {
		case p.slots <- struct{}{}:
		default: // all slots are taken: the node is due at the next tick too
			continue
		}
		n.isReading = true
		volumes := n.volumes
		p.wait.Go(func() {
			defer func() { <-p.slots }()
			p.finish(name, now, p.read(ctx, name, volumes))
		})
	}
}

// outcome is the result of one reading of a node.
type outcome struct {
	err  error
	next time.Duration // when an observer needs the next one; 0: none does
}

// read reads the node and passes its volumes on.
func (p *Poller) read(ctx context.Context, name string, volumes []target) outcome {
	answer, err := p.readNode(ctx, name, volumes)
	if ctx.Err() != nil {
		return outcome{err: ctx.Err()}
	}
	o := outcome{err: err}
	for _, v := range volumes {
		r := Reading{Node: name}
		var c corev1.PersistentVolumeClaim
		if err := p.Client.Get(ctx, v.claim, &c); err != nil || c.UID != v.uid {
			continue // it is gone: the next list has it no longer
		}
		r.Claim = &c
		r.Volume, r.Err = volumeOf(answer, err, v.handle, name)
		for _, observer := range p.Observers {
			if observer.Interval(ctx, &c) == 0 {
				continue
			}
			if next := observer.Observe(ctx, r); next > 0 && (o.next == 0 || next < o.next) {
				o.next = next
			}
		}
	}
	return o
}

func (p *Poller) readNode(ctx context.Context, name string, volumes []target) (*readings.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	var handles []string
	for _, v := range volumes {
		handles = append(handles, v.handle)
	}
	begin := time.Now()
	answer, err := p.Reader.ReadNode(ctx, name, handles...)
	if err == nil && answer.Driver != p.Driver {
		err = fmt.Errorf("got the volumes of the driver %q, want those of %q", answer.Driver, p.Driver)
	}
	p.metrics.observe(time.Since(begin), err)
	if err != nil {
		return nil, fmt.Errorf("read the volumes of node %s: %w", name, err)
	}
	return &answer, nil
}

// volumeOf returns the volume of the handle in the answer, or why there is none.
func volumeOf(answer *readings.Answer, err error, handle, node string) (*readings.Volume, error) {
	if err != nil {
		return nil, err
	}
	for i := range answer.Volumes {
		switch v := &answer.Volumes[i]; {
		case v.ID != handle:
		case v.Problem != "": // what was read before has no value for a decision
			return nil, errors.New(v.Problem)
		default:
			return v, nil
		}
	}
	return nil, fmt.Errorf("the plugin on node %s does not have the volume %s", node, handle)
}

// finish stores the outcome, and when the node is due again.
func (p *Poller) finish(name string, begin time.Time, o outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.nodes[name]
	if n == nil { // the last claim on the node is gone
		return
	}
	n.isReading = false
	pause := n.interval
	if o.next > 0 {
		pause = min(pause, max(o.next, MinInterval))
	}
	n.due = begin.Add(pause)
	switch {
	case o.err == nil:
		n.failing = time.Time{}
	case n.failing.IsZero():
		n.failing = begin
	}
	p.metrics.setUnread(p.unread(time.Now()))
}

// unread counts the nodes that have not answered for long. The caller holds mu.
func (p *Poller) unread(now time.Time) int {
	count := 0
	for _, n := range p.nodes {
		if !n.failing.IsZero() && now.Sub(n.failing) >= unreadAfter {
			count++
		}
	}
	return count
}
