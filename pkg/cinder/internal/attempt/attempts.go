// Package attempt knows the creations of volumes and snapshots that have begun and that no
// call has answered yet: which objects Cinder made for a name, and whether a request without
// an answer may still be carried out. It decides by that whether an error may be final. It
// makes no requests.
package attempt

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// attempt is what this process knows of the creation of one name, from its first request until
// a call returns the object or has seen that nothing of it exists.
type attempt struct {
	made    []string  // ids of the objects that Cinder made for it
	lost    time.Time // when a request last got no answer; zero: each got one
	changed time.Time
}

// Attempts are the creations that no call has answered yet, by name. The zero value is ready to
// use. They are not persistent: after a restart no object counts as made by this process, so the
// process removes none that a pod may have used. It also forgets that a request may be carried
// out late. A volume that results from such a request appears in the listings as a duplicate (see
// package duplicates), and a snapshot appears when its volume is to be deleted.
type Attempts struct {
	mu     sync.Mutex
	byName map[string]attempt
}

const (
	// lateGrace is how long after a request without an answer a proxy may still carry it out.
	// Proxies give up a request after a minute or a few.
	lateGrace = 5 * time.Minute
	// maxAge is the age at which an attempt that no call repeats is dropped.
	maxAge = time.Hour
)

// change applies f to the attempt of a name and drops those that are too old.
func (a *Attempts) change(name string, f func(*attempt)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byName == nil {
		a.byName = make(map[string]attempt)
	}
	maps.DeleteFunc(a.byName, func(_ string, t attempt) bool { return time.Since(t.changed) > maxAge })
	t := a.byName[name]
	f(&t)
	t.changed = time.Now()
	a.byName[name] = t
}

// AddMade records that Cinder has made an object for the name.
func (a *Attempts) AddMade(name, id string) {
	a.change(name, func(t *attempt) { t.made = append(t.made, id) })
}

// RemoveMade records that an object which was made for the name is gone.
func (a *Attempts) RemoveMade(name, id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t, ok := a.byName[name]; ok {
		t.made = slices.DeleteFunc(t.made, func(made string) bool { return made == id })
		a.byName[name] = t
	}
}

// AddLost records that a request for the name got no answer. undo takes that back, for a request
// whose object was found after all.
func (a *Attempts) AddLost(name string) (undo func()) {
	var before time.Time
	a.change(name, func(t *attempt) { before, t.lost = t.lost, time.Now() })
	return func() { a.change(name, func(t *attempt) { t.lost = before }) }
}

// Has reports whether there is an attempt of the name.
func (a *Attempts) Has(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.byName[name]
	return ok
}

// HasMade reports whether Cinder made the object for this process and no call has returned it:
// nobody can have used it.
func (a *Attempts) HasMade(name, id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.byName[name]
	return time.Since(t.changed) < maxAge && slices.Contains(t.made, id)
}

// Answer returns err as a call may return it while nothing of the name is known to exist: not as
// a final error while a request may still be carried out. A final error ends the attempt.
func (a *Attempts) Answer(name string, err error) error {
	a.mu.Lock()
	lost := a.byName[name].lost
	a.mu.Unlock()
	if !lost.IsZero() && time.Since(lost) < lateGrace {
		return volume.NonFinal(err, "an earlier request got no answer and may still be carried out")
	}
	if err != nil && volume.KindOf(err).IsFinal() {
		a.End(name)
	}
	return err
}

// End forgets the attempt of a name.
func (a *Attempts) End(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.byName, name)
}
