package expansion

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// Stage is a part of a growth. A growth passes the stages in this order.
type Stage int

// The stages.
const (
	StageRequested   Stage = iota // the API server has the request
	StageController               // the storage system grows the volume
	StageVolumeGrown              // the volume has grown, and kubelet has not begun
	StageNode                     // kubelet grows the filesystem
	StageGrown                    // the claim has the size
)

// String returns what the stage means.
func (s Stage) String() string {
	return [...]string{
		"requested", "the storage system grows the volume", "the volume has grown", "the node grows the filesystem", "grown",
	}[s]
}

// Outcome is how a growth ended, or that it has not.
type Outcome int

// The outcomes.
const (
	OutcomeUnderWay Outcome = iota
	OutcomeGrown
	OutcomeRefused
)

// Progress is what a growth shows while it is under way.
type Progress struct {
	Stage Stage
	// Status is what the claim shows.
	Status claim.Status
	// Err is the error of reading the claim, which is read again. It is nil otherwise.
	Err error
}

// The pauses between readings: of the claim, which shows the stages, and of everything around it.
const (
	claimInterval  = 300 * time.Millisecond
	statusInterval = 5 * time.Second
)

// Watch follows the growth of the claim to the target until it has grown, is refused, cannot
// continue without a pod, or ctx ends. It calls report after each reading, and returns the outcome
// with the last status. The error is nil unless the claim is gone or cannot be read.
func (e *Expander) Watch(
	ctx context.Context, c *corev1.PersistentVolumeClaim, target resource.Quantity, report func(Progress),
) (Outcome, claim.Status, error) {
	w := watch{expander: e, target: target}
	for {
		progress, outcome, isEnd, err := w.read(ctx, c)
		if err != nil || isEnd {
			report(progress)
			return outcome, progress.Status, err
		}
		if ctx.Err() == nil {
			report(progress)
		}
		if operation.Sleep(ctx, claimInterval) != nil {
			return OutcomeUnderWay, w.status, nil //nolint:nilerr // the end of ctx is an outcome
		}
	}
}

// watch is the state of Watch.
type watch struct {
	expander *Expander
	target   resource.Quantity
	status   claim.Status // the last complete one
	step     string       // the step of that status
}

// read reads the claim once. isEnd reports whether the growth need not be followed any more.
func (w *watch) read(
	ctx context.Context, c *corev1.PersistentVolumeClaim,
) (progress Progress, outcome Outcome, isEnd bool, err error) {
	now, err := w.expander.Reader.Claim(ctx, c.Namespace, c.Name)
	switch {
	case ctx.Err() != nil, volume.KindOf(err) == volume.KindUnavailable:
		return Progress{Status: w.status, Err: err}, OutcomeUnderWay, false, nil //nolint:nilerr // it is read again
	case err != nil:
		return Progress{Status: w.status, Err: err}, OutcomeUnderWay, true, fmt.Errorf("read the claim: %w", err)
	case now.UID != c.UID:
		return Progress{Status: w.status}, OutcomeRefused, true,
			volume.Errorf(volume.KindNotFound, "the claim was deleted and created again")
	}
	light := claim.NewStatus(claim.Objects{Claim: now, ReadAt: w.expander.Reader.Now()})
	if light.Step != w.step || w.status.ReadAt.IsZero() || light.ReadAt.Sub(w.status.ReadAt) >= statusInterval {
		if full := w.expander.Reader.Status(ctx, now); ctx.Err() == nil {
			w.status, w.step = full, full.Step
		}
	}
	progress = Progress{Stage: stageOf(now, light.Step, w.target), Status: w.status}
	outcome, isEnd, err = w.judge(now, progress)
	return progress, outcome, isEnd, err
}

// judge reports whether the growth has ended.
func (w *watch) judge(now *corev1.PersistentVolumeClaim, progress Progress) (outcome Outcome, isEnd bool, err error) {
	status := progress.Status
	switch {
	case progress.Stage == StageGrown:
		return OutcomeGrown, true, nil
	case claim.Request(now) < sizeOf(w.target):
		return OutcomeRefused, true, volume.Errorf(volume.KindPrecondition,
			"the request has been lowered to %s in between", claim.Request(now))
	case status.Diagnosis.Refused && isOfTarget(now, status, w.target):
		return OutcomeRefused, true, nil
	case status.Diagnosis.Kind == claim.KindNodeUnused && len(status.Pods) == 0:
		return OutcomeUnderWay, true, nil
	}
	return OutcomeUnderWay, false, nil
}

// isOfTarget reports whether the refusal that the claim shows is of this growth. After a patch, the
// claim shows an earlier refusal of the storage system until the sidecar has begun the new size. A
// refusal of the node stops every growth.
func isOfTarget(now *corev1.PersistentVolumeClaim, status claim.Status, target resource.Quantity) bool {
	if strings.HasPrefix(status.Step, "Node") {
		return true
	}
	allocated, found := now.Status.AllocatedResources[corev1.ResourceStorage]
	return found && allocated.Cmp(target) == 0
}

// stageOf returns the stage of the growth to the target.
func stageOf(c *corev1.PersistentVolumeClaim, step string, target resource.Quantity) Stage {
	isGrown := claim.Capacity(c) >= sizeOf(target)
	switch {
	case isGrown && step == "":
		return StageGrown
	case strings.HasPrefix(step, "ControllerResize"):
		return StageController
	case step == string(corev1.PersistentVolumeClaimNodeResizePending):
		return StageVolumeGrown
	case strings.HasPrefix(step, "NodeResize"):
		return StageNode
	}
	return StageRequested
}

// IsInterrupted reports whether ctx ended because the user has interrupted the program, and not
// because its time is over.
func IsInterrupted(ctx context.Context) bool { return errors.Is(ctx.Err(), context.Canceled) }
