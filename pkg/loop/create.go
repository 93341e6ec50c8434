package loop

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/volume"
)

// Create implements volume.Backend: it creates a blank volume, or returns the existing one
// that has the name.
func (b *Backend) Create(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	v, err := b.create(ctx, req, nil)
	return v, volume.Wrap(err, "create", req.Name)
}

// source is the volume or snapshot that a new object is copied from.
type source struct {
	collection volumedir.Collection
	id         string
}

// create creates a volume with the content of from, or a blank one if from is nil.
func (b *Backend) create(ctx context.Context, req volume.CreateRequest, from *source) (volume.Volume, error) {
	forNode, err := nodeParameters(req.Parameters)
	if err != nil {
		return volume.Volume{}, err
	}
	if err := b.checkRequisite(req.Requisite); err != nil {
		return volume.Volume{}, err
	}
	if err := checkName(req.Name); err != nil {
		return volume.Volume{}, err
	}
	record := volumedir.Record{
		Name: req.Name, Created: time.Now().UTC(), Source: req.Source, Context: forNode, Encrypted: req.Encrypted,
	}
	o, err := b.loadOrBuild(volumedir.Volumes, req.Name, func(id string) error {
		return b.buildVolume(ctx, id, record, req, from)
	})
	if err == nil {
		err = checkExisting(o, record, req.Range)
	}
	if err != nil {
		return volume.Volume{}, err
	}
	return b.volumeOf(o), nil
}

// loadOrBuild returns the object that has the name, and builds it first if it does not exist.
func (b *Backend) loadOrBuild(
	c volumedir.Collection, name string, build func(id string) error,
) (volumedir.Object, error) {
	id := c.ID(name)
	for {
		o, err := b.store.Load(c, id)
		if !volume.IsKind(err, volume.KindNotFound) {
			return o, err
		}
		if err := build(id); err != nil && !errors.Is(err, errExists) {
			return volumedir.Object{}, err
		}
	}
}

// checkExisting returns an error of kind AlreadyExists unless the volume is the one that
// the request describes.
func checkExisting(found volumedir.Object, want volumedir.Record, size volume.Range) error {
	var difference string
	switch {
	case found.Name != want.Name: // equal hashes
		difference = fmt.Sprintf("it is named %q", found.Name)
	case found.Size < size.Required:
		difference = fmt.Sprintf("its size is %s, below %s", found.Size, size.Required)
	case size.Limit > 0 && found.Size > size.Limit:
		difference = fmt.Sprintf("its size is %s, above %s", found.Size, size.Limit)
	case found.Source != want.Source:
		difference = fmt.Sprintf("it was created from %s, not from %s",
			describeSource(found.Source), describeSource(want.Source))
	case found.Encrypted != want.Encrypted:
		difference = fmt.Sprintf("it has %s=%t, but the request has %t", volume.EncryptedKey, found.Encrypted, want.Encrypted)
	case !maps.Equal(found.Context, want.Context):
		difference = fmt.Sprintf("it has the parameters %v, but the request has %v", found.Context, want.Context)
	default:
		return nil
	}
	return volume.Errorf(volume.KindAlreadyExists, "the volume %s of this name exists, but %s", found.ID, difference).
		WithRemedy("if nothing uses volume " + found.ID + ", delete it; otherwise recreate the claim to get a new name")
}

func describeSource(s volume.Source) string {
	switch {
	case s.SnapshotID != "":
		return "snapshot " + s.SnapshotID
	case s.VolumeID != "":
		return "volume " + s.VolumeID
	}
	return "nothing"
}

// buildVolume builds the volume's directory.
func (b *Backend) buildVolume(
	ctx context.Context, id string, record volumedir.Record, req volume.CreateRequest, from *source,
) error {
	lease := b.opts.Detached.NewLease(id, nil)
	defer lease.Release()
	size := req.Size
	if from != nil {
		o, unlock, err := b.store.Lock(ctx, from.collection, from.id)
		if err != nil {
			return err
		}
		lease.Add(unlock)
		if req.Range.Required > 0 && size < o.Size {
			return volume.Errorf(volume.KindOutOfRange, "the size %s is below the %s of its source, %s %s",
				size, o.Size, o.Collection.Noun(), o.ID).
				WithRemedy("request at least " + o.Size.String() + " in resources.requests.storage of the claim")
		}
		size = max(size, o.Size)
	}
	size, err := volume.Range{Required: size, Limit: req.Range.Limit}.Resolve(b.Limits())
	if err != nil {
		return err
	}
	o := volumedir.Object{Record: record, Collection: volumedir.Volumes, ID: id, Size: size}
	return b.build(ctx, lease, o, func(ctx context.Context, data *os.File) error {
		if from != nil {
			if err := b.copy(ctx, *from, data); err != nil {
				return err
			}
		}
		return b.store.ops.truncate(data, size)
	})
}

// copy copies the source's content into a new file.
func (b *Backend) copy(ctx context.Context, from source, dst *os.File) error {
	src, err := os.Open(b.store.DataPath(from.collection, from.id))
	if err != nil {
		return err
	}
	defer src.Close() //nolint:errcheck // nothing was written
	return b.store.ops.do("copy", filepath.Clean(src.Name()), func() error {
		// The copy must include the pages of the file that are not written back yet.
		if err := src.Sync(); err != nil {
			return err
		}
		return b.copyFile(ctx, from, src, dst)
	})
}

// Find implements volume.Backend: it finds a volume by its name.
func (b *Backend) Find(_ context.Context, req volume.CreateRequest) (volume.Volume, bool, error) {
	o, err := b.store.Load(volumedir.Volumes, volumedir.Volumes.ID(req.Name))
	switch {
	case volume.IsKind(err, volume.KindNotFound):
		return volume.Volume{}, false, nil
	case err != nil:
		return volume.Volume{}, false, volume.Wrap(err, "find", req.Name)
	}
	return b.volumeOf(o), o.Name == req.Name, nil
}

// Get implements volume.Backend.
func (b *Backend) Get(_ context.Context, id string) (volume.Volume, error) {
	o, err := b.store.Load(volumedir.Volumes, id)
	if err != nil {
		return volume.Volume{}, volume.Wrap(err, "get", id)
	}
	return b.volumeOf(o), nil
}

// volumeOf converts an object into the domain's volume.
func (b *Backend) volumeOf(o volumedir.Object) volume.Volume {
	v := volume.Volume{
		ID: o.ID, Name: o.Name, Size: o.Size, Source: o.Source, VolumeContext: o.Context, Encrypted: o.Encrypted,
		Topology: []volume.Topology{b.topology()},
	}
	if o.Attachment != nil {
		v.Nodes = []string{o.Attachment.Node}
	}
	return v
}
