package expansion

import (
	"context"
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/growvol/growvol/pkg/apierror"
	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/volume"
)

// patchOperation is an operation of a JSON patch (RFC 6902).
type patchOperation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value string `json:"value"`
}

// Request writes the target into the claim's request, or lets the API server check this with
// isDryRun. The patch fails if the request has changed since the claim was read. Kinds: Invalid
// (the API server refuses the size), Precondition (the request has changed), Denied, NotFound,
// Unavailable.
func (e *Expander) Request(
	ctx context.Context, c *corev1.PersistentVolumeClaim, target resource.Quantity, isDryRun bool,
) error {
	const path = "/spec/resources/requests/storage"
	patch, err := json.Marshal([]patchOperation{
		{Op: "test", Path: path, Value: c.Spec.Resources.Requests.Storage().String()},
		{Op: "replace", Path: path, Value: target.String()},
	})
	if err != nil {
		return err
	}
	options := metav1.PatchOptions{FieldManager: fieldManager}
	if isDryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	_, err = e.Client.CoreV1().PersistentVolumeClaims(c.Namespace).Patch(ctx, c.Name, types.JSONPatchType, patch, options)
	if err == nil {
		return nil
	}
	return e.refusal(ctx, c, err)
}

// refusal returns the error of a patch that the API server has not accepted.
func (e *Expander) refusal(ctx context.Context, c *corev1.PersistentVolumeClaim, err error) error {
	if apierrors.IsInvalid(err) || apierrors.IsForbidden(err) {
		// The API server's own words: a rule of the claim, a quota, or a missing right.
		now, readErr := e.Reader.Claim(ctx, c.Namespace, c.Name)
		if readErr == nil && now.Spec.Resources.Requests.Storage().Cmp(*c.Spec.Resources.Requests.Storage()) != 0 {
			return volume.Errorf(volume.KindPrecondition, "the request has changed to %s in between", claim.Request(now)).
				WithRemedy("read the status, and run the command again")
		}
		kind := volume.KindInvalid
		if apierrors.IsForbidden(err) {
			kind = volume.KindDenied
		}
		refusal := volume.Errorf(kind, "the API server refuses the patch: %w", err)
		class := ""
		if c.Spec.StorageClassName != nil {
			class = *c.Spec.StorageClassName
		}
		if next := claim.RefusalRemedy(err.Error(), class); next != "" {
			return refusal.WithRemedy(next)
		}
		return refusal
	}
	return apierror.Of(err, "patch", "persistentvolumeclaims", c.Namespace)
}
