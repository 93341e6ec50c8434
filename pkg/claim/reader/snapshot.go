package reader

import (
	"context"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/growvol/growvol/pkg/apierror"
	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/volume"
)

// maxNodesAtOnce bounds the nodes that are read at the same time.
const maxNodesAtOnce = 16

// snapshot remembers what was read, so that each object is read once for many claims.
type snapshot struct {
	reader  *Reader
	volumes map[string]claim.Reading[*corev1.PersistentVolume]
	nodes   map[string]claim.Reading[*storagev1.CSINode]
	stats   map[string]claim.Reading[[]PodVolumeStats]
	layers  map[DriverVolume]claim.Reading[[]claim.Layer]
	// The errors of the lists: an object that is in no map then has this error.
	volumesErr, nodesErr error
	preloaded            bool
	around               around
}

func newSnapshot(r *Reader) *snapshot {
	return &snapshot{
		reader: r, volumes: map[string]claim.Reading[*corev1.PersistentVolume]{},
		nodes: map[string]claim.Reading[*storagev1.CSINode]{}, stats: map[string]claim.Reading[[]PodVolumeStats]{},
		layers: map[DriverVolume]claim.Reading[[]claim.Layer]{},
		around: around{
			classes: map[string]claim.Reading[*storagev1.StorageClass]{},
			drivers: map[string]claim.Reading[*storagev1.CSIDriver]{},
		},
	}
}

// preload lists the PersistentVolumes and the CSINodes.
func (s *snapshot) preload(ctx context.Context) {
	s.preloaded = true
	volumes, err := s.reader.Client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if s.volumesErr = apierror.Of(err, "list", "persistentvolumes", ""); err == nil {
		for i := range volumes.Items {
			s.volumes[volumes.Items[i].Name] = claim.Reading[*corev1.PersistentVolume]{Value: &volumes.Items[i]}
		}
	}
	nodes, err := s.reader.Client.StorageV1().CSINodes().List(ctx, metav1.ListOptions{})
	if s.nodesErr = apierror.Of(err, "list", "csinodes", ""); err == nil {
		for i := range nodes.Items {
			s.nodes[nodes.Items[i].Name] = claim.Reading[*storagev1.CSINode]{Value: &nodes.Items[i]}
		}
	}
}

func (s *snapshot) volume(ctx context.Context, name string) claim.Reading[*corev1.PersistentVolume] {
	reading, known := s.volumes[name]
	switch {
	case known || name == "":
		return reading
	case s.preloaded:
		return claim.Reading[*corev1.PersistentVolume]{Err: s.volumesErr}
	}
	reading.Value, reading.Err = s.reader.persistentVolume(ctx, name)
	if reading.Err != nil {
		reading.Value = nil
	}
	s.volumes[name] = reading
	return reading
}

func (s *snapshot) node(ctx context.Context, name string) claim.Reading[*storagev1.CSINode] {
	reading, known := s.nodes[name]
	switch {
	case known || name == "":
		return reading
	case s.preloaded:
		return claim.Reading[*storagev1.CSINode]{Err: s.nodesErr}
	}
	reading.Value, reading.Err = s.reader.csiNode(ctx, name)
	if reading.Err != nil {
		reading.Value = nil
	}
	s.nodes[name] = reading
	return reading
}

// readNodes reads the stats of the nodes that have pods with the claims, several at once.
func (s *snapshot) readNodes(ctx context.Context, claims []corev1.PersistentVolumeClaim, pods podIndex) {
	nodes := map[string]bool{}
	for i := range claims {
		if node := nodeOf(pods.using(&claims[i]).Value); node != "" {
			nodes[node] = true
		}
	}
	var (
		group errgroup.Group
		mutex sync.Mutex
	)
	group.SetLimit(maxNodesAtOnce)
	for _, node := range slices.Sorted(maps.Keys(nodes)) {
		group.Go(func() error {
			stats, err := s.reader.Stats.ReadStats(ctx, node)
			mutex.Lock()
			defer mutex.Unlock()
			s.stats[node] = claim.Reading[[]PodVolumeStats]{Value: stats, Err: err}
			return nil
		})
	}
	_ = group.Wait() // each error is in its reading
}

