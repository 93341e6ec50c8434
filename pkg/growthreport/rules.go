// Package growthreport reports growths that do not proceed: an event on the claim, with the cause
// and the next step, and a metric. It reads the objects of Kubernetes only, not the filesystems.
//
// Kubernetes itself writes no event if the node answers FailedPrecondition, and none with a next
// step. rules.go decides what is reported and when, metrics.go has what is known of each claim, and
// reconciler.go reads and reports.
package growthreport

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/growvol/growvol/pkg/claim"
)

const (
	// stuckAfter is how long an error that may pass lasts before it is reported: Kubernetes repeats
	// the call some times within it.
	stuckAfter = 2 * time.Minute
	// delayedAfter is the same for a growth without an error. kubelet needs up to 90 s.
	delayedAfter = 10 * time.Minute
	// maxNote is the length of an event's text that the API server accepts, in bytes.
	maxNote = 1024
)

// state is the progress of a growth.
type state string

// The states, which are values of the metric's label.
const (
	stateRunning state = "running"
	stateUnused  state = "unused"  // it waits for a pod that uses the claim
	stateDelayed state = "delayed" // it takes long, without an error
	stateStuck   state = "stuck"   // a person has to act
)

// states returns all states.
func states() []state { return []state{stateRunning, stateUnused, stateDelayed, stateStuck} }

// isGrowing reports whether the claim does not have the requested size, or shows a step of a
// resize.
func isGrowing(c *corev1.PersistentVolumeClaim) bool {
	return c.DeletionTimestamp == nil && c.Status.Phase == corev1.ClaimBound && c.Spec.VolumeName != "" &&
		(claim.StepOf(c) != "" || claim.Request(c) > claim.Capacity(c))
}

// judge returns the state of a growth with that diagnosis, which began at since, and when the state
// changes if nothing happens. A zero duration says that it does not.
func judge(d claim.Diagnosis, since, now time.Time) (state, time.Duration) {
	lasts := now.Sub(since)
	switch {
	case d.Kind == claim.KindNodeUnused:
		return stateUnused, 0
	case d.Refused, d.Severity == claim.SeverityStuck && lasts >= stuckAfter:
		return stateStuck, 0
	case d.Severity == claim.SeverityStuck:
		return stateRunning, stuckAfter - lasts
	case lasts >= delayedAfter:
		return stateDelayed, 0
	}
	return stateRunning, delayedAfter - lasts
}

// noteOf returns the text of the event: the diagnosis without the time, so that it stays the same.
func noteOf(d claim.Diagnosis) string {
	d.Since = time.Time{}
	note := d.Sentence(time.Time{})
	return strings.ToValidUTF8(note[:min(len(note), maxNote)], "")
}
