// Package locate finds the cloud that has an object, if several clouds are configured: CSI ids do
// not contain the cloud. A request may name the cloud (secret "cloud"); otherwise a Locator asks
// each cloud and remembers the result. Begin with Locator.Volume and Locator.Find.
package locate

import (
	"cmp"
	"context"
	"sync"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/poll"
	"github.com/growvol/growvol/pkg/volume"
)

// Locator finds the clouds of volumes, snapshots and backups. New makes one.
type Locator struct {
	clouds *cloud.Clouds
	homes  sync.Map // cloud name (string) by object id
}

// New returns a Locator for clouds.
func New(clouds *cloud.Clouds) *Locator { return &Locator{clouds: clouds} }

// RequestedName returns the name of the cloud that the request's secrets name (key "cloud", as in
// cinder-csi-plugin), or "".
func RequestedName(ctx context.Context) string { return volume.SecretsFrom(ctx)["cloud"] }

// Volume returns the cloud of a volume; if no cloud has the volume, the default cloud.
func (l *Locator) Volume(ctx context.Context, id string) (*cloud.Cloud, error) {
	return l.Find(ctx, id, func(ctx context.Context, c *cloud.Cloud) error {
		_, err := c.Volume(ctx, id)
		return err
	})
}

// Find returns the cloud of an object: the one that the request names, the one where Find found the
// object before, or the only one. Otherwise it calls read for one cloud after the other, the
// default first; read returns an error of kind NotFound if the cloud does not have the object. If
// all clouds lack the object, Find returns the first cloud. If read fails otherwise for a cloud,
// and no other cloud has the object, Find returns that error: the object may be in that cloud. Each
// cloud gets only a share of the remaining time, so that time is left for the others.
func (l *Locator) Find(
	ctx context.Context, id string, read func(context.Context, *cloud.Cloud) error,
) (*cloud.Cloud, error) {
	if home, known := l.Home(ctx, id); known {
		return l.clouds.Cloud(ctx, home)
	}
	var first *cloud.Cloud
	var unknown error // of the first cloud for which read failed
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
				"cloud %q does not answer, but the object may be there: %w", name, err)
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

// Requested returns the clouds to list: the one that the request names, else All.
func (l *Locator) Requested(ctx context.Context) ([]*cloud.Cloud, error) {
	name := RequestedName(ctx)
	if name == "" {
		return l.All(ctx)
	}
	c, err := l.clouds.Cloud(ctx, name)
	return []*cloud.Cloud{c}, err
}

// All connects to all usable clouds and returns one for each project, the default cloud first. It
// omits clouds whose configuration is not usable (Clouds.IsUsable). It fails if one of the others
// does not answer.
func (l *Locator) All(ctx context.Context) ([]*cloud.Cloud, error) {
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

// Home returns the name of an object's cloud ("": the default), and reports whether the cloud is
// known.
func (l *Locator) Home(ctx context.Context, id string) (name string, known bool) {
	if name = RequestedName(ctx); name == "" {
		home, _ := l.homes.Load(id)
		name, _ = home.(string)
	}
	return name, name != "" || len(l.clouds.Names()) < 2
}

// Remember records the cloud of an object.
func (l *Locator) Remember(id, name string) {
	if len(l.clouds.Names()) > 1 {
		l.homes.Store(id, name)
	}
}

// Forget drops the cloud of an object that is gone.
func (l *Locator) Forget(id string) { l.homes.Delete(id) }
