package claim

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/growvol/growvol/pkg/volume"
)

// Severity is how much a claim needs a person.
type Severity string

// The severities.
const (
	SeverityNone    Severity = "none"
	SeverityUnknown Severity = "unknown" // the filesystem could not be read
	SeverityWaits   Severity = "waits"   // something is under way, or waits for a pod
	SeverityStuck   Severity = "stuck"   // a person has to act
)

// Rank orders severities: the largest needs a person first.
func (s Severity) Rank() int {
	return slices.Index([]Severity{SeverityNone, SeverityUnknown, SeverityWaits, SeverityStuck}, s)
}

// The kinds of a diagnosis that are no step of a resize. Those of the steps are the keys in
// remedies.yaml.
const (
	KindGrown           = "grown"
	KindFilesystemShort = "filesystemShort"
	KindReadingOld      = "readingOld"
	KindNotBound        = "notBound"
	KindLost            = "lost"
	KindDeleted         = "deleted"
)

// The keys of steps in remedies.yaml that callers treat in a special way.
const (
	KindInfeasible = "infeasible"
	KindNodeUnused = "nodeUnused"
)

// Diagnosis says what is stuck, since when, and what to do.
type Diagnosis struct {
	Severity Severity `json:"severity"`
	Kind     string   `json:"kind"`
	// Subject is what is stuck: the step, or the layer.
	Subject string    `json:"subject,omitempty"`
	Problem string    `json:"problem"`
	Since   time.Time `json:"since,omitzero"`
	Next    string    `json:"next,omitempty"`
	// Refused reports that no retry of Kubernetes can succeed.
	Refused bool `json:"refused,omitempty"`
	// Message is the error as the claim or an event shows it.
	Message string `json:"message,omitempty"`
}

// Sentence returns the diagnosis as one sentence.
func (d Diagnosis) Sentence(now time.Time) string {
	var b strings.Builder
	if d.Subject != "" {
		b.WriteString(d.Subject)
		if !d.Since.IsZero() {
			b.WriteString(" for " + duration.HumanDuration(now.Sub(d.Since)))
		}
		b.WriteString(": ")
	}
	b.WriteString(d.Problem)
	if d.Next != "" {
		b.WriteString(" (next step: " + d.Next + ")")
	}
	return b.String()
}

// diagnose returns the diagnosis of the claim. Of s it reads what NewStatus has set before.
func diagnose(o Objects, s *Status) Diagnosis {
	c := o.Claim
	switch {
	case c.DeletionTimestamp != nil:
		return Diagnosis{
			Severity: SeverityWaits, Kind: KindDeleted, Subject: "deletion", Since: c.DeletionTimestamp.Time,
			Problem: "the claim is being deleted",
		}
	case c.Status.Phase == corev1.ClaimLost:
		return Diagnosis{
			Severity: SeverityStuck, Kind: KindLost, Subject: "PersistentVolume",
			Problem: "the claim has lost its PersistentVolume " + c.Spec.VolumeName,
			Next:    "create the claim again, and restore its data from a snapshot",
		}
	case c.Status.Phase != corev1.ClaimBound:
		return diagnoseUnbound(s, c)
	case s.Step != "" || Request(c) > Capacity(c):
		return diagnoseStep(o, s)
	}
	return diagnoseGrown(o, s)
}

func diagnoseUnbound(s *Status, c *corev1.PersistentVolumeClaim) Diagnosis {
	d := Diagnosis{
		Severity: SeverityWaits, Kind: KindNotBound, Subject: "claim", Since: c.CreationTimestamp.Time,
		Problem: "it is not bound to a volume",
		Next:    fmt.Sprintf("read the events: kubectl describe pvc %s --namespace %s", c.Name, c.Namespace),
	}
	if len(s.Events) > 0 {
		d.Message = s.Events[0].Message
		d.Problem += ": " + descriptionOf(d.Message)
	}
	return d
}

