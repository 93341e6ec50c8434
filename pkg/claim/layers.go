package claim

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/growvol/growvol/pkg/volume"
)

// maxEvents is the number of events that a status has.
const maxEvents = 5

// NewStatus returns the status of the claim.
func NewStatus(o Objects) Status {
	c := o.Claim
	s := Status{
		Namespace: c.Namespace, Name: c.Name, Phase: string(c.Status.Phase), Volume: c.Spec.VolumeName,
		ReadAt: o.ReadAt, Step: StepOf(c), Conditions: conditionsOf(c),
	}
	if c.Spec.StorageClassName != nil {
		s.Class = *c.Spec.StorageClassName
	}
	if pv := o.Volume.Value; pv != nil && pv.Spec.CSI != nil {
		s.Driver, s.Handle = pv.Spec.CSI.Driver, pv.Spec.CSI.VolumeHandle
	}
	s.Pods = podsOf(o.Pods.Value)
	s.Events = eventsOf(o.Events.Value)
	for _, err := range []error{o.Pods.Err, o.Events.Err, o.Node.Err} {
		if err != nil {
			s.Problems = append(s.Problems, err.Error())
		}
	}
	if o.Stats.Value != nil && !isBlock(c) {
		s.Usage = o.Stats.Value.usage()
	}
	if missing, _, isOld := shortage(o); missing > 0 && c.Status.Phase == corev1.ClaimBound {
		if s.IsReadingOld = isOld; !isOld {
			s.Missing = missing
		}
	}
	s.Diagnosis = diagnose(o, &s)
	s.Layers = append(kubernetesLayers(o, &s), storageLayers(o, &s)...)
	return s
}

// Request returns the size that the claim requests.
func Request(c *corev1.PersistentVolumeClaim) volume.Size {
	return volume.Size(c.Spec.Resources.Requests.Storage().Value())
}

// Capacity returns the size that the claim has.
func Capacity(c *corev1.PersistentVolumeClaim) volume.Size {
	return volume.Size(c.Status.Capacity.Storage().Value())
}

// StepOf returns the claim's resize status. Where Kubernetes does not write it (before 1.34, or
// without RecoverVolumeExpansionFailure), the conditions imply it.
func StepOf(c *corev1.PersistentVolumeClaim) string {
	if step := c.Status.AllocatedResourceStatuses[corev1.ResourceStorage]; step != "" {
		return string(step)
	}
	step := ""
	for _, condition := range c.Status.Conditions {
		switch {
		case condition.Status != corev1.ConditionTrue:
		case condition.Type == corev1.PersistentVolumeClaimFileSystemResizePending:
			return string(corev1.PersistentVolumeClaimNodeResizePending)
		case condition.Type == corev1.PersistentVolumeClaimResizing:
			step = string(corev1.PersistentVolumeClaimControllerResizeInProgress)
		}
	}
	return step
}

// conditionsOf returns the conditions that concern the size.
func conditionsOf(c *corev1.PersistentVolumeClaim) []Condition {
	var all []Condition
	for _, condition := range c.Status.Conditions {
		isResize := strings.Contains(string(condition.Type), "Resiz")
		if condition.Status == corev1.ConditionTrue && isResize {
			all = append(all, Condition{
				Type: string(condition.Type), Since: condition.LastTransitionTime.Time, Message: condition.Message,
			})
		}
	}
	return all
}

func podsOf(pods []corev1.Pod) []Pod {
	var all []Pod
	for i := range pods {
		p := &pods[i]
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		all = append(all, Pod{Name: p.Name, Node: p.Spec.NodeName, Runs: p.Spec.NodeName != ""})
	}
	return all
}

// eventsOf returns the last events, the newest first. Of the pods' events, it returns those that
// concern volumes.
func eventsOf(events []corev1.Event) []Event {
	var all []Event
	for i := range events {
		e := &events[i]
		isClaim := e.InvolvedObject.Kind == "PersistentVolumeClaim"
		if !isClaim && !strings.Contains(e.Reason, "Volume") && !strings.Contains(e.Reason, "FileSystem") &&
			e.Reason != "FailedMount" {
			continue
		}
		last := e.LastTimestamp.Time
		if last.IsZero() {
			last = e.EventTime.Time
		}
		if e.Series != nil && e.Series.LastObservedTime.After(last) {
			last = e.Series.LastObservedTime.Time
		}
		all = append(all, Event{
			Object: e.InvolvedObject.Kind + "/" + e.InvolvedObject.Name, Reason: e.Reason,
			Message: strings.TrimSpace(e.Message), Last: last, Count: e.Count,
		})
	}
	slices.SortStableFunc(all, func(a, b Event) int { return b.Last.Compare(a.Last) })
	return all[:min(len(all), maxEvents)]
}

