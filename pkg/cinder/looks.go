package cinder

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// look reads the volumes of the waits that are due. Only waits that had come
// before a reading was asked for get it: an older one could show the state
// from before their request.
func (p *poller) look(ctx context.Context, due, all []*wait) {
	ids := byID(due)
	if len(ids) < severalVolume {
		p.ease(0, p.single(ctx, ids))
		p.after(due)
		return
	}
	onPage, ok := p.page(ctx, due, all)
	if !ok {
		return // all stay due; ease has set when they are looked after next
	}
	// What has not changed for long is on no first page, and neither is what has
	// gone. A few of these are read at each tick, in turn.
	var looked []*wait
	missing := make(map[string][]*wait)
	for _, w := range due {
		if !onPage[w.id] && (missing[w.id] != nil || len(missing) < singlesATick) {
			missing[w.id] = append(missing[w.id], w)
			looked = append(looked, w)
		}
	}
	if failing := len(missing) > 0 && p.single(ctx, missing); failing {
		p.ease(0, true)
	}
	for _, w := range all {
		if onPage[w.id] {
			looked = append(looked, w)
		}
	}
	p.after(looked)
}

// page reads the volumes that changed last and hands them to all who wait for
// one of them. It returns the ids that were on the page.
func (p *poller) page(ctx context.Context, due, all []*wait) (onPage map[string]bool, ok bool) {
	bounded, cancel := context.WithTimeout(ctx, p.patience())
	defer cancel()
	began := time.Now()
	vs, _, err := p.api.Volumes(bounded, cloud.VolumePage{Limit: min(2*len(all)+8, largestPage), NewestChangeFirst: true})
	if ctx.Err() != nil {
		return nil, false // nobody waits any more
	}
	p.ease(time.Since(began), err != nil)
	if err != nil {
		p.log.DebugContext(ctx, "could not list what is waited for", "error", err)
		if transient(err) {
			for _, w := range due {
				w.put(reading{err: err, at: began})
			}
			return nil, false
		}
		return nil, true // this cloud cannot list so; the volumes are read one by one
	}
	waiting := byID(all)
	onPage = make(map[string]bool, len(waiting))
	for _, v := range vs {
		for _, w := range waiting[v.ID] {
			w.put(reading{volume: v, at: began})
			onPage[v.ID] = true
		}
	}
	return onPage, true
}

// single reads volumes one by one, a few at a time. It tells whether the cloud
// fails to answer. A reading that takes long goes on by itself: it must not hold
// up those who wait for other volumes.
func (p *poller) single(ctx context.Context, ids map[string][]*wait) (failing bool) {
	turns := make(chan struct{}, singlesATick/2)
	results := make(chan error, len(ids))
	straggling := time.NewTimer(straggle)
	defer straggling.Stop()
	begun := 0
	for id, waits := range ids {
		select {
		case turns <- struct{}{}:
		case <-straggling.C:
			return false // the rest comes with the next look
		}
		if !p.begin(id) { // the last reading of it is still under way
			<-turns
			continue
		}
		begun++
		go func() {
			err := p.read(ctx, id, waits)
			p.end(id)
			<-turns
			results <- err
		}()
	}
	for range begun {
		select {
		case err := <-results:
			failing = failing || transient(err)
		case <-straggling.C:
			return failing
		}
	}
	return failing
}

// read reads one volume for those who wait for it.
func (p *poller) read(ctx context.Context, id string, waits []*wait) error {
	bounded, cancel := context.WithTimeout(ctx, longestLook)
	defer cancel()
	r := reading{at: time.Now()}
	r.volume, r.err = p.api.Volume(bounded, id)
	if ctx.Err() != nil {
		return nil // nobody waits any more
	}
	if transient(r.err) {
		p.log.DebugContext(ctx, "could not read a volume that is waited for", "volume", id, "error", r.err)
		if time.Since(r.at) >= straggle {
			p.ease(0, true) // nobody else tells the poller
		}
	}
	for _, w := range waits {
		w.put(r)
	}
	return r.err
}

// begin takes note that a volume is being read; false: it is already.
func (p *poller) begin(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.underWay[id] {
		return false
	}
	p.underWay[id] = true
	return true
}

func (p *poller) end(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.underWay, id)
}

// transient tells whether looking again can help: the cloud did not answer, or
// not in the time that a look is given.
func transient(err error) bool {
	return volume.IsKind(err, volume.KindUnavailable) || volume.IsKind(err, volume.KindDeadline)
}

func byID(waits []*wait) map[string][]*wait {
	ids := make(map[string][]*wait, len(waits))
	for _, w := range waits {
		ids[w.id] = append(ids[w.id], w)
	}
	return ids
}

func sortByNext(waits []*wait) {
	slices.SortFunc(waits, func(a, b *wait) int { return cmp.Compare(a.next.UnixNano(), b.next.UnixNano()) })
}
