package cinder

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// statics lists the static volumes: volumes that this driver attached and that lack the cluster's
// metadata, because an administrator created them (static provisioning). If a listing omitted them,
// external-attacher would take them as detached and attach them again every minute. The list is not
// persistent: after a restart external-attacher attaches each volume once more, which adds it
// again. The zero value is ready to use.
type statics struct {
	mu     sync.Mutex
	clouds map[string]string // cloud names by volume id
}

const (
	// maxStaticReads bounds how many static volumes a page of the listing reads one by one.
	maxStaticReads = 50
	// minStaticsPerPage is the number of static volumes from which reading a page of the project's
	// volumes, up to a thousand, is cheaper than reading the static volumes one by one.
	minStaticsPerPage = 4
)

func (s *statics) add(id, cloudName string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clouds == nil {
		s.clouds = make(map[string]string)
	}
	s.clouds[id] = cloudName
}

func (s *statics) remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.clouds, id)
}

// all returns the names of the clouds by volume id.
func (s *statics) all() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.clouds)
}

// listStatics returns a page of the static volumes, sorted by id, that begins behind the id after.
// The page has at most limit volumes; 0: no limit.
func (b *Backend) listStatics(ctx context.Context, after string, limit int) (listPage, error) {
	clouds := b.statics.all()
	ids := slices.Sorted(maps.Keys(clouds))
	start, found := slices.BinarySearch(ids, after)
	if found {
		start++
	}
	ids = ids[start:]
	out := listPage{section: staticSection}
	if limit > 0 && len(ids) > limit {
		ids = ids[:limit]
		out.next = out.token(ids[limit-1])
	}
	listed, err := b.findInLists(ctx, ids, clouds)
	if err != nil {
		return listPage{}, err
	}
	reads := 0
	for i, id := range ids {
		if reads == maxStaticReads {
			out.next = out.token(ids[i-1])
			break
		}
		v, ok := listed[id]
		if !ok {
			reads++
			if v, ok, err = b.readStatic(ctx, clouds[id], id); err != nil {
				return listPage{}, err
			}
		}
		if ok {
			out.volumes = append(out.volumes, v)
		}
	}
	return out, nil
}

// readStatic reads one volume. It reports found as false, and forgets the volume, if it does not
// exist.
func (b *Backend) readStatic(ctx context.Context, cloudName, id string) (v cloud.Volume, found bool, err error) {
	c, err := b.clouds.Cloud(ctx, cloudName)
	if err != nil {
		return v, false, err
	}
	v, err = c.Volume(ctx, id)
	if volume.IsKind(err, volume.KindNotFound) {
		b.forget(id)
		return v, false, nil
	}
	return v, err == nil, err
}

// findInLists looks for the volumes in the lists of their clouds, where one request returns many,
// and returns those that it finds. A volume that it does not find may exist: it may belong to
// another project, or be on a page that findInLists does not read.
func (b *Backend) findInLists(
	ctx context.Context, ids []string, clouds map[string]string,
) (map[string]cloud.Volume, error) {
	missing := make(map[string][]string) // ids by cloud
	for _, id := range ids {
		missing[clouds[id]] = append(missing[clouds[id]], id)
	}
	listed := make(map[string]cloud.Volume)
	for name, want := range missing {
		c, err := b.clouds.Cloud(ctx, name)
		if err != nil {
			return nil, err
		}
		marker := ""
		for pages := 1; len(want) >= pages*minStaticsPerPage; pages++ {
			page, next, err := c.Volumes(ctx, cloud.VolumePage{Marker: marker})
			if err != nil && !volume.IsKind(err, volume.KindStale) {
				return nil, err
			}
			for _, v := range page {
				if i := slices.Index(want, v.ID); i >= 0 {
					listed[v.ID] = v
					want = slices.Delete(want, i, i+1)
				}
			}
			if marker = next; marker == "" {
				break
			}
		}
	}
	return listed, nil
}