// diagnoseStep returns the diagnosis of a claim whose size is not the requested one.
func diagnoseStep(o Objects, s *Status) Diagnosis {
	_, runs := s.RunningPod()
	pv := o.Volume.Value
	hasGrown := pv != nil && volume.Size(pv.Spec.Capacity.Storage().Value()) >= Request(o.Claim)
	row, found := loadRemedies().findStep(s.Step, s.Conditions, runs || o.Pods.Err != nil, hasGrown)
	if !found {
		return Diagnosis{
			Severity: SeverityWaits, Kind: "unknownStep", Subject: s.Step, Problem: "this step of a resize is not known",
		}
	}
	d := Diagnosis{
		Severity: row.Severity, Kind: row.Key, Subject: s.Step, Problem: row.Meaning, Next: row.Next, Refused: row.Final,
	}
	if d.Subject == "" {
		d.Subject, d.Since = "request of "+Request(o.Claim).String(), requestTime(o.Claim)
	}
	for _, condition := range s.Conditions {
		if condition.Type == row.Condition {
			d.Since, d.Message = condition.Since, condition.Message
		}
	}
	d.addCause(s, row)
	d.Next = replacePlaceholders(d.Next, o, s)
	d.addAround(o, s)
	return d
}

// addCause adds to the diagnosis of a step the driver's error, with its row of the tables.
func (d *Diagnosis) addCause(s *Status, row stepRow) {
	if row.Table == "" {
		d.Message = "" // a state, not an error
		return
	}
	if codeOf(d.Message) == "" {
		// The condition has no error: the last event has it, if it is of this resize.
		i := slices.IndexFunc(s.Events, func(e Event) bool {
			return e.Reason == "VolumeResizeFailed" && !e.Last.Before(d.Since)
		})
		if i >= 0 {
			d.Message = s.Events[i].Message
		}
	}
	text, ownNext := splitNextStep(descriptionOf(d.Message))
	code := codeOf(d.Message)
	if code == "" {
		if row.Severity == SeverityStuck && text != "" {
			d.Problem += ": " + text
		} else {
			d.Message = "" // no error
		}
		return
	}
	d.Problem += ": " + text
	next := ownNext
	if known, found := loadRemedies().findError(row.Table, d.Message); found && next == "" {
		next = plainText(known.Do)
		d.Problem += " (" + plainText(known.Cause) + ")"
	}
	// kubelet does not repeat NodeExpandVolume after this code before the volume is staged again.
	needsRemount := row.Table == "node" && code == "FailedPrecondition"
	if needsRemount {
		d.Refused, d.Severity = true, SeverityStuck
	}
	next = explainRemount(next, needsRemount)
	switch {
	case next == "":
	case d.Kind == KindInfeasible:
		d.Next = next + "; then " + d.Next
	default:
		d.Next = next
	}
}

// explainRemount adds to a next step that the volume must be remounted, and what this means.
func explainRemount(next string, isNeeded bool) string {
	if isNeeded && next != "" && !strings.Contains(next, "remount") {
		next += "; then remount"
	}
	if strings.Contains(next, "remount") {
		next += " (remount: " + plainText(loadRemedies().Remount) + ")"
	}
	return next
}

// HasDriver reports whether the CSINode of the readings lists the driver.
func HasDriver(o Objects, driver string) bool {
	node := o.Node.Value
	if node == nil {
		return false
	}
	for i := range node.Spec.Drivers {
		if node.Spec.Drivers[i].Name == driver {
			return true
		}
	}
	return false
}

// replacePlaceholders replaces the placeholders of remedies.yaml.
func replacePlaceholders(text string, o Objects, s *Status) string {
	pod, _ := s.RunningPod()
	return strings.NewReplacer(
		"NAMESPACE", s.Namespace, "CLAIM", s.Name, "CAPACITY", Capacity(o.Claim).String(), "NODE", pod.Node,
		"CLASS", s.Class, "DRIVER", s.Driver, "SMALLER", stepBackSize(Request(o.Claim), Capacity(o.Claim)),
	).Replace(text)
}

