package cinder

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/class"
	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/locate"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
)

// Find implements volume.Backend. It skips volumes left behind by failed creations: they never
// become usable, and the next creation removes them.
func (b *Backend) Find(ctx context.Context, req volume.CreateRequest) (volume.Volume, bool, error) {
	r, err := b.find(ctx, req)
	if err != nil {
		return volume.Volume{}, false, volume.Wrap(err, "find volume", req.Name)
	}
	b.cacheFind(ctx, req, r)
	if !r.found {
		return volume.Volume{}, false, nil
	}
	b.locator.Remember(r.volume.ID, r.cloud.Name())
	v := b.toVolume(r.volume)
	if hasForeignMetadata(r.volume) {
		v.Encrypted = req.Encrypted // the metadata do not say; the creation that follows corrects them
	}
	return v, true, nil
}

// match has the volumes of one name that count for this cluster. Cinder's names are not unique, not
// even within a project, and several clusters may share a project.
type match struct {
	volume cloud.Volume   // the one to use, if found
	found  bool           // there is a volume to use, which may not be usable yet
	others []string       // ids of further volumes, which should not exist
	failed []cloud.Volume // left behind by failed creations of this cluster, which may remove them
}

// findByName finds the volumes of a name in a cloud. It ignores volumes with the metadata of
// another cluster, and volumes that are being deleted or that Cinder failed to delete. A volume
// without a cluster counts: cinder-csi-plugin uses any volume of the name, and its early releases
// wrote no cluster. A restored volume whose metadata come from the backup counts too. But only
// volumes with the metadata of this cluster count as failed.
func (b *Backend) findByName(ctx context.Context, c *cloud.Cloud, name string) (match, error) {
	all, err := c.VolumesNamed(ctx, name)
	if err != nil {
		return match{}, err
	}
	var m match
	var candidates []cloud.Volume
	for _, v := range all {
		cluster := v.Metadata[metadata.Cluster]
		switch {
		case cluster != "" && cluster != b.opts.ClusterID && !hasForeignMetadata(v):
		case v.Status == state.Deleting, v.Status == state.ErrorDeleting:
		case state.IsFailedCreation(v) && b.isOwn(v):
			m.failed = append(m.failed, v)
		default:
			candidates = append(candidates, v)
		}
	}
	if len(candidates) == 0 {
		return m, nil
	}
	slices.SortFunc(candidates, func(x, y cloud.Volume) int {
		return cmp.Or(state.FalseLast(b.isOwn(x), b.isOwn(y)), state.Compare(x, y))
	})
	m.volume, m.found = candidates[0], true
	for _, v := range candidates[1:] {
		m.others = append(m.others, v.ID)
	}
	if len(m.others) > 0 {
		b.log.WarnContext(ctx, "several volumes have the same name; the driver uses one of them",
			"name", name, "volume", m.volume.ID, "others", m.others,
			"remedy", "if nothing needs the data of the others, delete them: openstack volume delete "+
				strings.Join(m.others, " "))
	}
	return m, nil
}

// isOwn reports whether a volume carries this cluster's metadata.
func (b *Backend) isOwn(v cloud.Volume) bool {
	return metadata.IsOfCluster(v.Metadata, b.opts.ClusterID)
}

// hasForeignMetadata reports whether a volume carries the metadata of another volume: cinder-backup
// overwrites the metadata of a restored volume with those of the backup's volume, possibly of
// another cluster.
func hasForeignMetadata(v cloud.Volume) bool {
	return cloud.BackupIDOf(v) != "" && v.Metadata[metadata.PersistentVolume] != v.Name
}

// findResult is what find returns: the volumes of a name, and the cloud that has or would have
// them.
type findResult struct {
	match

	cloud *cloud.Cloud
	at    time.Time // when the result was cached
}

// ids returns the ids of all volumes of the match.
func (m match) ids() []string {
	ids := slices.Clone(m.others)
	if m.found {
		ids = append(ids, m.volume.ID)
	}
	for _, v := range m.failed {
		ids = append(ids, v.ID)
	}
	return ids
}

// requestedCloud returns the name of the cloud that the request names, if any.
func requestedCloud(ctx context.Context, req volume.CreateRequest) string {
	return cmp.Or(locate.RequestedName(ctx), req.Parameters[class.ParamCloud])
}

// find finds the volumes of the request's name in the cloud where Create would create one. Its
// errors are not final, because a volume may exist all the same. The exception is a request for a
// cloud that is not configured, if no attempt has begun: then no volume was created.
func (b *Backend) find(ctx context.Context, req volume.CreateRequest) (findResult, error) {
	name := requestedCloud(ctx, req)
	if name != "" && !slices.Contains(b.clouds.Names(), name) && !b.attempts.Has(req.Name) {
		_, err := b.clouds.Cloud(ctx, name)
		return findResult{}, err
	}
	r, err := b.findIn(ctx, name, req)
	return r, volume.NonFinal(err, "cannot determine whether Cinder has the volume")
}

// findIn is find in the named cloud; an empty name means the cloud of the source. If the source no
// longer exists, findIn searches all clouds.
func (b *Backend) findIn(ctx context.Context, name string, req volume.CreateRequest) (findResult, error) {
	c, isCertain, err := b.cloudFor(ctx, name, req.Source)
	if err != nil {
		return findResult{}, err
	}
	m, err := b.findByName(ctx, c, req.Name)
	first := findResult{match: m, cloud: c}
	if err != nil || isCertain || len(m.ids()) > 0 {
		return first, err
	}
	clouds, err := b.locator.All(ctx)
	if err != nil {
		return first, err
	}
	for _, c := range clouds {
		if m, err = b.findByName(ctx, c, req.Name); err != nil || len(m.ids()) > 0 {
			return findResult{match: m, cloud: c}, err
		}
	}
	return first, nil
}

// cloudFor returns the cloud in which to create a volume: the named one, else the cloud of the
// source, else the default cloud. isCertain is false if no cloud has the source.
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

// maxFindAge is how long Create and Abandon may use the result of the Find before. The caller holds
// the lock of the name in between.
const maxFindAge = time.Second

// cacheFind stores the result of Find for the Create that follows, so that it does not ask the
// cloud again.
func (b *Backend) cacheFind(ctx context.Context, req volume.CreateRequest, r findResult) {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.recentFinds, func(_ string, r findResult) bool { return time.Since(r.at) > maxFindAge })
	r.at = time.Now()
	b.recentFinds[requestedCloud(ctx, req)+"/"+req.Name] = r
}

// cachedFind removes the result of a recent Find from the cache and returns it; else it calls find.
func (b *Backend) cachedFind(ctx context.Context, req volume.CreateRequest) (findResult, error) {
	key := requestedCloud(ctx, req) + "/" + req.Name
	b.mu.Lock()
	r, ok := b.recentFinds[key]
	delete(b.recentFinds, key)
	b.mu.Unlock()
	if ok && time.Since(r.at) <= maxFindAge {
		return r, nil
	}
	return b.find(ctx, req)
}
