// Package apierror turns the errors of client-go's requests to the API server into errors of
// package volume, which name the missing right and the next step.
package apierror

import (
	"context"
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/growvol/growvol/pkg/volume"
)

// Of returns the error of a request of client-go; an error of package volume stays as it is. The
// verb and the resource are those that a role names. An empty namespace is the whole cluster.
//
// Kinds: Denied (a right is missing), Unauthenticated, NotFound, Invalid, Deadline, Canceled,
// Unavailable (all other errors).
func Of(err error, verb, resource, namespace string) error {
	var own *volume.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &own):
		return err
	case apierrors.IsForbidden(err):
		return MissingRight(verb, resource, namespace)
	case apierrors.IsUnauthorized(err):
		return volume.Errorf(volume.KindUnauthenticated, "the API server does not accept the credentials: %w", err)
	case apierrors.IsNotFound(err):
		return volume.Errorf(volume.KindNotFound, "%w", err)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return volume.Errorf(volume.KindInvalid, "%w", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return volume.Errorf(volume.KindOf(err), "cannot %s %s: %w", verb, resource, err)
	}
	return volume.Errorf(volume.KindUnavailable, "cannot %s %s: %w", verb, resource, err)
}

// MissingRight is the error for a request that the API server does not allow.
func MissingRight(verb, resource, namespace string) error {
	where := "the whole cluster"
	if namespace != "" {
		where = "namespace " + namespace
	}
	return volume.Errorf(volume.KindDenied, "the right to %s %s is missing", verb, resource).
		WithRemedy("ask for a role with the verb " + verb + " for the resource " + resource + " in " + where)
}
