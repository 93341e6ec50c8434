package cinder

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

const (
	// maxStaticReads bounds how many static volumes a page reads one by one.
	maxStaticReads = 50
	// minStaticsPerPage is from how many static volumes on it is cheaper to read a page of the
	// project's volumes, which may be a thousand, than the static volumes one by one.
	minStaticsPerPage = 4
)

// statics are the volumes that were attached through this driver and lack the cluster's metadata,
// because an administrator created them (static provisioning). A listing without them would tell
// external-attacher that they are attached nowhere, and it would attach them again every minute.
// They are not persistent: after a restart external-attacher attaches each once more, which adds it
// again. The zero value is ready to use.
type statics struct {
	mu     sync.Mutex
	clouds map[string]string // name of the cloud by id of the volume
}

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

func (s *statics) isEmpty() bool { return len(s.all()) == 0 }

// all returns the names of the clouds by the ids of the volumes.
func (s *statics) all() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.clouds)
}

// listStatics returns a page of at most limit static volumes, in the order of ids; 0: no limit.
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

// readStatic reads one volume. If it is gone, readStatic forgets it and reports found as false.
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

// findInLists returns those of the volumes that the lists of their clouds contain: one request for
// many. A volume in no list is not gone: it may belong to another project, or be on a page that
// findInLists does not read.
func (b *Backend) findInLists(
	ctx context.Context, ids []string, clouds map[string]string,
) (map[string]cloud.Volume, error) {
	missing := make(map[string]map[string]bool) // ids by cloud
	for _, id := range ids {
		if missing[clouds[id]] == nil {
			missing[clouds[id]] = make(map[string]bool)
		}
		missing[clouds[id]][id] = true
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
				if want[v.ID] {
					listed[v.ID] = v
					delete(want, v.ID)
				}
			}
			if marker = next; marker == "" {
				break
			}
		}
	}
	return listed, nil
}
