// Package rbd is the backend of Ceph RBD: volumes are images of Ceph clusters, made and expanded
// through librbd.
//
// Calls of librbd cannot be interrupted. So every method runs its calls detached (run.go): it
// answers when its context ends, the calls continue, and the retry waits for them. There is no
// journal: the name of an image follows from the name of the request, its metadata have one record
// (package metadata), and every operation leads to the requested state from any state that an
// interrupted one has left.
//
// Begin with New in this file. Each RPC is in the file of its name (create.go, expand.go, …).
// Errors of Ceph get their kind in errors.go. The calls of librbd are behind package ceph.
package rbd

import (
	"context"
	"log/slog"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/connection"
	"github.com/growvol/growvol/pkg/volume"
)

// Sizes of images. librbd allows any number of bytes.
const (
	granularity = volume.MiB
	defaultSize = volume.GiB
)

// DefaultNamePrefix begins the names of the images of a class without volumeNamePrefix.
const DefaultNamePrefix = "csi-vol-"

// Dialer connects to clusters.
type Dialer = ceph.Dialer

// Clusters is the configuration of the clusters (cluster.Files). Every call reads it again, so that
// changes need no restart.
type Clusters interface {
	// IDs returns the ids of all clusters.
	IDs() ([]string, error)
	// Read returns one cluster. Its user and key are empty if only the secrets of requests have
	// them.
	Read(id string) (cluster.Cluster, error)
}

// Options configure a Backend.
type Options struct {
	Clusters Clusters
	Dialer   Dialer
	// Nodes are those of Kubernetes, whose plugins record there what they have mapped. Nil: without
	// Kubernetes. Attachments are recorded then too, but a lost node cannot be fenced.
	Nodes Nodes
	// NamePrefix begins the names of new images; a class can set another. Empty: DefaultNamePrefix.
	NamePrefix string
	// Topology: the classes have the parameter topologyConstrainedPools.
	Topology   bool
	Detached   *operation.Tracker    // tracks calls that continue after their RPCs; nil: nothing does
	Log        *slog.Logger          // nil: no log
	Registerer prometheus.Registerer // for the metrics of this backend; nil: none
}

// Backend keeps volumes as images. It implements volume.Backend and, of the optional interfaces of
// package volume, those that interfaces_test.go names.
type Backend struct {
	opts        Options
	log         *slog.Logger
	connections *connection.Pool
	locks       operation.Locks // by handle of the volume, or by another key of a task
	slots       *slots
	finds       findCache
	hasAnswered atomic.Bool // a cluster has answered once
}

// New returns a backend. It connects to a cluster when that is first needed.
func New(_ context.Context, o Options) (*Backend, error) {
	if o.Clusters == nil || o.Dialer == nil {
		return nil, volume.Errorf(volume.KindInvalid, "the rbd backend needs the configuration of the clusters and a dialer")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.NamePrefix == "" {
		o.NamePrefix = DefaultNamePrefix
	}
	tasks, err := newTaskMetric(o.Registerer)
	if err != nil {
		return nil, volume.Errorf(volume.KindInternal, "cannot register the metrics: %w", err)
	}
	return &Backend{
		opts: o, log: o.Log, connections: connection.New(o.Dialer, o.Log),
		slots: newSlots(tasks),
	}, nil
}

// Close closes the connections that no call uses, and the others when their calls end.
func (b *Backend) Close() { b.connections.Close() }

// Limits implements volume.Backend. It sets no maximum: that depends on the image features and on
// the quota of the pool.
func (*Backend) Limits() volume.Limits {
	return volume.Limits{Granularity: granularity, Min: granularity, Default: defaultSize}
}

// AccessModes implements volume.Backend.
func (*Backend) AccessModes() []volume.AccessMode {
	return []volume.AccessMode{
		volume.AccessSingleNodeWriter, volume.AccessSingleNodeReaderOnly,
		volume.AccessSingleNodeSingleWriter, volume.AccessSingleNodeMultiWriter,
		volume.AccessMultiNodeReaderOnly, volume.AccessMultiNodeSingleWriter, volume.AccessMultiNodeMultiWriter,
	}
}

// HasTopology implements volume.Backend.
func (b *Backend) HasTopology() bool { return b.opts.Topology }
