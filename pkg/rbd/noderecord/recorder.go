package noderecord

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"github.com/growvol/growvol/pkg/kubeapi"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

const (
	// refreshInterval is how often Run writes the record, for a Node that was deleted and created
	// again, and for mappings that other programs make. retryInterval is the wait after a failure.
	refreshInterval = 5 * time.Minute
	retryInterval   = 5 * time.Second

	retryRemedy = "no action needed: Kubernetes retries this automatically"
)

// Recorder keeps the record of its node. It writes the whole list of the kernel each time: no
// earlier call, failure or crash can leave a mapping in the record that is gone, or the reverse.
type Recorder struct {
	options Options
	writing chan struct{} // holds a value while a write is running
	last    string        // the record as last written; guarded by writing
}

// Options configure a Recorder. API, Node and Driver are required.
type Options struct {
	API    kubeapi.API
	Node   string       // name of the Node object
	Driver string       // name of the CSI driver
	Sysfs  string       // empty: /sys
	Log    *slog.Logger // nil: no log
}

// NewRecorder returns a Recorder.
func NewRecorder(options Options) *Recorder {
	options.Sysfs = cmp.Or(options.Sysfs, "/sys")
	options.Log = cmp.Or(options.Log, slog.New(slog.DiscardHandler))
	return &Recorder{options: options, writing: make(chan struct{}, 1)}
}

// Mapped writes the record after a mapping, and returns when the Node has the record with the
// client. Until then nothing may use the device: a node that is lost could not be fenced. Kinds:
// Unavailable, Denied, Internal (the kernel does not list the client), Exhausted (too many
// mappings).
func (r *Recorder) Mapped(ctx context.Context, volumeID, fsid, clientAddress string) error {
	err := r.write(ctx, func(now Record) error {
		if !now.Has(fsid, clientAddress) {
			return volume.Errorf(volume.KindInternal, "the kernel lists no mapping of the client %s in the cluster %s",
				clientAddress, fsid)
		}
		return nil
	})
	return volume.Wrap(err, "record the mapping of", volumeID)
}

// CheckAttached checks that Kubernetes has the volume attached to this node. After Mapped, its
// success proves that the node may use the mapping: Kubernetes marks the VolumeAttachment as
// deleted before the controller reads the record, so a node that finds it unmarked has written the
// record first, and the controller does not detach the volume from the node, or fences the node.
// That holds while only Kubernetes calls the controller. Kinds: Precondition (it is not attached),
// Unavailable, Denied.
func (r *Recorder) CheckAttached(ctx context.Context, volumeID string) error {
	isAttached, err := r.options.API.IsAttached(ctx, r.options.Driver, volumeID, r.options.Node)
	const what = "cannot read whether the volume is attached to the node %s: %w"
	switch {
	case kubeapi.IsDenied(err):
		err = volume.Errorf(volume.KindDenied, what, r.options.Node, err).
			WithRemedy("let the node plugin get VolumeAttachments, as the chart does with rbac.create")
	case err != nil:
		err = volume.Errorf(volume.KindUnavailable, what, r.options.Node, err).WithRemedy(retryRemedy)
	case !isAttached:
		err = volume.Errorf(volume.KindPrecondition, "the volume is not attached to the node %s: another node may use it",
			r.options.Node).WithRemedy("no action needed: Kubernetes attaches the volume again if a pod on this node needs it")
	}
	return volume.Wrap(err, "check the attachment of", volumeID)
}

// Unmapped writes the record after the end of a mapping, also if there was none. Until it succeeds,
// the controller takes the volume as mapped and does not detach it. Kinds: those of Mapped.
func (r *Recorder) Unmapped(ctx context.Context, volumeID string) error {
	return volume.Wrap(r.write(ctx, nil), "record the end of the mapping of", volumeID)
}

// write reads the kernel's list and writes it, unless the last write has written the same. check,
// unless nil, sees the list first.
func (r *Recorder) write(ctx context.Context, check func(Record) error) error {
	select {
	case r.writing <- struct{}{}:
		defer func() { <-r.writing }()
	case <-ctx.Done():
		return volume.Errorf(volume.KindUnavailable, "an earlier write of the record has not ended: %w", context.Cause(ctx))
	}
	now, err := readKernel(r.options.Sysfs)
	if err == nil && check != nil {
		err = check(now)
	}
	if err != nil {
		return err
	}
	text := now.String()
	if text == r.last {
		return nil
	}
	if len(text) > maxSize {
		return volume.Errorf(volume.KindExhausted,
			"the list of the mapped images has %d bytes, but the annotation %s may have %d",
			len(text), ClientsAnnotation, maxSize).
			WithRemedy("move pods with volumes to other nodes")
	}
	r.last = ""
	if err := r.options.API.Annotate(ctx, r.options.Node, ClientsAnnotation, text); err != nil {
		return r.toError(err)
	}
	r.last = text
	return nil
}

// toError gives an error of the API server a kind.
func (r *Recorder) toError(err error) error {
	const what = "cannot write to the Node %s which images are mapped: %w"
	if kubeapi.IsDenied(err) {
		return volume.Errorf(volume.KindDenied, what, r.options.Node, err).
			WithRemedy("let the node plugin patch its Node, as the chart does with rbac.create")
	}
	return volume.Errorf(volume.KindUnavailable, what, r.options.Node, err).
		WithRemedy(retryRemedy)
}

// Run writes the record now and every five minutes until ctx ends. It logs failures, each once.
func (r *Recorder) Run(ctx context.Context) {
	lastLogged := ""
	for {
		wait := refreshInterval
		err := r.rewrite(ctx)
		switch {
		case err == nil:
			lastLogged = ""
		case ctx.Err() != nil:
			return
		default:
			wait = retryInterval
			if err.Error() != lastLogged {
				lastLogged = err.Error()
				r.options.Log.WarnContext(ctx, "cannot record which images this node has mapped: "+
					"if the node is lost, the controller cannot fence it", "cause", err)
			}
		}
		if operation.Sleep(ctx, wait) != nil {
			return
		}
	}
}

// rewrite writes the record even if it is the same: others may have changed the Node.
func (r *Recorder) rewrite(ctx context.Context) error {
	select {
	case r.writing <- struct{}{}:
		r.last = ""
		<-r.writing
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return r.write(ctx, nil)
}
