package growthreport

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/claimreadings"
	"github.com/growvol/growvol/pkg/readings"
	"github.com/growvol/growvol/pkg/volume"
)

const (
	// shortageInterval is the time between two readings of a claim, as long as nothing is missing.
	shortageInterval = time.Minute
	// confirmInterval is the time between the first reading that shows a shortage and the second.
	confirmInterval = 10 * time.Second
	// claimTimeout bounds the reading of a claim from the API server.
	claimTimeout = 10 * time.Second
)

// Shortages reports claims whose filesystem is smaller than the claim says, by the readings of the
// nodes. It is a claimreadings.Observer and a collector of metrics.
type Shortages struct {
	Options
	description *prometheus.Desc

	mu  sync.Mutex
	all map[types.NamespacedName]*shortage
}

// shortage is a claim of which a reading has shown that its filesystem is too small.
type shortage struct {
	uid            types.UID
	capacity, size volume.Size
	firstRead      time.Time // the first reading that has shown these sizes
	isReported     bool
}

// NewShortages returns a Shortages with the options.
func NewShortages(o Options) *Shortages {
	s := &Shortages{
		Options: o,
		description: prometheus.NewDesc("growvol_operator_filesystem_missing_bytes",
			"Bytes by which the filesystem of a claim in use is smaller than the claim says, if it is.",
			[]string{"claim_namespace", "claim"}, nil),
		all: map[types.NamespacedName]*shortage{},
	}
	o.Metrics.MustRegister(s)
	return s
}

// Interval implements claimreadings.Observer.
func (*Shortages) Interval(context.Context, *corev1.PersistentVolumeClaim) time.Duration {
	return shortageInterval
}

// Retain implements claimreadings.Observer.
func (s *Shortages) Retain(claims map[types.NamespacedName]types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, known := range s.all {
		if claims[name] != known.uid {
			delete(s.all, name)
		}
	}
}

// Describe implements prometheus.Collector.
func (s *Shortages) Describe(descriptions chan<- *prometheus.Desc) { descriptions <- s.description }

// Collect implements prometheus.Collector. Only claims that were reported have a series.
func (s *Shortages) Collect(metrics chan<- prometheus.Metric) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, known := range s.all {
		if known.isReported {
			metrics <- prometheus.MustNewConstMetric(s.description, prometheus.GaugeValue,
				float64(known.capacity-known.size), name.Namespace, name.Name)
		}
	}
}

// Observe implements claimreadings.Observer. Two readings with the same sizes are needed, both
// newer than the claim's capacity. What a node does not report is not guessed.
func (s *Shortages) Observe(ctx context.Context, r claimreadings.Reading) time.Duration {
	layer := layerOf(r)
	if layer == nil {
		return 0
	}
	name := client.ObjectKeyFromObject(r.Claim)
	capacity := claim.Capacity(r.Claim)
	if claim.StepOf(r.Claim) != "" || layer.Size >= capacity-claim.MaxUnused {
		s.forget(name)
		return 0
	}
	first, isNew := s.update(name, r.Claim.UID, capacity, *layer)
	if !isNew {
		return 0
	}
	if first.IsZero() {
		return confirmInterval
	}
	isConfirmed, err := s.isAfterGrowth(ctx, r.Claim, first)
	if err != nil {
		s.Log.WarnContext(ctx, "whether a filesystem is too small is not known yet; the next reading shows it",
			"namespace", name.Namespace, "claim", name.Name, "error", err)
		return 0
	}
	if !isConfirmed {
		s.forget(name)
		return confirmInterval
	}
	s.report(ctx, r, *layer)
	return 0
}

// layerOf returns the filesystem, or the device of a raw block volume. It is nil if it was not
// read.
func layerOf(r claimreadings.Reading) *readings.Layer {
	if r.Volume == nil {
		return nil
	}
	wanted := readings.LayerFilesystem
	if mode := r.Claim.Spec.VolumeMode; mode != nil && *mode == corev1.PersistentVolumeBlock {
		wanted = readings.LayerDevice
	}
	for i := range r.Volume.Layers {
		if l := &r.Volume.Layers[i]; l.Name == wanted && l.Size > 0 {
			return l
		}
	}
	return nil
}

func (s *Shortages) forget(name types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, name)
}

// update stores the reading. It returns the time of an earlier reading of the same sizes, or zero
// without one, and whether the shortage has not been reported.
func (s *Shortages) update(
	name types.NamespacedName, uid types.UID, capacity volume.Size, l readings.Layer,
) (first time.Time, isNew bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.all[name]
	if known == nil || known.uid != uid || known.capacity != capacity || known.size != l.Size {
		s.all[name] = &shortage{uid: uid, capacity: capacity, size: l.Size, firstRead: l.ReadAt}
		return time.Time{}, true
	}
	if !l.ReadAt.After(known.firstRead) { // the node has not read again
		return time.Time{}, !known.isReported
	}
	return known.firstRead, !known.isReported
}

// isAfterGrowth reports whether the claim still has the size, and had it before the time.
func (s *Shortages) isAfterGrowth(ctx context.Context, c *corev1.PersistentVolumeClaim, t time.Time) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	var live corev1.PersistentVolumeClaim
	if err := s.Live.Get(ctx, client.ObjectKeyFromObject(c), &live); err != nil {
		return false, fmt.Errorf("read claim %s/%s: %w", c.Namespace, c.Name, err)
	}
	return live.UID == c.UID && claim.StepOf(&live) == "" && claim.Capacity(&live) == claim.Capacity(c) &&
		claim.IsAfterGrowth(&live, t), nil
}

// report writes the event.
func (s *Shortages) report(ctx context.Context, r claimreadings.Reading, l readings.Layer) {
	name := client.ObjectKeyFromObject(r.Claim)
	s.mu.Lock()
	if known := s.all[name]; known != nil {
		known.isReported = true
	}
	s.mu.Unlock()
	capacity := claim.Capacity(r.Claim)
	note := fmt.Sprintf("Kubernetes says that the claim has %s, but its %s has %s (read at %s on %s): %s are missing "+
		"(next step: delete the pod, so that the driver grows the %s when it mounts it; if it stays, read the log of the "+
		"driver's node plugin)",
		capacity, l.Name, l.Size, l.ReadAt.UTC().Format(time.TimeOnly), r.Node, capacity-l.Size, l.Name)
	s.Log.WarnContext(ctx, "a filesystem is smaller than its claim says", "namespace", name.Namespace, "claim", name.Name,
		"capacity", capacity, "size", l.Size, "node", r.Node)
	s.Events.Eventf(r.Claim, nil, corev1.EventTypeWarning, "FilesystemShort", "Grow", "%s", note)
}
