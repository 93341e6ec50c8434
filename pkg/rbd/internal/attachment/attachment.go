// Package attachment attaches an image to a node and detaches it. Any node can map any image, so an
// attachment is what this package records and checks: one key per node in the metadata of the image,
// the watchers of the image, and the record that each node writes about what its kernel has mapped
// (package noderecord).
//
// A node that may still write to an image keeps its attachment. A node that is lost loses it only
// when an administrator has declared that the node is shut down; then Detach first fences exactly
// the clients that the node's record names for this image.
//
// Begin with Attachment.Attach and Attachment.Detach. Errors of Ceph keep their errno and have no
// kind; the caller adds it.
package attachment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/kubeapi"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/noderecord"
	"github.com/growvol/growvol/pkg/volume"
)

const retryRemedy = "no action needed: Kubernetes retries this automatically"

// Nodes reads and annotates the Nodes of Kubernetes; kubeapi.API implements it.
type Nodes interface {
	ReadNode(ctx context.Context, name string) (kubeapi.Node, error)
	AnnotateUnchanged(ctx context.Context, n kubeapi.Node, key, value string) error
}

// Attachment is the attachment of one image to nodes.
type Attachment struct {
	Cluster   ceph.Cluster
	Pool      ceph.Pool
	Namespace string // RADOS namespace of Pool
	// Open opens the image read-only. Kind NotFound: there is no such image.
	Open func() (ceph.Image, error)
	Name string // of the image for people and commands: pool[/namespace]/image
	// Nodes is nil without Kubernetes: then nothing is known about nodes, and none is fenced.
	Nodes Nodes
	Log   *slog.Logger
	Wait  time.Duration // how long Detach waits for the watch of a fenced client to end
}

// state is what Ceph shows of the image.
type state struct {
	info     ceph.ImageInfo
	watchers []ceph.Watcher
	attached map[string]Use // by node
}

// read reads the image. It adds no watcher.
func (a Attachment) read(ctx context.Context) (state, error) {
	im, err := a.Open()
	if err != nil {
		return state{}, err
	}
	defer func() {
		if err := im.Close(); err != nil {
			a.Log.WarnContext(ctx, "cannot close an image", "image", a.Name, "error", err)
		}
	}()
	var s state
	if s.info, err = im.Info(); err != nil {
		return state{}, fmt.Errorf("cannot read image %s: %w", a.Name, err)
	}
	if s.watchers, err = im.Watchers(); err != nil {
		return state{}, fmt.Errorf("cannot list the watchers of image %s: %w", a.Name, err)
	}
	s.attached, err = a.readUses(s.info.ID)
	return s, err
}

// readUses reads the recorded attachments.
func (a Attachment) readUses(imageID string) (map[string]Use, error) {
	all, err := a.Pool.Metadata(imageID)
	if errors.Is(err, unix.ENOENT) {
		return nil, volume.Errorf(volume.KindNotFound, "image %s no longer exists: %w", a.Name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the metadata of image %s: %w", a.Name, err)
	}
	return Uses(imageID, all)
}

// image returns the ids by which nodes record the image.
func (a Attachment) image(s state) noderecord.Image {
	return noderecord.Image{PoolID: a.Pool.ID(), Namespace: a.Namespace, ID: s.info.ID}
}

// node is a Node with the annotations of this driver.
type node struct {
	kubeapi.Node

	record   noderecord.Record
	isKnown  bool // the node has written a record
	fences   []noderecord.Fence
	isAbsent bool // Kubernetes has no Node of the name
}

// readNode reads a Node; one that does not exist is no error. Kinds: Unavailable, Denied.
func (a Attachment) readNode(ctx context.Context, name string) (node, error) {
	read, err := a.Nodes.ReadNode(ctx, name)
	if kubeapi.IsNotFound(err) {
		return node{isAbsent: true}, nil
	}
	n := node{Node: read}
	if err == nil {
		n.record, n.isKnown, err = noderecord.Parse(read.Metadata.Annotations[noderecord.ClientsAnnotation])
	}
	if err == nil {
		n.fences, err = noderecord.ParseFences(read.Metadata.Annotations[noderecord.FencedAnnotation])
	}
	if err != nil {
		return node{}, nodeError("cannot read the Node %s: %w", name, err)
	}
	return n, nil
}

// nodeError gives an error of the API server a kind.
func nodeError(format, name string, err error) error {
	if kubeapi.IsDenied(err) {
		return volume.Errorf(volume.KindDenied, format, name, err).
			WithRemedy("let the controller plugin get and patch Nodes, as the chart does with rbac.create")
	}
	return volume.Errorf(volume.KindUnavailable, format, name, err).WithRemedy(retryRemedy)
}

// addresses returns the addresses of watchers, for messages.
func addresses(watchers []ceph.Watcher) string {
	var out []string
	for _, w := range watchers {
		out = append(out, w.Address)
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), ", ")
}

// otherNodes returns the names of the nodes, other than that one, that the image is attached to.
func (s state) otherNodes(name string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(s.attached)), func(other string) bool { return other == name })
}
