package cinder

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/class"
	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/locate"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
)

// Find implements volume.Backend. It skips volumes left behind by a failed creation: they never
// become usable, and the next creation removes them.
func (b *Backend) Find(ctx context.Context, req volume.CreateRequest) (volume.Volume, bool, error) {
	v, found, err := b.find(ctx, req)
	return v, found, volume.Wrap(err, "look for volume", req.Name)
}

func (b *Backend) find(ctx context.Context, req volume.CreateRequest) (volume.Volume, bool, error) {
	l, err := b.lookUp(ctx, req)
	if err != nil {
		return volume.Volume{}, false, err
	}
	b.rememberLookup(ctx, req, l)
	if !l.found {
		return volume.Volume{}, false, nil
	}
	b.locator.Remember(l.best.ID, l.cloud.Name())
	v := b.volume(l.best)
	if hasForeignMetadata(l.best) {
		v.Encrypted = req.Encrypted // not known; the creation that follows writes it
	}
	return v, true, nil
}

// sameName are the volumes of one name that count for this cluster. Cinder's names are not unique,
// not even within a project, which several clusters may share.
type sameName struct {
	best   cloud.Volume   // the usable one, or the one that becomes usable
	found  bool           // there is a best one
	others []string       // ids of further ones, which should not exist
	failed []cloud.Volume // left behind by failed creations of this cluster, which may remove them
}

// findByName looks for the volumes of a name. It ignores volumes with the metadata of another
// cluster. A volume without a cluster counts: cinder-csi-plugin uses any volume of the name, and
// its early releases wrote no cluster. So does a volume whose metadata came out of a backup. But
// only volumes with the metadata of this cluster count as failed. Volumes that are being deleted,
// or cannot be deleted, count as gone.
func (b *Backend) findByName(ctx context.Context, c *cloud.Cloud, name string) (sameName, error) {
	all, err := c.VolumesNamed(ctx, name)
	if err != nil {
		return sameName{}, err
	}
	var n sameName
	var candidates []cloud.Volume
	for _, v := range all {
		cluster := v.Metadata[metadata.Cluster]
		switch {
		case cluster != "" && cluster != b.opts.ClusterID && !hasForeignMetadata(v):
		case v.Status == state.Deleting, v.Status == state.ErrorDeleting:
		case state.IsFailedCreation(v) && b.isOwn(v):
			n.failed = append(n.failed, v)
		default:
			candidates = append(candidates, v)
		}
	}
	if len(candidates) == 0 {
		return n, nil
	}
	slices.SortFunc(candidates, func(x, y cloud.Volume) int {
		return cmp.Or(state.FalseLast(b.isOwn(x), b.isOwn(y)), state.Compare(x, y))
	})
	n.best, n.found = candidates[0], true
	for _, v := range candidates[1:] {
		n.others = append(n.others, v.ID)
	}
	if len(n.others) > 0 {
		b.log.WarnContext(ctx, "several volumes have the same name; the driver uses the oldest usable one",
			"name", name, "volume", n.best.ID, "others", n.others,
			"remedy", "delete the others if nobody needs their data")
	}
	return n, nil
}

// isOwn reports whether a volume carries this cluster's metadata.
func (b *Backend) isOwn(v cloud.Volume) bool {
	return metadata.IsOfCluster(v.Metadata, b.opts.ClusterID)
}

// hasForeignMetadata reports whether a volume carries the metadata of another volume: cinder-backup
// replaces those of a restored volume by those of the volume that the backup was made of, maybe in
// another cluster.
func hasForeignMetadata(v cloud.Volume) bool {
	return cloud.BackupIDOf(v) != "" && v.Metadata[metadata.PersistentVolume] != v.Name
}

// lookup is what the backend saw of a name, and in which cloud.
type lookup struct {
	sameName

	cloud *cloud.Cloud
	at    time.Time
}

// ids returns those of all volumes that were seen.
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

// requestedCloud returns the name of the cloud that the request names, if any.
func requestedCloud(ctx context.Context, req volume.CreateRequest) string {
	return cmp.Or(locate.RequestedName(ctx), req.Parameters[class.ParamCloud])
}

// lookUp looks for the volumes of the request's name in the cloud where they would be created. Its
// errors are not final, because a lookup that fails proves nothing. The exception is a class that
// names a cloud which is not configured, if no attempt has begun: nothing was created there.
func (b *Backend) lookUp(ctx context.Context, req volume.CreateRequest) (lookup, error) {
	name := requestedCloud(ctx, req)
	if name != "" && !slices.Contains(b.clouds.Names(), name) && !b.attempts.Has(req.Name) {
		_, err := b.clouds.Cloud(ctx, name)
		return lookup{}, err
	}
	l, err := b.lookUpIn(ctx, name, req)
	return l, volume.NonFinal(err, "it is not known whether Cinder has the volume")
}

// lookUpIn is lookUp in the cloud of a name, or without a name in the cloud of the source. If the
// source does not exist any more, it looks in all clouds.
func (b *Backend) lookUpIn(ctx context.Context, name string, req volume.CreateRequest) (lookup, error) {
	c, isCertain, err := b.cloudFor(ctx, name, req.Source)
	if err != nil {
		return lookup{}, err
	}
	n, err := b.findByName(ctx, c, req.Name)
	l := lookup{sameName: n, cloud: c, at: time.Now()}
	if err != nil || isCertain || len(l.ids()) > 0 {
		return l, err
	}
	clouds, err := b.locator.All(ctx)
	if err != nil {
		return l, err
	}
	for _, c := range clouds {
		if n, err = b.findByName(ctx, c, req.Name); err != nil || n.found || len(n.failed) > 0 {
			return lookup{sameName: n, cloud: c, at: time.Now()}, err
		}
	}
	return l, nil
}

// cloudFor chooses the cloud of a new volume: the one named, or that of its source. isCertain is
// false if no cloud has the source.
func (b *Backend) cloudFor(
	ctx context.Context, name string, source volume.Source,
) (c *cloud.Cloud, isCertain bool, err error) {
	id := cmp.Or(source.SnapshotID, source.VolumeID)
	if name != "" || id == "" {
		c, err = b.clouds.Cloud(ctx, name)
		return c, true, err
	}
	_, isCertain = b.locator.Home(ctx, id)
	c, err = b.locator.Find(ctx, id, func(ctx context.Context, c *cloud.Cloud) error {
		err := checkSource(ctx, c, source)
		isCertain = isCertain || err == nil
		return err
	})
	return c, isCertain, err
}

// maxLookupAge is how long a creation relies on the lookup of the Find before it. The caller holds
// the lock of the name in between.
const maxLookupAge = time.Second

// rememberLookup keeps what Find saw for the creation that follows, so that it does not ask the
// cloud again.
func (b *Backend) rememberLookup(ctx context.Context, req volume.CreateRequest, l lookup) {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.lookups, func(_ string, l lookup) bool { return time.Since(l.at) > maxLookupAge })
	b.lookups[requestedCloud(ctx, req)+"/"+req.Name] = l
}

// cachedLookUp returns what Find saw, which it uses once, or calls lookUp.
func (b *Backend) cachedLookUp(ctx context.Context, req volume.CreateRequest) (lookup, error) {
	key := requestedCloud(ctx, req) + "/" + req.Name
	b.mu.Lock()
	l, ok := b.lookups[key]
	delete(b.lookups, key)
	b.mu.Unlock()
	if ok && time.Since(l.at) <= maxLookupAge {
		return l, nil
	}
	return b.lookUp(ctx, req)
}
