// Package autogrow raises the request of claims whose filesystems are nearly full. It spends money
// of others: a claim must opt in and have a limit, and each doubt means that it does not grow.
//
// rules.go and usage.go decide from one claim and its readings, without any I/O. settings.go reads
// the user's annotations and record.go the operator's, resizer.go recognizes pvc-autoresizer,
// fleet.go has the limits of all claims together, grower.go reads and patches, report.go writes
// events, and metrics.go counts.
//
// A claim cannot grow again because of a reading from before the last growth: each reading must
// show a filesystem that already has the claim's size, and the size that statfs(2) answers must
// have grown with the claim. The record of the last growth is on the claim, so that a restart or
// another replica does not forget it.
package autogrow

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/readings"
	"github.com/growvol/growvol/pkg/volume"
)

const (
	// granularity is that of the requests, as pvc-autoresizer rounds them.
	granularity = volume.GiB
	// minGrowth is the smallest growth. It is more than claim.MaxUnused, so that a filesystem of the
	// old size is never taken for one of the new size.
	minGrowth = 2 * claim.MaxUnused
	// urgentShare is the percentage of free space below which one reading is enough.
	urgentShare = 2
	// maxReadingAge is the age of a reading, by the clocks of the node and of this process. Readings
	// from further in the future are refused too: then the age is not known.
	maxReadingAge = 30 * time.Second
	// maxPairAge is the time between two readings that confirm each other.
	maxPairAge = 2 * time.Minute
)

// verdict is a decision without its details. It is the value of a label of the metrics.
type verdict string

// The verdicts.
const (
	verdictOff        verdict = "off"        // the claim has not opted in
	verdictEnough     verdict = "enough"     // there is enough free space
	verdictConfirm    verdict = "confirm"    // a second reading is needed
	verdictGrow       verdict = "grow"       // the request is raised, or after an infeasible one lowered
	verdictInvalid    verdict = "invalid"    // an annotation cannot be read
	verdictIneligible verdict = "ineligible" // the claim cannot grow
	verdictAside      verdict = "aside"      // pvc-autoresizer grows the claim
	verdictInfeasible verdict = "infeasible" // the last growth was refused
	verdictResizing   verdict = "resizing"   // a growth is under way
	verdictLimit      verdict = "limit"
	verdictCooldown   verdict = "cooldown"
	verdictUnusable   verdict = "unusable" // the reading is too old, or says too little
	verdictShort      verdict = "short"    // the filesystem does not have the claim's size
	verdictNoGain     verdict = "noGain"   // the last growth has not made the filesystem larger
	verdictFleet      verdict = "fleet"    // a limit of all claims together
	verdictRefused    verdict = "refused"  // the API server refused the request
	verdictUnread     verdict = "unread"   // the node has not answered for long
)

// reading is one reading of the claim's filesystem.
type reading struct {
	node  string
	size  readings.Layer // the filesystem's own size
	usage readings.Usage
}

// subject is what a decision depends on.
type subject struct {
	claim    *corev1.PersistentVolumeClaim
	class    *storagev1.StorageClass // nil: it does not exist
	readings []reading               // of one node, the newest first, two at most
	// resizer says why pvc-autoresizer grows the claim. It is empty if it does not.
	resizer  string
	cooldown time.Duration // of claims that name none
	now      time.Time
}

// decision is what happens, and why.
type decision struct {
	verdict verdict
	// key changes when the decision has to be reported again. It has no figures of a reading.
	key  string
	note string
	// target is the new request, of verdictGrow.
	target volume.Size
	isHalf bool
	record record        // of the growths until now
	total  volume.Size   // of the filesystem, of verdictGrow
	wait   time.Duration // until a cooldown ends
	// spare is how many free bytes there are above the threshold, of verdictEnough.
	spare volume.Size
	// isOwnGrowth reports that the growth under way is one of the operator.
	isOwnGrowth bool
	// isQuiet reports that nobody needs an event.
	isQuiet bool
}

