package fakeceph

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/tests/must"
)

// This file tests what only the fake has: faults, mappings and the view of an administrator.

func connect(t *testing.T, s *Server) (ceph.Cluster, ceph.Pool) {
	t.Helper()
	return connectTo(t, s, "rbd")
}

func connectTo(t *testing.T, s *Server, poolName string) (ceph.Cluster, ceph.Pool) {
	t.Helper()
	c, err := Dialer{"a": s}.Connect(cluster.Cluster{ID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	pool, err := c.Pool(poolName, "")
	if err != nil {
		t.Fatal(err)
	}
	return c, pool
}

func wantErrno(t *testing.T, err error, want unix.Errno) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got the error %v, want %v", err, want)
	}
}

func TestMappedImageIsInUse(t *testing.T) {
	s := New("f", "rbd")
	c, pool := connect(t, s)
	features := []string{"layering", "exclusive-lock", "object-map"} // the map needs the lock
	must.Succeed(t, pool.Create("a", 1<<30, ceph.ImageOptions{Features: features}))
	m := s.Map("rbd", "", "a", MapOptions{Exclusive: true})
	wantErrno(t, pool.Remove("a"), unix.EBUSY)
	im, err := pool.Open("a", false)
	if err != nil {
		t.Fatal(err)
	}
	wantErrno(t, im.Grow(2<<30), unix.EROFS)
	watchers, err := im.Watchers()
	if err != nil || len(watchers) != 1 || watchers[0].Address != m.Address {
		t.Errorf("got the watchers %v (%v), want %s", watchers, err, m.Address)
	}
	must.Succeed(t, c.Fence(m.Address, 1<<40))
	m.Lose()
	must.Succeed(t, im.Grow(2<<30))
	must.Succeed(t, im.Close())
	m.Unmap()
	if !m.IsFenced() || m.Size() != 2<<30 {
		t.Errorf("fenced %t, size %d", m.IsFenced(), m.Size())
	}
	must.Succeed(t, pool.Remove("a"))
}

func TestFaults(t *testing.T) {
	s := New("f", "rbd")
	_, pool := connect(t, s)
	s.Inject(Fault{Call: "Pool.Create", Nth: 2, IsLast: true, Errno: unix.EIO})
	s.Inject(Fault{Call: "Pool.Create", Nth: 3, Errno: unix.ETIMEDOUT, IsLate: true})
	must.Succeed(t, pool.Create("a", 1, ceph.ImageOptions{}))
	wantErrno(t, pool.Create("b", 1, ceph.ImageOptions{}), unix.EIO)
	wantErrno(t, pool.Create("c", 1, ceph.ImageOptions{}), unix.ETIMEDOUT)
	s.ClearFaults()
	wantErrno(t, pool.Create("c", 1, ceph.ImageOptions{}), unix.EEXIST)
	must.Succeed(t, pool.Create("b", 1, ceph.ImageOptions{}))
	if n := s.Calls()["Pool.Create"]; n != 5 {
		t.Errorf("counted %d calls, want 5", n)
	}
	release, entered := make(chan struct{}), make(chan struct{})
	s.Inject(Fault{Call: "Pool.Remove", Wait: release, Entered: entered})
	done := make(chan error)
	go func() { done <- pool.Remove("a") }()
	<-entered
	if _, err := pool.ImageID("a"); err != nil {
		t.Errorf("the image is gone before its removal was released: %v", err)
	}
	close(release)
	must.Succeed(t, <-done)
	s.Inject(Fault{Call: "Pool.Remove", IsFencing: true, IsLast: true})
	s.ClearFaults()
	s.SetFull("rbd", "full_quota")
	wantErrno(t, pool.Remove("b"), unix.ETIMEDOUT)
	s.SetFull("rbd")
	s.Inject(Fault{Call: "Pool.Remove", IsFencing: true, IsLast: true})
	wantErrno(t, pool.Remove("b"), unix.ESHUTDOWN)
	_, err := pool.List()
	wantErrno(t, err, unix.ESHUTDOWN)
}
