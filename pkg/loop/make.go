package loop

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/growvol/growvol/pkg/operation"
)

// makeLimit bounds the making of one object. A copy of a terabyte takes that
// long on a disk of 300 MB/s.
const makeLimit = time.Hour

// make makes an object in the time that it takes. The callers of CSI give a
// call some ten seconds, in which no large volume is copied; the work goes on
// after that, with the locks of the lease (the source's, so that it neither
// changes nor vanishes meanwhile) and that of the object's place in pending,
// for which the next call waits. If the process ends in the middle, New
// removes the half. Kind Deadline: it is still being made.
func (b *Backend) make(ctx context.Context, l *operation.Lease, o object, fill func(ctx context.Context, data *os.File) error) error {
	place := b.store.pending(o.id)
	unlock, err := b.store.claim(ctx, place)
	if err != nil {
		return spaceError(err, o.size)
	}
	l.Add(unlock)
	if err := b.late.take(o.id); err != nil {
		return errors.Join(fmt.Errorf("the earlier attempt, which went on after its call: %w", err), b.store.disk.removeAll(place))
	}
	release, err := b.reserve(o.id, o.size)
	if err != nil {
		return errors.Join(err, b.store.disk.removeAll(place))
	}
	l.Add(release)
	_, err = operation.RunDetached(ctx, l, "making the "+o.class.word()+" "+o.id, func() (struct{}, error) {
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), cmp.Or(b.makeLimit, makeLimit))
		defer cancel()
		err := spaceError(b.store.build(o.class, o.id, o.record, func(data *os.File) error { return fill(limited, data) }), o.size)
		if err != nil && ctx.Err() != nil && !errors.Is(err, errExists) {
			b.log.WarnContext(ctx, "could not make what outlived its call", o.class.word(), o.id, "error", err)
			b.late.put(o.id, err)
		}
		return struct{}{}, err
	})
	return err
}

// failures are the errors of work whose caller had gone, by object. The next
// call gets them: otherwise a copy that runs into a full disk after a minute
// would start over for ever, and nobody would learn why.
type failures struct {
	mu sync.Mutex
	of map[string]error
}

func (f *failures) put(id string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.of == nil {
		f.of = make(map[string]error)
	}
	f.of[id] = err
}

// take returns the failure, once.
func (f *failures) take(id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.of[id]
	delete(f.of, id)
	return err
}
