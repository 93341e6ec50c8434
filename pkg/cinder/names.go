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
			x.CreatedAt.Compare(y.CreatedAt), cmp.Compare(x.ID, y.ID))
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

// lookup is what was seen of a name, and in which cloud.
type lookup struct {
	namesakes

	cloud *cloud.Cloud
	at    time.Time
}

// ids are those of all volumes that were seen.
func (l lookup) ids() []string {
	ids := slices.Clone(l.others)
	if l.found {
		ids = append(ids, l.best.ID)
	}
	for _, v := range l.failed {
		ids = append(ids, v.ID)
	}
	return ids
}

// cloudNamed is the name of the cloud that the request names, if any.
func cloudNamed(ctx context.Context, req volume.CreateRequest) string {
	return cmp.Or(volume.SecretsFrom(ctx)[secretCloud], req.Parameters[paramCloud])
}

// lookUp looks for the volumes of the request's name in the cloud where they
// would be made. When it cannot, that proves nothing, and so the error is not
// final. Only a class that names a cloud which is not configured gets one: nothing
// was made there.
func (b *Backend) lookUp(ctx context.Context, req volume.CreateRequest) (lookup, error) {
	name := cloudNamed(ctx, req)
	if name != "" && !slices.Contains(b.clouds.Names(), name) && !b.attempts.begun(req.Name) {
		_, err := b.clouds.Cloud(ctx, name)
		return lookup{}, err
	}
	l, err := b.lookUpIn(ctx, name, req)
	return l, volume.NonFinal(err, "whether Cinder has the volume cannot be told")
}

// lookUpIn is lookUp in the cloud of a name. Without a name it is the cloud of
// the source. A source that has gone since may have been in any.
func (b *Backend) lookUpIn(ctx context.Context, name string, req volume.CreateRequest) (lookup, error) {
	c, sure, err := b.cloudFor(ctx, name, req.Source)
	if err != nil {
		return lookup{}, err
	}
	n, err := b.named(ctx, c, req.Name)
	l := lookup{namesakes: n, cloud: c, at: time.Now()}
	if err != nil || sure || len(l.ids()) > 0 {
		return l, err
	}
	places, err := b.places(ctx)
	if err != nil {
		return l, err
	}
	for _, p := range places {
		if n, err = b.named(ctx, p, req.Name); err != nil || n.found || len(n.failed) > 0 {
			return lookup{namesakes: n, cloud: p, at: time.Now()}, err
		}
	}
	return l, nil
}

// cloudFor chooses the cloud of a new volume: the one named, or that of its
// source. It is not sure of the latter if the source was not found.
func (b *Backend) cloudFor(ctx context.Context, name string, source volume.Source) (c *cloud.Cloud, sure bool, err error) {
	id := cmp.Or(source.SnapshotID, source.VolumeID)
	if name != "" || id == "" {
		c, err = b.clouds.Cloud(ctx, name)
		return c, true, err
	}
	sure = b.home(ctx, id) != "" || len(b.clouds.Names()) < 2
	c, err = b.locate(ctx, id, func(ctx context.Context, c *cloud.Cloud) error {
		err := readSource(ctx, c, source)
		sure = sure || err == nil
		return err
	})
	return c, sure, err
}

// remember keeps what Find saw of a name for the creation that comes next, so
// that the cloud is asked once.
func (b *Backend) remember(ctx context.Context, req volume.CreateRequest, l lookup) {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.lookups, func(_ string, l lookup) bool { return time.Since(l.at) > lookupAge })
	b.lookups[cloudNamed(ctx, req)+"/"+req.Name] = l
}

// recentLookUp is lookUp, or what Find has just seen; that is used once.
func (b *Backend) recentLookUp(ctx context.Context, req volume.CreateRequest) (lookup, error) {
	key := cloudNamed(ctx, req) + "/" + req.Name
	b.mu.Lock()
	l, ok := b.lookups[key]
	delete(b.lookups, key)
	b.mu.Unlock()
	if ok && time.Since(l.at) <= lookupAge {
		return l, nil
	}
	return b.lookUp(ctx, req)
}

// marked reports whether a volume carries this cluster's metadata.
func (b *Backend) marked(v cloud.Volume) bool { return isOfCluster(v.Metadata, b.opts.ClusterID) }

// overwritten tells whether a volume's metadata are not its own: cinder-backup
// replaces them by those of the volume that the backup was taken of, which may
// be one of another cluster.
func overwritten(v cloud.Volume) bool {
	return cloud.BackupIDOf(v) != "" && v.Metadata[metaVolume] != v.Name
}

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
	l, err := b.lookUp(ctx, req)
	if err != nil {
		return volume.Volume{}, false, err
	}
	b.remember(ctx, req, l)
	if !l.found {
		return volume.Volume{}, false, nil
	}
	b.settle(l.best.ID, l.cloud.Name())
	v := b.volume(l.best)
	if overwritten(l.best) {
		v.Encrypted = req.Encrypted // not known; the creation that follows writes it
	}
	return v, true, nil
}
