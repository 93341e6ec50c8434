package cinder

import (
	"context"
	"maps"
	"slices"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

const (
	// maxSingleStatics bounds how many volumes made by hand a page reads one by
	// one.
	maxSingleStatics = 50
	// minListedStatics is how many volumes made by hand are worth reading a page
	// of the project's volumes, which may be a thousand.
	minListedStatics = 4
)

// statics are the volumes that were attached through this driver and do not
// have the cluster's metadata, because an administrator made them. A listing
// without them would tell external-attacher that they are attached nowhere, and
// it would attach them anew every minute. They are not written down: after a
// restart external-attacher asks for each once more, and so they are known
// again.
type statics map[string]string // cloud by volume

func (s statics) drop(id string) { delete(s, id) }

// noteStatic takes note of a volume that is being attached.
func (b *Backend) noteStatic(c *cloud.Cloud, v cloud.Volume) {
	if b.opts.ClusterID == "" || v.Metadata[metaCluster] == b.opts.ClusterID {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.statics == nil {
		b.statics = make(statics)
	}
	b.statics[v.ID] = c.Name()
}

func (b *Backend) anyStatic() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.statics) > 0
}

// listStatics is a page of the volumes made by hand, in the order of ids.
func (b *Backend) listStatics(ctx context.Context, after string, most int) (listPage, error) {
	b.mu.Lock()
	known := maps.Clone(b.statics)
	b.mu.Unlock()
	ids := slices.Sorted(maps.Keys(known))
	start, found := slices.BinarySearch(ids, after)
	if found {
		start++
	}
	ids = ids[start:]
	out := listPage{part: staticPart}
	if most > 0 && len(ids) > most {
		ids = ids[:most]
		out.next = ids[most-1] + "@" + staticPart
	}
	listed, err := b.listedStatics(ctx, ids, known)
	if err != nil {
		return listPage{}, err
	}
	single := 0
	for i, id := range ids {
		if single == maxSingleStatics {
			out.next = ids[i-1] + "@" + staticPart
			break
		}
		v, ok := listed[id]
		if !ok {
			single++
			if v, ok, err = b.readStatic(ctx, known[id], id); err != nil {
				return listPage{}, err
			}
		}
		if ok {
			out.volumes = append(out.volumes, v)
		}
	}
	return out, nil
}

// readStatic reads one volume; false: it is gone.
func (b *Backend) readStatic(ctx context.Context, place, id string) (v cloud.Volume, found bool, err error) {
	c, err := b.clouds.Cloud(ctx, place)
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

// listedStatics returns those of the volumes that the lists of their clouds
// have: one call for many. What is in no list is not gone: it may be another
// project's, or beyond the pages that are worth reading.
func (b *Backend) listedStatics(ctx context.Context, ids []string, known statics) (map[string]cloud.Volume, error) {
	missing := make(map[string]map[string]bool) // ids by cloud
	for _, id := range ids {
		if missing[known[id]] == nil {
			missing[known[id]] = make(map[string]bool)
		}
		missing[known[id]][id] = true
	}
	listed := make(map[string]cloud.Volume)
	for name, wanted := range missing {
		c, err := b.clouds.Cloud(ctx, name)
		if err != nil {
			return nil, err
		}
		marker := ""
		for pages := 1; len(wanted) >= pages*minListedStatics; pages++ {
			page, next, err := c.Volumes(ctx, cloud.VolumePage{Marker: marker})
			if err != nil && !volume.IsKind(err, volume.KindStale) {
				return nil, err
			}
			for _, v := range page {
				if wanted[v.ID] {
					listed[v.ID] = v
					delete(wanted, v.ID)
				}
			}
			if marker = next; marker == "" {
				break
			}
		}
	}
	return listed, nil
}