// kubernetesLayers returns the layers that Kubernetes has as objects.
func kubernetesLayers(o Objects, s *Status) []Layer {
	request, capacity := Request(o.Claim), Capacity(o.Claim)
	stateFor := func(state LayerState) LayerState {
		if s.Diagnosis.Severity == SeverityStuck && state == StateWaits {
			return StateFailed
		}
		return state
	}
	claimState, pvState := StateOK, StateOK
	if capacity < request {
		claimState = stateFor(StateWaits)
	}
	pv := Layer{Name: LayerPV, Source: "PersistentVolume " + o.Claim.Spec.VolumeName, ReadAt: o.ReadAt}
	switch object := o.Volume.Value; {
	case o.Claim.Spec.VolumeName == "":
		pv = Layer{Name: LayerPV, State: StateAbsent, Source: "the claim is not bound"}
	case object == nil:
		pv = unreadLayer(pv, o.Volume.Err, "it does not exist")
	default:
		pv.Size = volume.Size(object.Spec.Capacity.Storage().Value())
		if pv.Size < request {
			pvState = stateFor(StateWaits)
		}
		pv.State = pvState
	}
	return []Layer{
		{
			Name: LayerRequest, Size: request, State: StateOK, ReadAt: o.ReadAt,
			Source: "PersistentVolumeClaim, spec.resources.requests",
		},
		{
			Name: LayerClaim, Size: capacity, State: claimState, ReadAt: o.ReadAt,
			Source: "PersistentVolumeClaim, status.capacity",
		},
		pv,
	}
}

func unreadLayer(l Layer, err error, otherwise string) Layer {
	l.Size, l.State, l.ReadAt, l.Problem = 0, StateUnknown, time.Time{}, otherwise
	if err != nil {
		l.Problem = err.Error()
	}
	return l
}

// storageLayers returns the layers below Kubernetes: the driver's readings, and of the others
// kubelet's.
func storageLayers(o Objects, s *Status) []Layer {
	layers := []Layer{
		{Name: LayerVolume, Source: driverSource(s)},
		{Name: LayerDevice, Source: driverSource(s)},
		{Name: LayerMapping, Source: driverSource(s)},
		{Name: LayerFilesystem, Source: driverSource(s)},
	}
	for i := range layers {
		l := &layers[i]
		read := slices.IndexFunc(o.Driver.Value, func(d Layer) bool { return d.Name == l.Name })
		switch {
		case read >= 0:
			*l = o.Driver.Value[read]
			if l.State == "" {
				l.State = driverState(o, s, l)
			}
		case isBlock(o.Claim) && (l.Name == LayerMapping || l.Name == LayerFilesystem):
			*l = Layer{Name: l.Name, State: StateAbsent, Source: "raw block volume"}
		case l.Name == LayerMapping && driverLayer(o, LayerDevice) != nil && o.Driver.Err == nil:
			*l = Layer{Name: l.Name, State: StateAbsent, Source: "not encrypted on the node"}
		case l.Name == LayerFilesystem, l.Name == LayerDevice && isBlock(o.Claim):
			*l = statsLayer(o, s, l.Name)
		default:
			*l = unreadLayer(*l, o.Driver.Err, "the driver has no readings of this volume")
		}
	}
	return layers
}

// driverState returns how the size that the driver has read compares with the claim. Below the
// volume a header may be missing from the size, and a filesystem may leave out its last blocks.
func driverState(o Objects, s *Status, l *Layer) LayerState {
	size := l.Size
	if l.Name != LayerVolume {
		size += MaxUnused
	}
	switch {
	case size >= Request(o.Claim):
		return StateOK
	case size < Capacity(o.Claim) && isAfterGrowth(o, l.ReadAt):
		return StateShort
	case s.Diagnosis.Severity == SeverityStuck:
		return StateFailed
	}
	return StateWaits
}

func driverSource(s *Status) string { return "driver " + cmp.Or(s.Driver, "(unknown)") }

// statsLayer returns the layer that kubelet reports: the filesystem, or the device of a raw block
// volume.
func statsLayer(o Objects, s *Status, name LayerName) Layer {
	pod, runs := s.RunningPod()
	stats := o.Stats.Value
	switch {
	case stats == nil && !runs && o.Pods.Err == nil:
		return Layer{Name: name, State: StateUnknown, Source: "kubelet", Problem: "no pod has the volume mounted"}
	case stats == nil:
		return unreadLayer(Layer{Name: name, Source: "kubelet of " + cmp.Or(pod.Node, "an unknown node")},
			o.Stats.Err, "kubelet does not report this volume (yet)")
	}
	l := Layer{
		Name: name, Size: stats.Capacity, State: StateOK, ReadAt: stats.ReadAt, Source: "kubelet of " + stats.Node,
	}
	if name == LayerFilesystem {
		if pv := o.Volume.Value; pv != nil && pv.Spec.CSI != nil && pv.Spec.CSI.FSType != "" {
			l.Source += ", " + pv.Spec.CSI.FSType
		}
		l.Source += fmt.Sprintf(", %d%% used", stats.usage().UsedPercent)
	}
	switch {
	case s.Diagnosis.Kind == KindFilesystemShort:
		l.State = StateShort
	case s.Diagnosis.Kind == KindReadingOld:
		l.State = StateWaits
	case s.Step != "" && stats.Capacity < minFilesystem(o, Request(o.Claim)):
		l.State = StateWaits
		if s.Diagnosis.Severity == SeverityStuck {
			l.State = StateFailed
		}
	}
	return l
}

func isBlock(c *corev1.PersistentVolumeClaim) bool {
	return c.Spec.VolumeMode != nil && *c.Spec.VolumeMode == corev1.PersistentVolumeBlock
}
