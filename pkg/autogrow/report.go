package autogrow

import (
	"context"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// This file writes the events.

const (
	// repeatAfter is the time after which the same decision is reported again, if there was another
	// one in between.
	repeatAfter = time.Hour
	// maxNote is the length of an event's text that the API server accepts, in bytes.
	maxNote = 1024
)

// report writes an event for a decision that is new, and updates the metrics.
func (g *Grower) report(ctx context.Context, c *corev1.PersistentVolumeClaim, s *state, d decision) {
	isInterrupted := s.lastSeen != d.verdict
	s.lastSeen = d.verdict
	g.metrics.set(client.ObjectKeyFromObject(c), d.verdict)
	isSame := s.last.verdict == d.verdict && s.last.key == d.key
	isRepeated := isInterrupted && g.Now().Sub(s.reported) >= repeatAfter
	if d.isQuiet || d.isOwnGrowth || isSame && !isRepeated {
		return
	}
	s.last, s.reported = d, g.Now()
	g.metrics.decisions.WithLabelValues(string(d.verdict)).Inc()
	note := strings.ToValidUTF8(d.note[:min(len(d.note), maxNote)], "")
	kind, reason := d.event(g.IsDryRun)
	g.Events.Eventf(c, nil, kind, reason, "Grow", "%s", note)
	if kind == corev1.EventTypeWarning {
		g.Log.WarnContext(ctx, "a claim does not grow by itself", "namespace", c.Namespace, "claim", c.Name,
			"decision", string(d.verdict), "cause", note)
	}
}

// event returns the type and the reason of the decision's event.
func (d decision) event(isDryRun bool) (kind, reason string) {
	switch d.verdict {
	case verdictGrow:
		if isDryRun {
			return corev1.EventTypeNormal, "GrowthNotRequested"
		}
		return corev1.EventTypeNormal, "GrowthRequested"
	case verdictCooldown, verdictResizing, verdictAside:
		return corev1.EventTypeNormal, "GrowthPostponed"
	case verdictFleet:
		return corev1.EventTypeWarning, "GrowthPostponed"
	case verdictLimit:
		return corev1.EventTypeWarning, "GrowthLimitReached"
	case verdictInfeasible:
		return corev1.EventTypeWarning, "GrowthInfeasible"
	case verdictUnread, verdictUnusable:
		return corev1.EventTypeWarning, "FilesystemUnread"
	default:
		return corev1.EventTypeWarning, "GrowthNotPossible"
	}
}
