package loop

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"
	"unicode/utf8"

	"github.com/growvol/growvol/pkg/volume"
)

// Find implements volume.Backend.
func (b *Backend) Find(_ context.Context, req volume.CreateRequest) (volume.Volume, bool, error) {
	o, err := b.store.load(volumes, volumes.id(req.Name))
	switch {
	case missing(err):
		return volume.Volume{}, false, nil
	case err != nil:
		return volume.Volume{}, false, volume.Wrap(err, "find", req.Name)
	}
	return b.volume(o), o.Name == req.Name, nil
}

// Create implements volume.Backend.
func (b *Backend) Create(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	v, err := b.create(ctx, req, nil)
	return v, volume.Wrap(err, "create", req.Name)
}

// create makes a volume with the content of source, which is nil for a blank
// one.
func (b *Backend) create(ctx context.Context, req volume.CreateRequest, source *source) (volume.Volume, error) {
	params, err := volumeContext(req.Parameters)
	if err != nil {
		return volume.Volume{}, err
	}
	if err := b.placeable(req.Requisite); err != nil {
		return volume.Volume{}, err
	}
	if req.Name == "" || !utf8.ValidString(req.Name) {
		return volume.Volume{}, volume.Errorf(volume.KindInvalid, "the name %q is empty or not UTF-8", req.Name)
	}
	id := volumes.id(req.Name)
	r := record{
		Name: req.Name, Created: time.Now().UTC(), Source: req.Source, Context: params, Encrypted: req.Encrypted,
	}
	for {
		found, err := b.store.load(volumes, id)
		if err == nil {
			return b.existing(found, r, req.Range)
		}
		if !missing(err) {
			return volume.Volume{}, err
		}
		err = b.build(ctx, id, r, req, source)
		if err != nil && !errors.Is(err, errExists) {
			return volume.Volume{}, err
		}
	}
}

// existing answers a repeated creation.
func (b *Backend) existing(found object, want record, size volume.Range) (volume.Volume, error) {
	why := ""
	switch {
	case found.Name != want.Name:
		why = fmt.Sprintf("it is named %q", found.Name) // equal hashes
	case found.size < size.Required:
		why = fmt.Sprintf("its size is %s, below %s", found.size, size.Required)
	case size.Limit > 0 && found.size > size.Limit:
		why = fmt.Sprintf("its size is %s, above %s", found.size, size.Limit)
	case found.Source != want.Source:
		why = fmt.Sprintf("it was made from %s, not from %s", sourceName(found.Source), sourceName(want.Source))
	case found.Encrypted != want.Encrypted:
		why = fmt.Sprintf("it was made with %s=%t, not %t", volume.EncryptedKey, found.Encrypted, want.Encrypted)
	case !maps.Equal(found.Context, want.Context):
		why = fmt.Sprintf("its parameters are %v, not %v", found.Context, want.Context)
	}
	if why != "" {
		return volume.Volume{}, volume.Errorf(volume.KindAlreadyExists, "the volume %s of this name exists, but %s", found.id, why).
			WithRemedy("use another name, or delete the volume")
	}
	return b.volume(found), nil
}

func sourceName(s volume.Source) string {
	switch {
	case s.SnapshotID != "":
		return "snapshot " + s.SnapshotID
	case s.VolumeID != "":
		return "volume " + s.VolumeID
	}
	return "nothing"
}

// build makes the volume's directory.
func (b *Backend) build(ctx context.Context, id string, r record, req volume.CreateRequest, src *source) error {
	l := b.opts.Detached.NewLease(id, nil)
	defer l.Release()
	size := req.Size
	if src != nil {
		from, unlock, err := b.store.lock(ctx, src.class, src.id)
		if err != nil {
			return err
		}
		l.Add(unlock)
		if req.Range.Required > 0 && size < from.size {
			return volume.Errorf(volume.KindOutOfRange, "the size %s is below the %s of its source, %s %s", size, from.size, from.class.word(), from.id).
				WithRemedy("ask for at least " + from.size.String())
		}
		src.size = from.size
		size = max(size, from.size)
	}
	size, err := volume.Range{Required: size, Limit: req.Range.Limit}.Resolve(b.Limits())
	if err != nil {
		return err
	}
	return b.make(ctx, l, object{record: r, class: volumes, id: id, size: size}, func(ctx context.Context, data *os.File) error {
		if src != nil {
			if err := b.copy(ctx, *src, data); err != nil {
				return err
			}
		}
		return b.store.disk.truncate(data, size)
	})
}

