package autogrow

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/claimcache"
)

// This file recognizes pvc-autoresizer, which reads the same annotations: two programs must not
// both raise the request of a claim.

const (
	// annotationResized is what pvc-autoresizer writes each time it raises a request.
	annotationResized = "resize.topolvm.io/pre_capacity_bytes"
	// resizedPeriod is how long a claim counts as one of pvc-autoresizer after that. The annotation
	// itself stays for ever, also after pvc-autoresizer is uninstalled.
	resizedPeriod = 24 * time.Hour
)

// otherResizer says why pvc-autoresizer grows the claim, or returns an empty text. It does if one
// of its pods runs, and the claim itself has a limit, which it needs. A pod that is not recognized,
// such as one in another cluster, is noticed by what it has written; that needs a claim that was
// read from the API server, because the cache does not have the time.
func (g *Grower) otherResizer(ctx context.Context, c *corev1.PersistentVolumeClaim) (string, error) {
	if c.Annotations[AnnotationLimit] == "" {
		return "", nil
	}
	pod, err := claimcache.AutoresizerPod(ctx, g.Client)
	if err != nil {
		return "", err
	}
	if pod != "" {
		return "pvc-autoresizer runs in pod " + pod + " and grows it (next step: uninstall one of the two)", nil
	}
	if at := claim.AnnotationTime(c, annotationResized); g.Now().Sub(at) < resizedPeriod {
		return fmt.Sprintf("pvc-autoresizer has grown it at %s (next step: once pvc-autoresizer is uninstalled, remove "+
			"the annotation %s, or wait for a day)", at.UTC().Format(time.DateTime), annotationResized), nil
	}
	return "", nil
}
