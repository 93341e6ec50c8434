package rbd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/class"
	"github.com/growvol/growvol/pkg/rbd/internal/metadata"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds the search for the volume of a request, by the name of its image.

// creation is one request for a volume.
type creation struct {
	req        volume.CreateRequest
	class      class.Storage
	attributes map[string]string // of the VolumeAttributesClass
	// candidates are the images that the volume may be, one in each pool of the class.
	candidates []candidate
}

// candidate is a pool of the class with the handle that a volume in it has.
type candidate struct {
	class.Pool

	handle rbdcsi.VolumeHandle
}

// newCreation reads the parameters of the classes. Kind Invalid.
func (b *Backend) newCreation(req volume.CreateRequest) (creation, error) {
	c := creation{req: req}
	var err error
	if c.class, err = class.ParseStorage(req.Parameters); err != nil {
		return c, err
	}
	if err := c.class.CheckEncryption(req.Encrypted); err != nil {
		return c, err
	}
	if c.attributes, err = class.ParseAttributes(req.MutableParameters); err != nil {
		return c, err
	}
	location := rbdcsi.Location{Cluster: c.class.Cluster, Namespace: c.class.Namespace}
	if location.Namespace == "" {
		config, err := b.opts.Clusters.Read(location.Cluster)
		if err != nil {
			return c, clusterError(err, location.Cluster)
		}
		location.Namespace = config.Namespace
	}
	prefix := b.opts.NamePrefix
	if c.class.NamePrefix != "" {
		prefix = c.class.NamePrefix
	}
	for _, pool := range c.class.Pools {
		location.Pool = pool.Name
		h, err := newHandle(location, prefix, req.Name)
		if err != nil {
			return c, err
		}
		c.candidates = append(c.candidates, candidate{Pool: pool, handle: h})
	}
	return c, nil
}

// newHandle returns the handle of the volume of a name: the image is called prefix and name, or
// prefix and a hash of the name if the name has other characters or makes the handle too long. Kind
// Invalid: the handle is too long even so.
func newHandle(l rbdcsi.Location, prefix, name string) (rbdcsi.VolumeHandle, error) {
	h := rbdcsi.VolumeHandle{Location: l, Image: prefix + name}
	if class.IsImageName(name) && len(h.String()) <= rbdcsi.MaxHandleLength {
		return h, nil
	}
	hash := sha256.Sum256([]byte(name))
	h.Image = prefix + hex.EncodeToString(hash[:16])
	if length := len(h.String()); length > rbdcsi.MaxHandleLength {
		return h, volume.Errorf(volume.KindInvalid, "the volume handle %s has %d bytes, but CSI allows %d",
			h, length, rbdcsi.MaxHandleLength).
			WithRemedy("use a shorter clusterID, pool or radosNamespace")
	}
	return h, nil
}

// handles returns the handles of all candidates: the locks of the creation.
func (c creation) handles() []string {
	var all []string
	for _, candidate := range c.candidates {
		all = append(all, candidate.handle.String())
	}
	return all
}

func (c creation) task(what string) task {
	handles := c.handles()
	return task{
		what: what, id: handles[0], cluster: c.class.Cluster, locks: handles,
		pools: append(poolsOf(c.req.Source.SnapshotID, c.req.Source.VolumeID), poolsOf(handles...)...),
	}
}

// found is the image of a creation.
type found struct {
	candidate candidate
	info      ceph.ImageInfo
	record    metadata.Record
	// isComplete: the image has its record, so that no step of its creation is missing.
	isComplete bool
	isNew      bool           // the present call has made the image
	parent     ceph.ImageName // if hasParent: the image is a clone
	hasParent  bool
	depth      int // of a clone that origin.complete has completed; see metadata.Record
}