// Delete implements volume.Backend.
func (b *Backend) Delete(ctx context.Context, id string) error {
	return volume.Wrap(b.remove(ctx, volumes, id, b.unused), "delete", id)
}

// remove makes an object and all that is left of it disappear, if check lets
// it.
func (b *Backend) remove(ctx context.Context, c class, id string, check func(object) error) error {
	if !c.valid(id) {
		return nil // never was one of ours
	}
	defer b.late.take(id) //nolint:errcheck // nobody will ask for it any more
	for {
		o, unlock, err := b.store.lock(ctx, c, id)
		switch {
		case err == nil:
			err = check(o)
			if err == nil {
				err = b.store.remove(ctx, c, id)
			}
			unlock()
			return err
		case !missing(err):
			return err
		}
		if err := b.store.discard(ctx, id); err != nil {
			return err
		}
		// A creation that was under way may have been awaited just now.
		if _, err := b.store.load(c, id); missing(err) {
			return nil
		}
	}
}

// unused checks that a volume may be deleted.
func (b *Backend) unused(o object) error {
	if a := o.attachment; a != nil {
		return volume.Errorf(volume.KindPrecondition, "the volume is attached to node %s", a.Node).
			WithRemedy("delete the pods that use it, and wait until it is detached")
	}
	return b.unbound(o)
}

// unbound checks that no loop device has the volume's file.
func (b *Backend) unbound(o object) error {
	devices, err := b.loops.bound(b.store.data(o.class, o.id))
	if err != nil {
		return err
	}
	if len(devices) > 0 {
		return volume.Errorf(volume.KindPrecondition, "the volume is still connected on node %s as %s", b.opts.Node, paths(devices)).
			WithRemedy("delete the pods that use it, and wait until the node has unstaged it")
	}
	return nil
}

// Get implements volume.Backend.
func (b *Backend) Get(_ context.Context, id string) (volume.Volume, error) {
	o, err := b.store.load(volumes, id)
	if err != nil {
		return volume.Volume{}, volume.Wrap(err, "get", id)
	}
	return b.volume(o), nil
}

// volume turns what was read into the domain's terms.
func (b *Backend) volume(o object) volume.Volume {
	v := volume.Volume{
		ID: o.id, Name: o.Name, Size: o.size, Source: o.Source, VolumeContext: o.Context, Encrypted: o.Encrypted,
		Topology: []volume.Topology{b.topology()},
	}
	if o.attachment != nil {
		v.Nodes = []string{o.attachment.Node}
	}
	return v
}

// Expand implements volume.Backend. The loop device of a connected volume
// keeps its size: as with a cloud, the node has to look anew
// (LOOP_SET_CAPACITY).
func (b *Backend) Expand(ctx context.Context, id string, target volume.Size) (volume.Volume, error) {
	o, err := b.expand(ctx, id, target)
	if err != nil {
		return volume.Volume{}, volume.Wrap(err, "expand", id)
	}
	return b.volume(o), nil
}

func (b *Backend) expand(ctx context.Context, id string, target volume.Size) (object, error) {
	o, unlock, err := b.store.lock(ctx, volumes, id)
	if err != nil {
		return object{}, err
	}
	defer unlock()
	if o.size >= target {
		return o, nil
	}
	size, err := volume.Range{Required: target}.Resolve(b.Limits())
	if err != nil {
		return object{}, err
	}
	release, err := b.reserve(id, size)
	if err != nil {
		return object{}, err
	}
	defer release()
	if err := b.grow(b.store.data(volumes, id), size); err != nil {
		return object{}, spaceError(err, size)
	}
	o, err = b.store.load(volumes, id)
	if err != nil {
		return object{}, err
	}
	if o.size < target {
		return object{}, volume.Errorf(volume.KindInternal, "the file has %s after it was made %s long", o.size, size)
	}
	return o, nil
}

// grow lengthens a file. The caller holds the volume's lock and has read that
// it is shorter.
func (b *Backend) grow(path string, size volume.Size) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	err = b.store.disk.truncate(f, size)
	if err == nil {
		err = b.store.disk.sync(f)
	}
	return errors.Join(err, f.Close())
}

// source is what a new volume is copied from.
type source struct {
	class class
	id    string
	size  volume.Size
}

// copy copies the source's content into a new file.
func (b *Backend) copy(ctx context.Context, src source, dst *os.File) error {
	path := b.store.data(src.class, src.id)
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read from
	if err := b.store.disk.step("copy", filepath.Clean(path)); err != nil {
		return err
	}
	// The file's own unwritten pages belong to the copy.
	if err := f.Sync(); err != nil {
		return err
	}
	return b.copyFile(ctx, src, f, dst)
}
