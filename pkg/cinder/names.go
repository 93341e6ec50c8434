package cinder

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// namesakes are the volumes of one name that count for this cluster. Cinder's
// names are not unique, not even within a project that several clusters share.
type namesakes struct {
	best   cloud.Volume   // the usable one, or the one that becomes usable
	found  bool           // there is one
	others []string       // further ones, which should not be
	failed []cloud.Volume // what creations that failed have left; ours to remove
}

// named looks for the volumes of a name. Those with the metadata of another
// cluster are left alone. One without a cluster counts: cinder-csi-plugin takes
// any volume of the name, and its early releases wrote no cluster. So does one
// whose metadata came out of a backup. But only what bears the mark of this
// cluster is ever removed. What is being deleted, or cannot be, is as good as
// gone.
func (b *Backend) named(ctx context.Context, c *cloud.Cloud, name string) (namesakes, error) {
	vs, err := c.VolumesNamed(ctx, name)
	if err != nil {
		return namesakes{}, err
	}
	var n namesakes
	var candidates []cloud.Volume
	for _, v := range vs {
		cluster := v.Metadata[metaCluster]
		switch {
		case cluster != "" && cluster != b.opts.ClusterID && !overwritten(v):
		case v.Status == stateDeleting, v.Status == stateErrorDeleting:
		case unmade(v) && b.marked(v):
			n.failed = append(n.failed, v)
		default:
			candidates = append(candidates, v)
		}
	}
	if len(candidates) == 0 {
		return n, nil
	}
	slices.SortFunc(candidates, func(x, y cloud.Volume) int {
		return cmp.Or(
			cmp.Compare(no(b.marked(x)), no(b.marked(y))), cmp.Compare(no(!failed(x)), no(!failed(y))),
			x.Created.Compare(y.Created), cmp.Compare(x.ID, y.ID))
	})
	n.best, n.found = candidates[0], true
	for _, v := range candidates[1:] {
		n.others = append(n.others, v.ID)
	}
	if len(n.others) > 0 {
		b.log.WarnContext(ctx, "several volumes have one name; the oldest usable one is taken", "name", name, "volume", n.best.ID, "others", n.others,
			"remedy", "delete the others, if they hold nothing of worth")
	}
	return n, nil
}

// lookupAge is for how long the creation that follows a lookup relies on it.
// The caller holds the name's lock in between.
const lookupAge = time.Second

// lookup is what Find has seen.
type lookup struct {
	seen namesakes
	at   time.Time
}

// remember keeps what Find saw of a name for the creation that comes next, so
// that the cloud is asked once.
func (b *Backend) remember(c *cloud.Cloud, name string, n namesakes) {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.lookups, func(_ string, l lookup) bool { return time.Since(l.at) > lookupAge })
	b.lookups[c.Name()+"/"+name] = lookup{n, time.Now()}
}

// namedLately is named, or what Find has just seen; that is used once.
func (b *Backend) namedLately(ctx context.Context, c *cloud.Cloud, name string) (namesakes, error) {
	key := c.Name() + "/" + name
	b.mu.Lock()
	l, ok := b.lookups[key]
	delete(b.lookups, key)
	b.mu.Unlock()
	if ok && time.Since(l.at) <= lookupAge {
		return l.seen, nil
	}
	return b.named(ctx, c, name)
}

// marked tells whether a volume bears the mark of this cluster.
func (b *Backend) marked(v cloud.Volume) bool {
	cluster, ok := v.Metadata[metaCluster]
	return ok && cluster == b.opts.ClusterID
}

// overwritten tells whether a volume's metadata are not its own: cinder-backup
// replaces them by those of the volume that the backup was taken of, which may
// be one of another cluster.
func overwritten(v cloud.Volume) bool { return v.BackupID != "" && v.Metadata[metaVolume] != v.Name }

// unmade tells whether a volume is what a failed creation leaves.
func unmade(v cloud.Volume) bool {
	return (v.Status == stateError || v.Status == stateErrorRestoring) && len(v.Attachments) == 0
}

// no orders what holds before what does not.
func no(holds bool) int {
	if holds {
		return 0
	}
	return 1
}

// Find implements volume.Backend. What a failed creation has left is not found:
// it never becomes usable, and the next creation removes it.
func (b *Backend) Find(ctx context.Context, req volume.CreateRequest) (volume.Volume, bool, error) {
	v, found, err := b.find(ctx, req)
	return v, found, volume.Wrap(err, "look for volume", req.Name)
}

func (b *Backend) find(ctx context.Context, req volume.CreateRequest) (volume.Volume, bool, error) {
	want, err := b.parameters(req.Parameters)
	if err != nil {
		return volume.Volume{}, false, err
	}
	c, err := b.cloudFor(ctx, want, req.Source)
	if err != nil {
		return volume.Volume{}, false, undecided(err)
	}
	n, err := b.named(ctx, c, req.Name)
	if err != nil {
		return volume.Volume{}, false, undecided(err)
	}
	b.remember(c, req.Name, n)
	if !n.found {
		return volume.Volume{}, false, nil
	}
	b.settle(n.best.ID, c.Name())
	v := b.volume(n.best)
	if overwritten(n.best) {
		v.Encrypted = req.Encrypted // not known; the creation that follows writes it
	}
	return v, true, nil
}
