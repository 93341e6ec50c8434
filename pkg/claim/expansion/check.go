// Package expansion grows claims: it checks what can be known before, patches the request, and
// follows the growth to its end. It also replaces a StatefulSet by one whose template has the new
// size.
package expansion

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/growvol/growvol/pkg/apierror"
	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/claim/reader"
	"github.com/growvol/growvol/pkg/volume"
)

// fieldManager is the name under which Kubernetes records the changes.
const fieldManager = "kubectl-growvol"

// Expander grows claims.
type Expander struct {
	Client kubernetes.Interface
	Reader *reader.Reader
}

// Verdict is the result of a check.
type Verdict string

// The verdicts. Only fail refuses the growth.
const (
	VerdictOK      Verdict = "ok"
	VerdictWarn    Verdict = "warn"
	VerdictUnknown Verdict = "unknown"
	VerdictFail    Verdict = "fail"
)

// Check is one thing that was checked before a growth.
type Check struct {
	Verdict Verdict
	Text    string
	Next    string // the next step; may be empty
}

// Check checks whether the claim can grow to the target, without a change.
func (e *Expander) Check(ctx context.Context, o claim.Objects, target resource.Quantity) []Check {
	s := claim.NewStatus(o)
	checks := []Check{checkBound(o.Claim)}
	if checks[0].Verdict == VerdictFail {
		return checks
	}
	checks = append(checks, checkSize(o.Claim, target), e.checkClass(ctx, &s), checkPods(o, &s))
	if check, needed := checkDriver(o, &s); needed {
		checks = append(checks, check)
	}
	if isNodeStep := strings.HasPrefix(s.Step, "NodeResize"); isNodeStep && claim.Request(o.Claim) < sizeOf(target) {
		checks = append(checks, Check{
			Verdict: VerdictWarn,
			Text:    "the node has not finished the previous growth (" + s.Step + "): Kubernetes begins this one after it",
		})
	}
	return checks
}

// Refused reports whether one of the checks fails.
func Refused(checks []Check) bool {
	for _, c := range checks {
		if c.Verdict == VerdictFail {
			return true
		}
	}
	return false
}

func sizeOf(q resource.Quantity) volume.Size { return volume.Size(q.Value()) }

func checkBound(c *corev1.PersistentVolumeClaim) Check {
	switch {
	case c.DeletionTimestamp != nil:
		return Check{Verdict: VerdictFail, Text: "the claim is being deleted"}
	case c.Status.Phase != corev1.ClaimBound:
		return Check{
			Verdict: VerdictFail,
			Text:    fmt.Sprintf("the claim is %s, not Bound: it has no volume yet", c.Status.Phase),
			Next: fmt.Sprintf(
				"wait until it is bound; kubectl describe pvc %s --namespace %s shows why not",
				c.Name,
				c.Namespace,
			),
		}
	}
	return Check{Verdict: VerdictOK, Text: "the claim is bound to " + c.Spec.VolumeName}
}

// checkSize compares the target with what the claim has. A target below the present request is
// allowed above the capacity: this is how a user steps back.
func checkSize(c *corev1.PersistentVolumeClaim, target resource.Quantity) Check {
	request, capacity, size := claim.Request(c), claim.Capacity(c), sizeOf(target)
	switch {
	case size < capacity || size == capacity && request > capacity:
		return Check{
			Verdict: VerdictFail,
			Text:    fmt.Sprintf("%s are requested, and the claim already has %s: volumes do not shrink", size, capacity),
			Next:    "request more than " + capacity.String(),
		}
	case size == capacity:
		return Check{Verdict: VerdictOK, Text: "the claim already has " + capacity.String()}
	case size == request:
		return Check{Verdict: VerdictOK, Text: "the claim already requests " + size.String()}
	case size < request:
		return Check{
			Verdict: VerdictOK, Text: fmt.Sprintf("%s steps back from %s; the claim has %s", size, request, capacity),
		}
	}
	return Check{Verdict: VerdictOK, Text: fmt.Sprintf("%s is more than %s", size, capacity)}
}

func (e *Expander) checkClass(ctx context.Context, s *claim.Status) Check {
	if s.Class == "" {
		return Check{
			Verdict: VerdictFail, Text: "the claim has no StorageClass: Kubernetes grows only claims of a class",
			Next: "copy the data to a claim of a class that allows expansion",
		}
	}
	class, err := e.Client.StorageV1().StorageClasses().Get(ctx, s.Class, metav1.GetOptions{})
	if err = apierror.Of(err, "get", "storageclasses", ""); err != nil {
		if volume.KindOf(err) == volume.KindNotFound {
			return Check{
				Verdict: VerdictFail, Text: "the StorageClass " + s.Class + " does not exist",
				Next: "create it again with allowVolumeExpansion: true",
			}
		}
		return Check{Verdict: VerdictUnknown, Text: "the StorageClass " + s.Class + " could not be read: " + err.Error()}
	}
	if class.AllowVolumeExpansion == nil || !*class.AllowVolumeExpansion {
		return Check{
			Verdict: VerdictFail, Text: "the StorageClass " + s.Class + " does not allow expansion",
			Next: "kubectl patch storageclass " + s.Class + ` -p '{"allowVolumeExpansion":true}'`,
		}
	}
	return Check{Verdict: VerdictOK, Text: "the StorageClass " + s.Class + " allows expansion"}
}

func checkPods(o claim.Objects, s *claim.Status) Check {
	pod, runs := s.RunningPod()
	switch {
	case o.Pods.Err != nil:
		return Check{Verdict: VerdictUnknown, Text: "the pods could not be read: " + o.Pods.Err.Error()}
	case !runs:
		return Check{
			Verdict: VerdictWarn, Text: "no pod uses the claim: the volume grows now, the filesystem when a pod starts",
		}
	}
	return Check{Verdict: VerdictOK, Text: "pod " + pod.Name + " uses the claim on node " + pod.Node}
}

// checkDriver checks that the node of the pod has the driver. It is not needed without a pod.
func checkDriver(o claim.Objects, s *claim.Status) (check Check, needed bool) {
	pod, runs := s.RunningPod()
	switch {
	case o.Volume.Err != nil:
		return Check{Verdict: VerdictUnknown, Text: "the driver is not known: " + o.Volume.Err.Error()}, true
	case s.Driver == "":
		return Check{Verdict: VerdictWarn, Text: "the PersistentVolume is not of a CSI driver"}, true
	case !runs:
		return Check{}, false
	case o.Node.Err != nil:
		return Check{Verdict: VerdictUnknown, Text: "the node's drivers could not be read: " + o.Node.Err.Error()}, true
	case !claim.HasDriver(o, s.Driver):
		return Check{
			Verdict: VerdictWarn, Text: "node " + pod.Node + " does not have the driver " + s.Driver +
				": the filesystem grows when it is registered",
			Next: "restart the driver's node plugin on " + pod.Node,
		}, true
	}
	return Check{Verdict: VerdictOK, Text: "node " + pod.Node + " has the driver " + s.Driver}, true
}
