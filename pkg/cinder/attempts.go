package cinder

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

const (
	// lateGrace is how long after a request got no answer a proxy may
	// still carry it out. Proxies give up on a request after a minute or a few.
	lateGrace = 5 * time.Minute
	// maxAttemptAge is when an attempt that nobody repeats is dropped.
	maxAttemptAge = time.Hour
)

// attempt is what this process knows of the creation of one name: from its first
// request for the volume or snapshot until a call answers with it, or has seen that
// nothing of it is left.
type attempt struct {
	made    []string  // ids of the volumes that Cinder made for it
	lost    time.Time // when a request last got no answer; zero: each got one
	changed time.Time
}

// attempts are the creations that no call has answered yet, by name. They are not
// written down. After a restart no volume counts as made by this process, and so none
// is removed that somebody may have used. That a request may come late is forgotten:
// a volume that nobody knows then shows up in the listings, see duplicates, if its
// name has another, and a snapshot when its volume is to be deleted.
type attempts struct {
	mu sync.Mutex
	of map[string]attempt
}

// change applies f to the attempt of a name and drops those that are too old.
func (a *attempts) change(name string, f func(*attempt)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.of == nil {
		a.of = make(map[string]attempt)
	}
	maps.DeleteFunc(a.of, func(_ string, t attempt) bool { return time.Since(t.changed) > maxAttemptAge })
	t := a.of[name]
	f(&t)
	t.changed = time.Now()
	a.of[name] = t
}

// addMade records that Cinder has made a volume for the name.
func (a *attempts) addMade(name, id string) {
	a.change(name, func(t *attempt) { t.made = append(t.made, id) })
}

// dropMade records that a volume which was made for the name is gone.
func (a *attempts) dropMade(name, id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t, ok := a.of[name]; ok {
		t.made = slices.DeleteFunc(t.made, func(made string) bool { return made == id })
		a.of[name] = t
	}
}

// addLost records that a request for the name got no answer. undo takes that
// back, for a request whose volume was found after all.
func (a *attempts) addLost(name string) (undo func()) {
	var before time.Time
	a.change(name, func(t *attempt) { before, t.lost = t.lost, time.Now() })
	return func() { a.change(name, func(t *attempt) { t.lost = before }) }
}

// begun reports whether there is an attempt of the name.
func (a *attempts) begun(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.of[name]
	return ok
}

// hasMade reports whether this process had the volume made and no call has
// answered with it: nobody can have used it.
func (a *attempts) hasMade(name, id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.of[name]
	return time.Since(t.changed) < maxAttemptAge && slices.Contains(t.made, id)
}

// mayComeLate reports whether a request for the name may still be carried out.
func (a *attempts) mayComeLate(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	lost := a.of[name].lost
	return !lost.IsZero() && time.Since(lost) < lateGrace
}

// answer returns err as a call may answer it while nothing of the name is known: it is
// not final while a request may still be carried out. A final one ends the attempt.
func (a *attempts) answer(name string, err error) error {
	if a.mayComeLate(name) {
		return volume.NonFinal(err, "an earlier request got no answer and may still be carried out")
	}
	if err != nil && volume.KindOf(err).IsFinal() {
		a.end(name)
	}
	return err
}

// end forgets the attempt of a name.
func (a *attempts) end(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.of, name)
}
