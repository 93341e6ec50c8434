package krbd

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// Connect implements volume.Connector: it maps the image, unless the volume has a mapping. A
// mapping that this call began and that ends after it is found by the retry, or removed by
// Disconnect.
func (c *Connector) Connect(ctx context.Context, req volume.ConnectRequest) (conn volume.Connection, err error) {
	defer func() { err = volume.Wrap(err, "connect", req.ID) }()
	r, err := c.newMapRequest(req)
	if err != nil {
		return volume.Connection{}, err
	}
	lease, err := c.operations.LockDevice(ctx, req.ID)
	if err != nil {
		return volume.Connection{}, err
	}
	defer lease.Release()
	image, err := c.images.LockDevice(ctx, r.target.String())
	if err != nil {
		return volume.Connection{}, err
	}
	lease.Add(image.Release)
	if err := c.checkAttached(ctx, req.ID); err != nil {
		return volume.Connection{}, err
	}
	what := fmt.Sprintf("mapping the image %s", r.target)
	m, err := operation.RunOnDevice(ctx, lease, what, func(ctx context.Context) (mapping, error) {
		return c.ensureMapped(ctx, req.ID, r)
	})
	if err != nil {
		return volume.Connection{}, err
	}
	if err := c.recordClient(ctx, req.ID, m); err != nil {
		return volume.Connection{}, err
	}
	if err := c.checkAttached(ctx, req.ID); err != nil {
		return volume.Connection{}, volume.Join(err, c.withdraw(ctx, lease, req.ID, err))
	}
	return c.connection(m, r.target.size)
}

// checkAttached returns an error of kind Precondition if the volume is not attached to this node.
func (c *Connector) checkAttached(ctx context.Context, id string) error {
	if c.opts.Recorder == nil {
		return nil
	}
	return c.opts.Recorder.CheckAttached(ctx, id)
}

// withdraw ends the mapping of a volume that, according to reason, was detached while this call
// mapped it. The mapping of another volume stays, and one that is in use.
func (c *Connector) withdraw(ctx context.Context, lease *operation.Lease, id string, reason error) error {
	if !volume.IsKind(reason, volume.KindPrecondition) {
		return nil // nothing says that it was detached
	}
	_, err := operation.RunOnDevice(ctx, lease, "unmapping the volume's image",
		func(ctx context.Context) (bool, error) { return c.unmapVolume(ctx, id) })
	if err != nil {
		return err
	}
	return c.recordUnmapped(ctx, id)
}

// newMapRequest returns what a request is to map, and how.
func (c *Connector) newMapRequest(req volume.ConnectRequest) (mapRequest, error) {
	if err := c.bus.checkLoaded(); err != nil {
		return mapRequest{}, err
	}
	t, err := parseTarget(req)
	if err != nil {
		return mapRequest{}, err
	}
	cl, err := c.opts.Clusters.Read(t.cluster)
	if err == nil {
		cl, err = cl.WithSecrets(req.Secrets)
	}
	if err != nil {
		return mapRequest{}, err
	}
	if !t.hasNamespace {
		t.namespace = cl.Namespace
	}
	key, err := base64.StdEncoding.DecodeString(cl.Key)
	if err != nil {
		return mapRequest{}, volume.Errorf(volume.KindInvalid, "the key of the Ceph user %s is not base64", cl.User)
	}
	options, err := parseMapOptions(req.VolumeContext[rbdcsi.ParameterMapOptions])
	if err != nil {
		return mapRequest{}, err
	}
	return mapRequest{
		target: t, cluster: cl, readOnly: req.ReadOnly || t.snapshot != "", options: options,
		crushLocation: c.opts.CrushLocation, keyName: keyName(req.ID), key: key,
	}, nil
}