// decide returns what happens to the claim.
func decide(s subject) decision {
	if s.claim.DeletionTimestamp != nil {
		return decision{verdict: verdictOff, isQuiet: true}
	}
	a := annotationsOf(s.claim, s.class)
	isEnabled, err := a.isEnabled()
	if err != nil {
		return decision{verdict: verdictInvalid, key: err.Error(), note: fixAnnotation(err)}
	}
	if !isEnabled {
		return decision{verdict: verdictOff, isQuiet: true}
	}
	values, err := a.settings(s.cooldown)
	if err != nil {
		return decision{verdict: verdictInvalid, key: err.Error(), note: fixAnnotation(err)}
	}
	if values.limit == 0 {
		return withoutLimit(values)
	}
	if cause := s.obstacle(); cause != "" {
		return decision{verdict: verdictIneligible, key: cause, note: "the claim cannot grow by itself: " + cause}
	}
	if s.resizer != "" {
		note := "growvol-operator does not grow this claim: " + s.resizer
		return decision{verdict: verdictAside, key: s.resizer, note: note}
	}
	r, err := recordOf(s.claim)
	if err != nil {
		note := fmt.Sprintf("the last growth of the claim is not known: %v (next step: remove the annotations %s and %s)",
			err, AnnotationRecord, AnnotationGrownTo)
		return decision{verdict: verdictInvalid, key: err.Error(), note: note}
	}
	d := s.decideBySize(values, r)
	d.record = r
	return d
}

func fixAnnotation(err error) string {
	return strings.ReplaceAll(err.Error(), "\n", "; ") + ": the claim does not grow by itself " +
		"(next step: correct the annotation)"
}

func withoutLimit(values settings) decision {
	if !values.isOwn { // as with pvc-autoresizer, a class opts in for the claims that have a limit
		return decision{verdict: verdictOff, isQuiet: true}
	}
	return decision{
		verdict: verdictInvalid, key: "no limit",
		note: "the claim has no limit, so that it does not grow by itself " +
			"(next step: set the annotation " + AnnotationLimit + ")",
	}
}

// obstacle returns why the claim cannot grow, or an empty text.
func (s *subject) obstacle() string {
	c := s.claim
	switch {
	case c.Spec.VolumeMode != nil && *c.Spec.VolumeMode != corev1.PersistentVolumeFilesystem:
		return "it is a raw block volume, of which nobody knows how full it is"
	case c.Status.Phase != corev1.ClaimBound || c.Spec.VolumeName == "" || claim.Capacity(c) == 0:
		return "it is not bound to a volume"
	case s.class == nil:
		return "its StorageClass does not exist"
	case s.class.AllowVolumeExpansion == nil || !*s.class.AllowVolumeExpansion:
		return "its StorageClass " + s.class.Name + " has no allowVolumeExpansion: true"
	}
	return ""
}

// decideBySize decides for a claim that may grow.
func (s *subject) decideBySize(values settings, r record) decision {
	if step := corev1.ClaimResourceStatus(claim.StepOf(s.claim)); s.isInfeasible(step) {
		return s.decideInfeasible(values, r, step)
	}
	d, isLow := s.judgeReadings(values, r)
	if !isLow {
		return d
	}
	capacity, request := claim.Capacity(s.claim), claim.Request(s.claim)
	if claim.StepOf(s.claim) != "" || request > capacity {
		return decision{
			verdict: verdictResizing, key: "resizing", isOwnGrowth: r.to == request,
			note: fmt.Sprintf("%s; a growth from %s to %s is under way", d.note, capacity, request),
		}
	}
	target, fits := targetOf(values, capacity)
	if !fits {
		return decision{
			verdict: verdictLimit, key: "limit " + values.limit.String(),
			note: fmt.Sprintf("%s, and the claim of %s has reached its limit of %s "+
				"(next step: raise the annotation %s, or delete data)", d.note, capacity, values.limit, AnnotationLimit),
		}
	}
	if d.verdict == verdictConfirm {
		return d
	}
	if wait := r.At.Add(values.cooldown).Sub(s.now); !r.At.IsZero() && wait > 0 {
		return decision{
			verdict: verdictCooldown, key: "cooldown " + r.At.String(), wait: wait,
			note: fmt.Sprintf("%s; the claim last grew at %s, and grows again after %s (annotation %s)",
				d.note, r.At.UTC().Format(time.TimeOnly), values.cooldown, AnnotationCooldown),
		}
	}
	return decision{
		verdict: verdictGrow, key: fmt.Sprintf("grow %d", target), target: target, total: s.readings[0].usage.Total,
		note: fmt.Sprintf("%s: the request is raised from %s to %s, of at most %s", d.note, request, target, values.limit),
	}
}

