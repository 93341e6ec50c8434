// Package attempt records the unfinished attempts to create volumes and snapshots: which objects
// Cinder made for a name, and whether Cinder may still carry out a request whose response was lost.
// Attempts.Answer decides whether an error may be final. The package makes no requests.
package attempt

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// attempt is what this process knows about the creation of an object of one name, from the first
// request until a call returns the object or a final error.
type attempt struct {
	made    []string  // ids of the objects that Cinder made for the name
	lost    time.Time // when a response was last lost; zero: none was
	changed time.Time
}

// Attempts lists the unfinished attempts by name. The zero value is ready to use. The list is not
// persistent: after a restart no object counts as made by this process, so the process removes no
// object that may have been used. The process also forgets lost responses: a volume that Cinder
// then creates late is reported as a duplicate (package duplicates), and a snapshot is reported
// when the deletion of its volume fails.
type Attempts struct {
	mu     sync.Mutex
	byName map[string]attempt
}

const (
	// lateGrace is how long after its response was lost a request may still be carried out. Proxies
	// give up a request after a few minutes.
	lateGrace = 5 * time.Minute
	// maxAge is the age since its last change at which an attempt is dropped.
	maxAge = time.Hour
)

// change applies f to the attempt of a name, and drops attempts older than maxAge.
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

// RemoveMade records that an object that Cinder made for the name is gone.
func (a *Attempts) RemoveMade(name, id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t, ok := a.byName[name]; ok {
		t.made = slices.DeleteFunc(t.made, func(made string) bool { return made == id })
		a.byName[name] = t
	}
}

// AddLost records that the response to a request for the name was lost. undo removes the record;
// call it when the object of the request is found.
func (a *Attempts) AddLost(name string) (undo func()) {
	var before time.Time
	a.change(name, func(t *attempt) { before, t.lost = t.lost, time.Now() })
	return func() { a.change(name, func(t *attempt) { t.lost = before }) }
}

// Has reports whether the list has an attempt of the name.
func (a *Attempts) Has(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.byName[name]
	return ok
}

// HasMade reports whether Cinder made the object for this process and no call has returned it: then
// no pod can have used it.
func (a *Attempts) HasMade(name, id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.byName[name]
	return time.Since(t.changed) < maxAge && slices.Contains(t.made, id)
}

// Answer returns err in the form in which a call may return it if no object of the name is known to
// exist: as a non-final error while a request may still be carried out. Otherwise a final error
// ends the attempt.
func (a *Attempts) Answer(name string, err error) error {
	a.mu.Lock()
	lost := a.byName[name].lost
	a.mu.Unlock()
	if !lost.IsZero() && time.Since(lost) < lateGrace {
		return volume.NonFinal(err, "the response to an earlier request was lost, and the request may still be carried out")
	}
	if err != nil && volume.KindOf(err).IsFinal() {
		a.End(name)
	}
	return err
}

// End removes the attempt of a name.
func (a *Attempts) End(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.byName, name)
}
