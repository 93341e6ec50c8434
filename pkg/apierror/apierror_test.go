package apierror_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/growvol/growvol/pkg/apierror"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestOfGivesKindAndNextStep(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	for _, tt := range []struct {
		err       error
		namespace string
		kind      volume.Kind
		want      []string
	}{
		{
			apierrors.NewForbidden(pods, "p", nil), "n", volume.KindDenied,
			[]string{"the right to get pods is missing", "the verb get for the resource pods in namespace n"},
		},
		{apierrors.NewForbidden(pods, "p", nil), "", volume.KindDenied, []string{"in the whole cluster"}},
		{apierrors.NewUnauthorized("expired"), "n", volume.KindUnauthenticated, []string{"expired"}},
		{apierrors.NewNotFound(pods, "p"), "n", volume.KindNotFound, []string{`pods "p" not found`}},
		{apierrors.NewBadRequest("malformed"), "n", volume.KindInvalid, []string{"malformed"}},
		{fmt.Errorf("get: %w", context.DeadlineExceeded), "n", volume.KindDeadline, []string{"cannot get pods"}},
		{fmt.Errorf("get: %w", context.Canceled), "n", volume.KindCanceled, []string{"cannot get pods"}},
		{errors.New("connection refused"), "n", volume.KindUnavailable, []string{"cannot get pods: connection refused"}},
		{volume.Errorf(volume.KindInternal, "own"), "n", volume.KindInternal, []string{"own"}},
	} {
		volumetest.WantKind(t, apierror.Of(tt.err, "get", "pods", tt.namespace), tt.kind, tt.want...)
	}
	if err := apierror.Of(nil, "get", "pods", "n"); err != nil {
		t.Errorf("no error gives %v, want none", err)
	}
}