// targetOf returns the new size. It reports false if the claim has reached its limit. Sizes are
// whole GiB, and a backend may round a size up to such a one: therefore a limit in between counts
// as the next lower one.
func targetOf(values settings, capacity volume.Size) (volume.Size, bool) {
	limit := values.limit.RoundDown(granularity)
	free := limit - capacity
	if free < minGrowth {
		return 0, false
	}
	step := max(values.increase.of(capacity), values.minStep, minGrowth)
	if step >= free { // compared before they are added, which could overflow
		return limit, true
	}
	target, ok := (capacity + step).RoundUp(granularity)
	if !ok {
		return limit, true
	}
	return min(target, limit), true
}

// isInfeasible reports whether the present request was refused. A status that is about an earlier
// request says nothing of the present one.
func (s *subject) isInfeasible(step corev1.ClaimResourceStatus) bool {
	attempted := volume.Size(s.claim.Status.AllocatedResources.Storage().Value())
	return (step == corev1.PersistentVolumeClaimControllerResizeInfeasible ||
		step == corev1.PersistentVolumeClaimNodeResizeInfeasible) && attempted == claim.Request(s.claim)
}

// decideInfeasible tries half of a step of the operator once, if the filesystem is still nearly
// full, and only where the volume has not grown.
func (s *subject) decideInfeasible(values settings, r record, step corev1.ClaimResourceStatus) decision {
	capacity, request := claim.Capacity(s.claim), claim.Request(s.claim)
	d := decision{
		verdict: verdictInfeasible, key: fmt.Sprintf("infeasible %d", request),
		note: fmt.Sprintf("the growth from %s to %s was refused as infeasible%s: the claim does not grow by itself any more "+
			"(next step: remove the cause, or request a smaller size)", capacity, request, messageOf(s.claim)),
	}
	if step != corev1.PersistentVolumeClaimControllerResizeInfeasible || r.to != request || r.IsHalf {
		return d
	}
	half, ok := (capacity + (request-capacity)/2).RoundUp(granularity)
	low, isLow := s.judgeReadings(values, r)
	if !ok || half >= request || half-capacity < minGrowth || half > values.limit || !isLow {
		return d
	}
	d.verdict, d.key, d.target, d.isHalf = verdictGrow, fmt.Sprintf("half %d", half), half, true
	d.total = s.readings[0].usage.Total
	d.note = fmt.Sprintf("%s: half of a step is requested, %s, "+
		"because the growth from %s to %s was refused as infeasible%s", low.note, half, capacity, request, messageOf(s.claim))
	return d
}

// messageOf returns the error in the claim's conditions, after a colon.
func messageOf(c *corev1.PersistentVolumeClaim) string {
	for _, condition := range c.Status.Conditions {
		if strings.HasSuffix(string(condition.Type), "ResizeError") && condition.Message != "" {
			const maxMessage = 400 // an event has 1024 bytes
			message := condition.Message[:min(len(condition.Message), maxMessage)]
			return ": " + strings.ToValidUTF8(message, "")
		}
	}
	return ""
}
