package claim

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/growvol/growvol/pkg/volume"
)

// Attachment is what Kubernetes says of the volume on a node. This file has what the objects around
// a claim say: its StorageClass, the driver's CSIDriver and CSINode, and VolumeAttachments.
type Attachment struct {
	Node     string `json:"node"`
	Attached bool   `json:"attached"`
	// Problem is the error of the last attempt to attach or detach the volume.
	Problem string `json:"problem,omitempty"`
	key     string // of the row in remedies.yaml; empty without an error
}

// attachmentsOf returns the attachments, those with an error first.
func attachmentsOf(objects []storagev1.VolumeAttachment) []Attachment {
	var all []Attachment
	for i := range objects {
		o := &objects[i]
		a := Attachment{Node: o.Spec.NodeName, Attached: o.Status.Attached}
		switch {
		case o.Status.DetachError != nil && o.DeletionTimestamp != nil:
			a.key, a.Problem = "detachError", o.Status.DetachError.Message
		case o.Status.AttachError != nil && !o.Status.Attached:
			a.key, a.Problem = "attachError", o.Status.AttachError.Message
		}
		all = append(all, a)
	}
	slices.SortStableFunc(all, func(a, b Attachment) int {
		switch {
		case (a.key != "") == (b.key != ""):
			return 0
		case a.key != "":
			return -1
		}
		return 1
	})
	return all
}

// expandsClass reports whether the claim's class allows expansion. It is nil if this is not known.
func expandsClass(o Objects) *bool {
	class := o.Class.Value
	switch {
	case class != nil:
		expands := class.AllowVolumeExpansion != nil && *class.AllowVolumeExpansion
		return &expands
	case volume.KindOf(o.Class.Err) == volume.KindNotFound:
		return new(bool)
	}
	return nil
}

// addAround replaces a diagnosis that has no error by what the objects around the claim say.
func (d *Diagnosis) addAround(o Objects, s *Status) {
	if d.Severity == SeverityStuck {
		return
	}
	row, message, found := findAround(o, s, d.Kind)
	if !found {
		return
	}
	if d.Message = message; row.Severity.Rank() > d.Severity.Rank() {
		d.Severity = row.Severity
	}
	switch {
	case d.Kind == KindGrown && row.Severity != SeverityNone:
		d.Kind, d.Subject, d.Problem = row.Key, row.Subject, row.Meaning
	case row.Key == keyNotRegistered:
		d.Problem = row.Meaning
	default:
		d.Problem += "; " + row.Meaning
	}
	if message != "" {
		text, next := splitNextStep(descriptionOf(message))
		d.Problem += ": " + text
		d.Next = next
	}
	if d.Next == "" || message == "" {
		d.Next = row.Next
	}
	d.Problem, d.Next = replacePlaceholders(d.Problem, o, s), replacePlaceholders(d.Next, o, s)
}

// keyNotRegistered is the row of a node without the driver.
const keyNotRegistered = "driverNotRegistered"

// IsPodPending reports whether a pod is on a node and does not run yet: it may wait for the volume.
func IsPodPending(pods []corev1.Pod) bool {
	return slices.ContainsFunc(pods, func(p corev1.Pod) bool {
		return p.Spec.NodeName != "" && p.Status.Phase == corev1.PodPending
	})
}

// findAround returns the row of what hinders the claim, and the error that Kubernetes has of it.
func findAround(o Objects, s *Status, kind string) (row aroundRow, message string, found bool) {
	key := ""
	switch {
	case len(s.Attachments) > 0 && s.Attachments[0].key != "":
		key, message = s.Attachments[0].key, s.Attachments[0].Problem
	default:
		if key = findAroundPod(o, s, kind); key == "" {
			key = findAroundClass(o, s, kind)
		}
	}
	if key == "" {
		return aroundRow{}, "", false
	}
	i := slices.IndexFunc(loadRemedies().Around, func(row aroundRow) bool { return row.Key == key })
	return loadRemedies().Around[i], message, true
}

// findAroundPod returns the key of what keeps the volume from a pod.
func findAroundPod(o Objects, s *Status, kind string) string {
	pod, runs := s.RunningPod()
	waitsForMount := IsPodPending(o.Pods.Value)
	isNodeStep := kind == KindNodeUnused || kind == "nodePending" || kind == "node"
	switch {
	case (waitsForMount || runs && isNodeStep) && o.Node.Err == nil && s.Driver != "" && !HasDriver(o, s.Driver):
		return keyNotRegistered
	case (kind == "unseen" || waitsForMount) && volume.KindOf(o.CSIDriver.Err) == volume.KindNotFound:
		return "driverAbsent"
	case waitsForMount && slices.ContainsFunc(s.Attachments, func(a Attachment) bool {
		return a.Node == pod.Node && !a.Attached
	}):
		return "notAttached"
	}
	return ""
}

// findAroundClass returns the key of what the claim's class does not allow.
func findAroundClass(o Objects, s *Status, kind string) string {
	if kind != "unseen" && kind != KindGrown {
		return ""
	}
	switch {
	case volume.KindOf(o.Class.Err) == volume.KindNotFound:
		return "classAbsent"
	case s.ClassExpands != nil && !*s.ClassExpands:
		return "classFixed"
	}
	return ""
}