// ensureMapped returns the mapping of the volume, and makes it if there is none that can be used.
func (c *Connector) ensureMapped(ctx context.Context, id string, r mapRequest) (mapping, error) {
	m, found, err := c.findFor(id, r.target)
	if err != nil {
		return mapping{}, err
	}
	if found {
		reason, err := c.whyUnusable(m, r)
		if err != nil {
			return mapping{}, err
		}
		if reason == nil {
			return m, c.recordMapping(id, r.target, m)
		}
		if err := c.replace(ctx, id, m, reason); err != nil {
			return mapping{}, err
		}
	}
	// From before the mapping: the record shows a later call that there may be one.
	if err := c.records.write(record{ID: id, Image: r.target.String()}); err != nil {
		return mapping{}, err
	}
	return c.mapImage(ctx, id, r)
}

// whyUnusable returns why a mapping of the volume cannot serve the request; nil: it can. The error
// says that this could not be determined.
func (c *Connector) whyUnusable(m mapping, r mapRequest) (reason, err error) {
	if err := r.target.check(m); err != nil {
		return err, nil
	}
	if err := c.bus.refresh(m); err != nil {
		if errors.Is(err, unix.ESHUTDOWN) {
			return fencedError(m), nil
		}
		return nil, refreshError(m, err)
	}
	dev, err := c.opts.Devices.ByNumber(m.major, m.minor)
	if err != nil {
		return nil, err
	}
	isReadOnly, err := c.opts.Devices.IsReadOnly(dev)
	if err == nil && isReadOnly != r.readOnly {
		reason = volume.Errorf(volume.KindPrecondition, "%s is mapped with read-only=%t, but the request has read-only=%t",
			m, isReadOnly, r.readOnly)
	}
	return reason, err
}

// replace unmaps a mapping of the volume that cannot be used, for the reason. It fails while
// something uses the mapping, and never takes it from another volume.
func (c *Connector) replace(ctx context.Context, id string, m mapping, reason error) error {
	others, err := c.records.others(id, m.identity)
	if err != nil {
		return err
	}
	if len(others) > 0 {
		err = fmt.Errorf("volume %s has the same image mapped on this node", others[0])
	} else {
		err = c.unmap(ctx, m)
	}
	if err != nil {
		return volume.Errorf(volume.KindPrecondition, "%w; the image cannot be mapped again: %w",
			withoutRemedy(reason), withoutRemedy(err)).
			WithRemedy("delete the pods that use the volume on this node")
	}
	c.log.WarnContext(ctx, "unmapped an image in order to map it again",
		"volume", id, "device", m.String(), "client", m.client, "reason", reason)
	return nil
}

// withoutRemedy returns the error without its next step, for an error that has its own.
func withoutRemedy(err error) error {
	if e, ok := errors.AsType[*volume.Error](err); ok && error(e) == err { //nolint:errorlint // only err itself
		return e.WithRemedy("")
	}
	return err
}

// mapImage maps the image and returns the mapping once its device can be opened. A mapping of
// another image than the request says is removed.
func (c *Connector) mapImage(ctx context.Context, id string, r mapRequest) (mapping, error) {
	start := time.Now()
	if err := c.add(ctx, r); err != nil {
		return mapping{}, err
	}
	all, err := c.bus.list()
	if err != nil {
		return mapping{}, err
	}
	index := slices.IndexFunc(all, func(m mapping) bool { return m.key == r.keyName })
	if index < 0 {
		return mapping{}, volume.Errorf(volume.KindUnavailable,
			"the kernel has mapped %s, but shows no such mapping: another program has removed it", r.target).
			WithRemedy("no action needed: Kubernetes retries this automatically")
	}
	m := all[index]
	if err := r.target.check(m); err != nil {
		return mapping{}, volume.Join(err, c.unmap(ctx, m))
	}
	if m, err = c.withoutDuplicate(ctx, id, all, m, r); err != nil {
		return mapping{}, err
	}
	if err := c.awaitNode(ctx, m); err != nil {
		return mapping{}, err
	}
	c.log.InfoContext(ctx, "mapped an image", "volume", id, "device", m.String(), "client", m.client,
		"readOnly", r.readOnly, "took", time.Since(start).String())
	return m, c.recordMapping(id, r.target, m)
}

