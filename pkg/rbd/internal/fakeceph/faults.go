package fakeceph

import (
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// This file holds the faults that tests inject, and the count of calls. A call is named after the
// type and the method of package ceph: "Cluster.PoolUsage", "Pool.Create", "Image.Grow";
// "Connect" is Dialer.Connect.

// Fault changes calls. Several faults may match one call.
type Fault struct {
	Call   string // empty: every call
	Nth    int    // the first call that it changes, counted from 1 (0 is 1) since Inject
	IsLast bool   // it changes no call after the nth; otherwise it changes each of them

	Errno unix.Errno // the answer; zero: that of the call
	// IsLate: the call takes effect, and Errno replaces its answer, as when an answer is lost.
	IsLate bool
	// Steps, unless zero: the call stops after that many of its steps, and Errno is its answer, as
	// when its program is killed in the middle. Calls of librbd with several steps are Pool.Create,
	// Pool.Clone, Pool.Rename and Pool.Remove; others have one.
	Steps int
	// IsFencing: the client of the call is fenced before it.
	IsFencing bool
	// Wait, unless nil: the call waits until the channel is closed. Entered, unless nil, gets a
	// value at the beginning of the wait.
	Wait    <-chan struct{}
	Entered chan<- struct{}
	// Do, unless nil, runs before the call, such as what another client does meanwhile. It must
	// not make a call that matches the fault.
	Do func()

	seen int
}

// Inject adds a fault.
func (s *Server) Inject(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.Nth = max(f.Nth, 1)
	s.faults = append(s.faults, &f)
}

// ClearFaults removes all faults.
func (s *Server) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// Calls returns how often each call was made since ResetCalls.
func (s *Server) Calls() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.calls)
}

// CountCalls returns how many calls were made since ResetCalls.
func (s *Server) CountCalls() int {
	sum := 0
	for _, n := range s.Calls() {
		sum += n
	}
	return sum
}

// Steps returns how many steps each call had since ResetCalls, in the order of the calls.
func (s *Server) Steps() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.steps)
}

// ResetCalls sets the counts to zero.
func (s *Server) ResetCalls() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.calls)
	s.steps = nil
}

// enter counts a call and returns the faults that change it.
func (s *Server) enter(name string, steps int) []*Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[name]++
	s.steps = append(s.steps, steps)
	var out []*Fault
	for _, f := range s.faults {
		if f.Call != "" && f.Call != name {
			continue
		}
		f.seen++
		if f.seen == f.Nth || f.seen > f.Nth && !f.IsLast {
			out = append(out, f)
		}
	}
	return out
}

// call runs one call of a client. writes is the pool that the call writes to, nil for none. The
// steps are those between which a program can be killed.
func (c *client) call(name string, writes *pool, steps ...func() error) error {
	faults := c.server.enter(name, len(steps))
	for _, fault := range faults {
		fault.wait()
	}
	s := c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, fault := range faults {
		if fault.IsFencing {
			c.isFenced = true
		}
		if fault.Errno != 0 && !fault.IsLate && fault.Steps == 0 {
			return fmt.Errorf("%s: %w", name, fault.Errno)
		}
	}
	if err := c.check(writes); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, fault := range faults {
		if fault.Steps > 0 {
			steps = steps[:min(len(steps), fault.Steps)]
		}
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, fault := range faults {
		if fault.Errno != 0 {
			return fmt.Errorf("%s: %w", name, fault.Errno)
		}
	}
	return nil
}

func (f *Fault) wait() {
	if f.Wait != nil {
		if f.Entered != nil {
			f.Entered <- struct{}{}
		}
		<-f.Wait
	}
	if f.Do != nil {
		f.Do()
	}
}

// check returns why the client cannot make a call.
func (c *client) check(writes *pool) error {
	switch {
	case c.isClosed:
		return unix.ENOTCONN
	case c.isFenced:
		return unix.ESHUTDOWN
	case c.server.isPaused, writes != nil && writes.isFull:
		return unix.ETIMEDOUT
	}
	return nil
}