// readDrivers reads the layers of the claims' volumes from their drivers, all in one call.
func (s *snapshot) readDrivers(ctx context.Context, claims []corev1.PersistentVolumeClaim, pods podIndex) {
	if s.reader.Driver == nil {
		return
	}
	var volumes []DriverVolume
	for i := range claims {
		pv := s.volume(ctx, claims[i].Spec.VolumeName).Value
		if pv != nil && pv.Spec.CSI != nil {
			volumes = append(volumes, driverVolume(pv, nodeOf(pods.using(&claims[i]).Value)))
		}
	}
	for i, layers := range s.reader.Driver.ReadLayers(ctx, volumes) {
		s.layers[volumes[i]] = layers
	}
}

func driverVolume(pv *corev1.PersistentVolume, node string) DriverVolume {
	return DriverVolume{Driver: pv.Spec.CSI.Driver, Handle: pv.Spec.CSI.VolumeHandle, Node: node}
}

// driverLayers returns the driver's readings of the volume.
func (s *snapshot) driverLayers(
	ctx context.Context, pv *corev1.PersistentVolume, node string,
) claim.Reading[[]claim.Layer] {
	switch {
	case pv == nil || pv.Spec.CSI == nil:
		return claim.Reading[[]claim.Layer]{}
	case s.reader.Driver == nil:
		return claim.Reading[[]claim.Layer]{Err: volume.Errorf(volume.KindUnsupported,
			"the driver gives no readings to this program")}
	}
	v := driverVolume(pv, node)
	if _, known := s.layers[v]; !known {
		s.layers[v] = s.reader.Driver.ReadLayers(ctx, []DriverVolume{v})[0]
	}
	return s.layers[v]
}

// nodeStats returns the stats of the claim's volume, as kubelet of the node reports them.
func (s *snapshot) nodeStats(
	ctx context.Context, c *corev1.PersistentVolumeClaim, node string,
) claim.Reading[*claim.VolumeStats] {
	if node == "" {
		return claim.Reading[*claim.VolumeStats]{}
	}
	all, known := s.stats[node]
	if !known {
		all.Value, all.Err = s.reader.Stats.ReadStats(ctx, node)
		s.stats[node] = all
	}
	for i := range all.Value {
		v := &all.Value[i]
		if v.Namespace == c.Namespace && v.Claim == c.Name {
			return claim.Reading[*claim.VolumeStats]{Value: &v.VolumeStats}
		}
	}
	return claim.Reading[*claim.VolumeStats]{Err: all.Err}
}

// objects returns the readings of the claim, without events.
func (s *snapshot) objects(ctx context.Context, c *corev1.PersistentVolumeClaim) claim.Objects {
	return s.objectsWithPods(ctx, c, indexPods(s.reader.pods(ctx, c.Namespace)).using(c))
}

func (s *snapshot) objectsWithPods(
	ctx context.Context, c *corev1.PersistentVolumeClaim, pods claim.Reading[[]corev1.Pod],
) claim.Objects {
	o := claim.Objects{Claim: c, Pods: pods, Volume: s.volume(ctx, c.Spec.VolumeName)}
	node := nodeOf(pods.Value)
	o.Node = s.node(ctx, node)
	if o.Stats = s.nodeStats(ctx, c, node); pods.Err != nil {
		o.Stats.Err = pods.Err // without the pods, the node is not known
	}
	if o.Driver = s.driverLayers(ctx, o.Volume.Value, node); o.Volume.Err != nil {
		o.Driver.Err = o.Volume.Err // without the PersistentVolume, the driver is not known
	}
	s.addAround(ctx, &o)
	o.ReadAt = s.reader.Now()
	return o
}
