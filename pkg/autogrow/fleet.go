package autogrow

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/volume"
)

// fleetPeriod is the time in which bytes are limited. A growth that has not ended by then is
// reported as one that does not proceed, and no longer counted as running.
const fleetPeriod = time.Hour

// Fleet are the limits of all claims together. Zero means no limit.
type Fleet struct {
	MaxBytes  volume.Size // requested by the operator within an hour
	MaxAtOnce int         // growths of the operator that have not ended
}

// fleetUsage is what counts against the limits.
type fleetUsage struct {
	bytes   volume.Size
	running int
}

// add counts a claim.
func (u *fleetUsage) add(c *corev1.PersistentVolumeClaim, r record, now time.Time) {
	for _, s := range r.Recent {
		if now.Sub(s.At) < fleetPeriod {
			u.bytes += s.Bytes
		}
	}
	isOwn := r.to > 0 && r.to > claim.Capacity(c) && now.Sub(r.At) < fleetPeriod
	step := corev1.ClaimResourceStatus(claim.StepOf(c))
	isRefused := step == corev1.PersistentVolumeClaimControllerResizeInfeasible ||
		step == corev1.PersistentVolumeClaimNodeResizeInfeasible
	if isOwn && !isRefused {
		u.running++
	}
}

// refuse says why one more growth by so many bytes is too much. It is empty if it is not.
func (f Fleet) refuse(u fleetUsage, bytes volume.Size) (key, cause string) {
	switch {
	case f.MaxBytes > 0 && bytes > f.MaxBytes:
		return "step", fmt.Sprintf("the step of %s is more than all claims together may grow in an hour, %s "+
			"(next step: lower the annotation %s, or raise --grow-max-per-hour)", bytes, f.MaxBytes, AnnotationIncrease)
	case f.MaxBytes > 0 && u.bytes+bytes > f.MaxBytes:
		return "bytes", fmt.Sprintf("all claims together have grown by %s within an hour, of at most %s "+
			"(next step: wait, or raise --grow-max-per-hour)", u.bytes, f.MaxBytes)
	case f.MaxAtOnce > 0 && u.running >= f.MaxAtOnce:
		return "running", fmt.Sprintf("%d growths are under way, of at most %d "+
			"(next step: wait, or raise --grow-max-at-once)", u.running, f.MaxAtOnce)
	}
	return "", ""
}
