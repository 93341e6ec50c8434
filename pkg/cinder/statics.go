package cinder

import (
	"context"
	"maps"
	"slices"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// staticsPage is how many volumes made by hand a page has: each is read by
// itself.
const staticsPage = 50

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
	if most <= 0 || most > staticsPage {
		most = staticsPage
	}
	out := listPage{part: staticPart}
	if len(ids) > most {
		ids = ids[:most]
		out.next = ids[most-1] + "@" + staticPart
	}
	for _, id := range ids {
		c, err := b.clouds.Cloud(ctx, known[id])
		if err != nil {
			return listPage{}, err
		}
		v, err := c.Volume(ctx, id)
		switch {
		case volume.IsKind(err, volume.NotFound):
			b.forget(id)
		case err != nil:
			return listPage{}, err
		default:
			out.volumes = append(out.volumes, v)
		}
	}
	return out, nil
}
