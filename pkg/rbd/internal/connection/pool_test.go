package connection

import (
	"errors"
	"log/slog"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/fakeceph"
)

// dialer makes connections that say whether they are closed.
type dialer struct {
	fakeceph.Dialer

	mu     sync.Mutex
	closed []string // keys
}

type connection struct {
	ceph.Cluster

	dialer *dialer
	key    string
}

func (d *dialer) Connect(c cluster.Cluster) (ceph.Cluster, error) {
	made, err := d.Dialer.Connect(c)
	if err != nil {
		return nil, err
	}
	return &connection{Cluster: made, dialer: d, key: c.Key}, nil
}

func (c *connection) Close() {
	c.dialer.mu.Lock()
	defer c.dialer.mu.Unlock()
	c.dialer.closed = append(c.dialer.closed, c.key)
	c.Cluster.Close()
}

func newPool() (*Pool, *dialer, *fakeceph.Server) {
	server := fakeceph.New("f5c1", "volumes")
	d := &dialer{Dialer: fakeceph.Dialer{"a": server}}
	return New(d, slog.New(slog.DiscardHandler)), d, server
}

func config(key string) cluster.Cluster {
	return cluster.Cluster{ID: "a", Monitors: []string{"10.77.0.1"}, User: "csi", Key: key}
}

// acquire ends the test if there is no connection.
func acquire(t *testing.T, p *Pool, c cluster.Cluster) *Connection {
	t.Helper()
	got, err := p.Acquire(c)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func (d *dialer) wantClosed(t *testing.T, want int) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.closed) != want {
		t.Errorf("closed are the connections with the keys %q, want %d", d.closed, want)
	}
}

func TestConnectionIsShared(t *testing.T) {
	t.Parallel()
	p, d, server := newPool()
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() { acquire(t, p, config("k1")).Release() })
	}
	all.Wait()
	if got := server.Calls()["Connect"]; got != 1 {
		t.Errorf("connected %d times, want once", got)
	}
	other := config("k1")
	other.User = "tenant"
	if acquire(t, p, other).shared == acquire(t, p, config("k1")).shared {
		t.Error("two users share a connection")
	}
	d.wantClosed(t, 0)
	p.Close()
}

func TestOldConnectionIsClosedByItsLastUser(t *testing.T) {
	t.Parallel()
	p, d, _ := newPool()
	first, second := acquire(t, p, config("k1")), acquire(t, p, config("k1"))
	changed := acquire(t, p, config("k2"))
	if changed.shared == first.shared {
		t.Error("the changed key did not make a new connection")
	}
	first.Release()
	d.wantClosed(t, 0)
	if err := second.Health(); err != nil {
		t.Error(err)
	}
	second.Release()
	d.wantClosed(t, 1)
	changed.Release()
	moved := config("k2")
	moved.Monitors = []string{"10.77.0.2"}
	acquire(t, p, moved).Release()
	d.wantClosed(t, 2)
}

func TestFailedConnectionKeepsTheOldOne(t *testing.T) {
	t.Parallel()
	p, d, server := newPool()
	acquire(t, p, config("k1")).Release()
	server.SetKey("k1")
	if _, err := p.Acquire(config("wrong")); !errors.Is(err, unix.EACCES) {
		t.Errorf("got %v", err)
	}
	d.wantClosed(t, 0)
	acquire(t, p, config("k1")).Release()
	if got := server.Calls()["Connect"]; got != 2 {
		t.Errorf("connected %d times, want 2", got)
	}
}

func TestDiscardedConnectionIsMadeAgain(t *testing.T) {
	t.Parallel()
	p, d, _ := newPool()
	first, second := acquire(t, p, config("k1")), acquire(t, p, config("k1"))
	first.Discard()
	next := acquire(t, p, config("k1"))
	second.Discard() // the same connection: the new one stays
	first.Release()
	second.Release()
	d.wantClosed(t, 1)
	again := acquire(t, p, config("k1"))
	if next.shared == first.shared || again.shared != next.shared {
		t.Error("want one new connection")
	}
}

func TestWaitersGetTheErrorOfTheAttempt(t *testing.T) {
	t.Parallel()
	p, _, server := newPool()
	hang, entered := make(chan struct{}), make(chan struct{}, 9)
	server.Inject(fakeceph.Fault{Call: "Connect", Wait: hang, Entered: entered, Errno: unix.ETIMEDOUT, IsLast: true})
	results := make(chan error)
	get := func() { _, err := p.Acquire(config("k1")); results <- err }
	go get()
	<-entered
	for range 3 {
		go get()
	}
	close(hang)
	failed := 0
	for range 4 {
		if err := <-results; err != nil {
			failed++
		}
	}
	if got := server.Calls()["Connect"]; failed == 0 || got > 2 {
		t.Errorf("%d failed, connected %d times", failed, got)
	}
}

func TestCloseWaitsForUsers(t *testing.T) {
	t.Parallel()
	p, d, _ := newPool()
	used := acquire(t, p, config("k1"))
	other := config("k1")
	other.User = "tenant"
	acquire(t, p, other).Release()
	p.Close()
	d.wantClosed(t, 1)
	used.Release()
	d.wantClosed(t, 2)
	acquire(t, p, config("k3")).Release()
	d.wantClosed(t, 3)
}