// stepBackSize returns a size for the command that steps back from an infeasible request: the next
// whole GiB above the capacity, or MiB if the request is below that.
func stepBackSize(request, capacity volume.Size) string {
	if next := (capacity/volume.GiB + 1) * volume.GiB; next < request {
		return fmt.Sprintf("%dGi", next/volume.GiB)
	}
	return fmt.Sprintf("%dMi", capacity/volume.MiB+1)
}

// diagnoseGrown returns the diagnosis of a claim that has the requested size: whether its
// filesystem has it too.
func diagnoseGrown(o Objects, s *Status) Diagnosis {
	capacity := Capacity(o.Claim)
	_, size, _ := shortage(o)
	grown := Diagnosis{
		Severity: SeverityNone, Kind: KindGrown, Problem: "nothing is stuck: the claim has " + capacity.String(),
	}
	if size == 0 {
		if s.Driver != "" || o.Volume.Err != nil {
			grown.Severity = SeverityUnknown
			grown.Problem += "; its filesystem could not be read"
		}
		grown.addAround(o, s)
		return grown
	}
	if s.Missing == 0 && !s.IsReadingOld {
		what := "filesystem"
		if isBlock(o.Claim) {
			what = "device"
		}
		grown.Problem += ", and so has its " + what
		grown.addAround(o, s)
		return grown
	}
	if s.IsReadingOld {
		return Diagnosis{
			Severity: SeverityWaits, Kind: KindReadingOld, Subject: "filesystem", Since: statusTime(o.Claim),
			Problem: "the reading of the filesystem is older than the growth of the claim to " + capacity.String(),
			Next:    "read the status again in a minute",
		}
	}
	return Diagnosis{
		Severity: SeverityStuck, Kind: KindFilesystemShort, Subject: "filesystem", Since: statusTime(o.Claim),
		Problem: fmt.Sprintf("Kubernetes says that the claim has %s, but the filesystem has %s: at least %s are missing",
			capacity, size, s.Missing),
		Next: "delete the pod, so that the driver grows the filesystem when it mounts it; " +
			"if it stays, read the log of the driver's node plugin",
	}
}

// requestTime returns when the request was written last, or zero if the claim does not say.
func requestTime(c *corev1.PersistentVolumeClaim) time.Time {
	return fieldTime(c, "", "f:spec", "f:resources", "f:requests", "f:storage")
}

// AnnotationTime returns when the writer of the annotation last wrote to the claim, as its
// managedFields say, or zero if the claim does not have it.
func AnnotationTime(c *corev1.PersistentVolumeClaim, key string) time.Time {
	return fieldTime(c, "", "f:metadata", "f:annotations", "f:"+key)
}

// statusTime returns when the claim's capacity was written last, or zero.
func statusTime(c *corev1.PersistentVolumeClaim) time.Time {
	return fieldTime(c, "status", "f:status", "f:capacity", "f:storage")
}

// fieldTime returns when the field was last written, as the claim's managedFields say.
func fieldTime(c *corev1.PersistentVolumeClaim, subresource string, path ...string) time.Time {
	var last time.Time
	for _, entry := range c.ManagedFields {
		if entry.Subresource != subresource || entry.FieldsV1 == nil || entry.Time == nil || !entry.Time.After(last) {
			continue
		}
		if hasField(entry.FieldsV1.GetRawBytes(), path) {
			last = entry.Time.Time
		}
	}
	return last
}

func hasField(raw json.RawMessage, path []string) bool {
	for _, key := range path {
		var fields map[string]json.RawMessage
		if json.Unmarshal(raw, &fields) != nil || fields[key] == nil {
			return false
		}
		raw = fields[key]
	}
	return true
}