// Find implements volume.Backend. It also finds an image whose creation was interrupted, and
// describes it as Create will complete it.
func (b *Backend) Find(ctx context.Context, req volume.CreateRequest) (volume.Volume, bool, error) {
	c, err := b.newCreation(req)
	if volume.IsKind(err, volume.KindInvalid) {
		return volume.Volume{}, false, nil // no creation can have succeeded; Create reports the reason
	}
	var f *found
	if err == nil {
		f, err = run(ctx, b, c.task("looking for the volume"), func(ctx context.Context, s *session) (*found, error) {
			return s.find(ctx, c)
		})
	}
	if err != nil {
		return volume.Volume{}, false,
			volume.Wrap(volume.NonFinal(err, "cannot find out whether the volume exists"), "find volume", req.Name)
	}
	b.finds.store(req.Name, c.candidates[0].handle, f)
	if f == nil {
		return volume.Volume{}, false, nil
	}
	v := f.toVolume()
	if !f.isComplete {
		v.Name, v.Source, v.Encrypted = req.Name, req.Source, req.Encrypted
		if size, err := req.Range.Resolve(b.Limits()); err == nil {
			v.Size = max(v.Size, size)
		}
	}
	return v, true, nil
}

// find returns the image of a creation; nil: no pool of the class has it.
func (s *session) find(ctx context.Context, c creation) (*found, error) {
	for _, candidate := range c.candidates {
		pool, err := s.pool(candidate.handle.Location)
		if err != nil {
			return nil, err
		}
		id, err := pool.ImageID(candidate.handle.Image)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot look for image %s: %w", candidate.handle, err)
		}
		f, err := s.readFound(ctx, pool, candidate, id)
		if !volume.IsKind(err, volume.KindNotFound) {
			return f, err
		}
	}
	return nil, nil
}

// readFound reads the image of that id. Kind NotFound: it does not exist.
func (s *session) readFound(ctx context.Context, pool ceph.Pool, c candidate, id string) (*found, error) {
	t := target{id: c.handle.String(), handle: c.handle, pool: pool}
	f := &found{candidate: c}
	var err error
	if f.record, f.isComplete, err = t.readRecord(id); err != nil {
		return nil, err
	}
	im, err := pool.OpenID(id, true)
	if errors.Is(err, unix.ENOENT) {
		return nil, imageMissingError(c.handle, err)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open image %s: %w", c.handle, err)
	}
	defer s.closeImage(ctx, im)
	if f.info, err = im.Info(); err != nil {
		return nil, fmt.Errorf("cannot read image %s: %w", c.handle, err)
	}
	r, err := s.readRelatives(ctx, pool, id)
	if isMissing(err) {
		return nil, imageMissingError(c.handle, err)
	}
	if f.parent, f.hasParent = r.parent, r.hasParent; err == nil && r.hasParent {
		err = s.nameParent(ctx, &f.parent)
	}
	return f, err
}

func (f *found) toVolume() volume.Volume {
	v := toVolume(f.candidate.handle.String(), f.info, f.record)
	if len(f.candidate.Topology) > 0 {
		v.Topology = []volume.Topology{f.candidate.Topology}
	}
	return v
}

// findCache passes what Find has read to the Create that follows. The zero value is ready to use.
type findCache struct {
	mu  sync.Mutex
	all map[string]cachedFind // by name of the request; guarded by mu
}

type cachedFind struct {
	first rbdcsi.VolumeHandle // of the candidates
	found *found
	at    time.Time
}

// findAge is how long a result counts. The caller's lock on the name lasts from Find to Create, so
// that only a person or another cluster can change the image in between.
const findAge = 5 * time.Second

func (f *findCache) store(name string, first rbdcsi.VolumeHandle, result *found) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all == nil {
		f.all = make(map[string]cachedFind)
	}
	for other, cached := range f.all { // those that no Create has taken
		if time.Since(cached.at) > findAge {
			delete(f.all, other)
		}
	}
	f.all[name] = cachedFind{first: first, found: result, at: time.Now()}
}

// take returns the result for the name and removes it; false: there is none.
func (f *findCache) take(name string, first rbdcsi.VolumeHandle) (*found, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	cached, ok := f.all[name]
	delete(f.all, name)
	return cached.found, ok && cached.first == first && time.Since(cached.at) <= findAge
}