// add writes the request to the bus. A client of this node that the cluster has fenced stays the
// client of all mappings with the same options, so a mapping that it refuses gets its own client.
func (c *Connector) add(ctx context.Context, r mapRequest) error {
	text, err := r.text(false)
	if err != nil {
		return err
	}
	err = c.bus.add(text, r.keyName, r.key)
	if errors.Is(err, unix.ESHUTDOWN) {
		c.log.WarnContext(ctx, "the cluster has fenced the Ceph client of this node: mapping the image with another client",
			"image", r.target.String())
		if text, err = r.text(true); err != nil {
			return err
		}
		err = c.bus.add(text, r.keyName, r.key)
	}
	return mapError(r, err)
}

// withoutDuplicate returns the mapping to use of two mappings of one image: an older one, which may
// be in use, or m, which was just made. The older one was not found before, as the request had no
// ids of the image. The other one of the two is unmapped.
func (c *Connector) withoutDuplicate(
	ctx context.Context, id string, all []mapping, m mapping, r mapRequest,
) (mapping, error) {
	index := slices.IndexFunc(all, func(older mapping) bool { return older.identity == m.identity && older.id != m.id })
	if index < 0 {
		return m, nil
	}
	older := all[index]
	reason, err := c.whyUnusable(older, r)
	if err == nil && reason != nil {
		if err = c.replace(ctx, id, older, reason); err == nil {
			return m, nil
		}
	}
	return older, volume.Join(err, c.unmap(ctx, m))
}

// awaitNode waits until the device node of the mapping exists.
func (c *Connector) awaitNode(ctx context.Context, m mapping) error {
	ctx, cancel := context.WithTimeout(ctx, nodeTimeout)
	defer cancel()
	for {
		dev, err := c.opts.Devices.ByNumber(m.major, m.minor)
		if err == nil {
			_, err = c.opts.Devices.ByPath(dev.Path)
		}
		if err == nil || operation.Sleep(ctx, pollInterval) != nil {
			return err
		}
	}
}

const (
	nodeTimeout  = 5 * time.Second
	pollInterval = 10 * time.Millisecond
)

// recordMapping records the mapping of the volume.
func (c *Connector) recordMapping(id string, t target, m mapping) error {
	rec, _, err := c.records.read(id)
	if err != nil {
		return err
	}
	if rec.Mapped != nil && *rec.Mapped == m.identity && rec.Image == t.String() {
		return nil
	}
	return c.records.write(record{ID: id, Image: t.String(), Mapped: &m.identity})
}

// recordClient passes the client of the mapping to the recorder.
func (c *Connector) recordClient(ctx context.Context, id string, m mapping) error {
	if c.opts.Recorder == nil {
		return nil
	}
	if err := c.opts.Recorder.Mapped(ctx, id, m.FSID, m.client); err != nil {
		return volume.Errorf(volume.KindUnavailable, "%s is mapped, but its Ceph client %s could not be recorded: %w",
			m, m.client, err).WithRemedy("no action needed: Kubernetes retries this automatically")
	}
	return nil
}

// connection returns the connection of a mapping. published is the size that the controller
// published; zero: unknown.
func (c *Connector) connection(m mapping, published volume.Size) (volume.Connection, error) {
	dev, err := c.opts.Devices.ByNumber(m.major, m.minor)
	if err != nil {
		return volume.Connection{}, err
	}
	if dev.Kind != blockdev.KindRBD {
		return volume.Connection{}, volume.Errorf(volume.KindInternal, "%s is not the device of a mapped image", dev)
	}
	published = published.RoundDown(sectorSize)
	return volume.Connection{Path: dev.Path, Size: published, PublishedSize: published, ShortRemedy: shortRemedy}, nil
}

const shortRemedy = retryRemedy +
	"compare the size of the image (rbd info IMAGE) with that of its device (lsblk) on this node"
