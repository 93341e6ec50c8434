package fakecloud

import "time"

// runAfter starts the work that a service does after its answer: it runs f after d, with c.mu held.
// Close discards work that has not run. The caller holds c.mu.
func (c *Cloud) runAfter(d time.Duration, f func()) {
	if c.closed {
		return
	}
	c.running.Go(func() {
		if !c.sleep(d) {
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.closed {
			f()
		}
	})
}

// runWork runs f after the work time of the call. Work that a fault leaves stuck runs when Release
// is called with id. The caller holds c.mu.
func (c *Cloud) runWork(x *exchange, id string, f func()) {
	if x.plan.outcome == outcomeStuck || x.plan.outcome == outcomeReserved {
		c.stuckWork[id] = append(c.stuckWork[id], f)
		return
	}
	c.runAfter(c.drawWorkTime(x.route.call)+x.plan.extraWorkTime, f)
}

// Release runs the work that a fault has left stuck on a volume, snapshot, backup or server, as if
// there were no fault. It reports whether there was such work.
func (c *Cloud) Release(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	work := c.stuckWork[id]
	delete(c.stuckWork, id)
	for _, f := range work {
		f()
	}
	return len(work) > 0
}

// waitWhileHanging returns when the request no longer hangs. It reports whether the cloud still
// runs.
func (c *Cloud) waitWhileHanging(x *exchange) bool {
	if !x.plan.hangs {
		return true
	}
	select {
	case <-x.plan.resumed:
		return true
	case <-c.done:
		return false
	}
}

// sleep waits for d. It reports whether the cloud still runs.
func (c *Cloud) sleep(d time.Duration) bool {
	if d <= 0 {
		select {
		case <-c.done:
			return false
		default:
			return true
		}
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.done:
		return false
	}
}
