// Package locate finds out which of the configured clouds an object is in. CSI ids do not say
// so: a request may name the cloud (secret "cloud"), else the Locator asks each cloud and
// remembers the answer. With one cloud there is nothing to find out.
package locate

import (
	"cmp"
	"context"
	"sync"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/poll"
	"github.com/growvol/growvol/pkg/volume"
)

// Locator knows the clouds of volumes, snapshots and backups. New makes one.
type Locator struct {
	clouds *cloud.Clouds

	mu    sync.Mutex
	homes map[string]string // name of the cloud by id of the object
}

// New returns a Locator that has found nothing yet.
func New(clouds *cloud.Clouds) *Locator {
	return &Locator{clouds: clouds, homes: make(map[string]string)}
}

// RequestedName returns the name of the cloud that the request's secrets name, or "".
func RequestedName(ctx context.Context) string { return volume.SecretsFrom(ctx)[secretCloud] }

// secretCloud is the key of the request's secrets that names the cloud, as in
// cinder-csi-plugin.
const secretCloud = "cloud"

// Volume returns the cloud of a volume. A volume that no cloud has counts as one of the default
// cloud, so that the caller gets the answer of that cloud.
func (l *Locator) Volume(ctx context.Context, id string) (*cloud.Cloud, error) {
	return l.Find(ctx, id, func(ctx context.Context, c *cloud.Cloud) error {
		_, err := c.Volume(ctx, id)
		return err
	})
}

// Find returns the cloud of an object: the one that the request names, the one where it was
// found before, or the only one. Otherwise it calls read for each cloud, the default first;
// read returns an error of kind NotFound if the object is not there. If no cloud has the object,
// Find returns the first cloud, or the error of a cloud that could not be asked: the object may
// be in that one. Each cloud gets only a share of the remaining time, so that one that does not
// answer leaves time for the others.
func (l *Locator) Find(
	ctx context.Context, id string, read func(context.Context, *cloud.Cloud) error,
) (*cloud.Cloud, error) {
	if home, known := l.Home(ctx, id); known {
		return l.clouds.Cloud(ctx, home)
	}
	var first *cloud.Cloud
	var unknown error // of the first cloud that could not be asked
	seen := make(map[string]bool)
	for _, name := range l.clouds.Names() {
		limited, cancel := poll.WithShare(ctx)
		c, err := l.clouds.Cloud(limited, name)
		if err == nil {
			if seen[c.ProjectKey()] {
				cancel()
				continue
			}
			seen[c.ProjectKey()] = true
			first = cmp.Or(first, c)
			err = read(limited, c)
		}
		cancel()
		if volume.IsKind(err, volume.KindDeadline) && ctx.Err() == nil {
			err = volume.Errorf(volume.KindUnavailable,
				"the cloud %q does not answer, but the object may be there: %w", name, err)
		}
		switch {
		case err == nil:
			l.Remember(id, name)
			return c, nil
		case !volume.IsKind(err, volume.KindNotFound) && unknown == nil:
			unknown = err
		}
	}
	return first, unknown
}

// Requested returns the clouds that a listing is of: the one that the request names, else All.
func (l *Locator) Requested(ctx context.Context) ([]*cloud.Cloud, error) {
	name := RequestedName(ctx)
	if name == "" {
		return l.All(ctx)
	}
	c, err := l.clouds.Cloud(ctx, name)
	return []*cloud.Cloud{c}, err
}

// All connects to all usable clouds and returns one for each project, that of the default cloud
// first. It leaves out a cloud whose description was incomplete from the start, which can have no
// object of this driver. It fails if another does not answer.
func (l *Locator) All(ctx context.Context) ([]*cloud.Cloud, error) {
	ctx, cancel := poll.WithAnswerMargin(ctx)
	defer cancel()
	var clouds []*cloud.Cloud
	seen := make(map[string]bool)
	for i, name := range l.clouds.Names() {
		if i > 0 && !l.clouds.IsUsable(name) {
			continue // logged when the configuration was read
		}
		c, err := l.clouds.Cloud(ctx, name)
		if err != nil {
			return nil, err
		}
		if !seen[c.ProjectKey()] {
			seen[c.ProjectKey()] = true
			clouds = append(clouds, c)
		}
	}
	return clouds, nil
}

// Home returns the name of an object's cloud ("": the default), and reports whether it is known.
func (l *Locator) Home(ctx context.Context, id string) (name string, known bool) {
	if name = RequestedName(ctx); name == "" {
		l.mu.Lock()
		name = l.homes[id]
		l.mu.Unlock()
	}
	return name, name != "" || len(l.clouds.Names()) < 2
}

// Remember records the cloud that an object is in.
func (l *Locator) Remember(id, name string) {
	if len(l.clouds.Names()) < 2 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.homes[id] = name
}

// Forget drops what is known of an object that is gone.
func (l *Locator) Forget(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.homes, id)
}
