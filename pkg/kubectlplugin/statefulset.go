package kubectlplugin

import (
	"context"
	"io"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/growvol/growvol/pkg/claim/expansion"
	"github.com/growvol/growvol/pkg/claim/reader"
)

// statefulSet grows the claims of a template of the StatefulSet, then the template.
func (r *expandRun) statefulSet(ctx context.Context, namespace, name string) error {
	set, err := r.expander.Reader.StatefulSetClaims(ctx, namespace, name)
	if err != nil {
		return err
	}
	template, err := expansion.FindTemplate(set.Object, r.options.template)
	if err != nil {
		return err
	}
	claims := slices.DeleteFunc(set.Claims, func(c corev1.PersistentVolumeClaim) bool {
		of, _, _ := reader.TemplateOf(set.Object, c.Name)
		return of != template.Name
	})
	growths, err := r.prepare(ctx, claims)
	if err != nil {
		return err
	}
	target := templateTarget(template, r.size, growths)
	isCurrent := template.Spec.Resources.Requests.Storage().Cmp(target) >= 0
	outcome := expansion.OutcomeGrown
	if !r.options.dryRun {
		outcome = r.growAll(ctx, growths)
	}
	switch {
	case isCurrent:
		r.printf("the template %s of sts/%s has %s: new replicas get this size\n",
			template.Name, name, template.Spec.Resources.Requests.Storage())
	case !r.options.recreate || r.options.dryRun:
		r.explainTemplate(set, template, target)
	case outcome != expansion.OutcomeGrown:
		r.errorf("sts/%s is not created again, because not all claims have grown\n", name)
	default:
		return r.recreate(ctx, set, template, target)
	}
	return exitError(outcome)
}

// templateTarget returns the size for the template: that of the command line, or with an added size
// that of the largest claim.
func templateTarget(
	template *corev1.PersistentVolumeClaim, size expansion.Size, growths []growth,
) resource.Quantity {
	if !size.IsAdded {
		return size.Quantity
	}
	target := template.Spec.Resources.Requests.Storage().DeepCopy()
	for _, g := range growths {
		if g.target.Cmp(target) > 0 {
			target = g.target
		}
	}
	return target
}

// growAll grows the claims one after another, up to the first that does not grow, or all at once.
// It returns the worst outcome.
func (r *expandRun) growAll(ctx context.Context, growths []growth) expansion.Outcome {
	outcomes := make([]expansion.Outcome, 0, len(growths))
	if r.options.parallel {
		outcomes = r.growParallel(ctx, growths)
	} else {
		for i, g := range growths {
			outcome := r.grow(ctx, g)
			outcomes = append(outcomes, outcome)
			if outcome != expansion.OutcomeGrown && r.wait > 0 {
				if left := len(growths) - i - 1; left > 0 {
					r.errorf("%d further claims are not grown, because %s has not grown\n", left, g.claim.Name)
				}
				break
			}
		}
	}
	switch {
	case slices.Contains(outcomes, expansion.OutcomeRefused):
		return expansion.OutcomeRefused
	case slices.Contains(outcomes, expansion.OutcomeUnderWay):
		return expansion.OutcomeUnderWay
	}
	return expansion.OutcomeGrown
}

func (r *expandRun) growParallel(ctx context.Context, growths []growth) []expansion.Outcome {
	// Several growths print: each line is written at once.
	var mutex sync.Mutex
	out, errOut := r.Out, r.ErrOut
	r.Out, r.ErrOut = lockedWriter{out, &mutex}, lockedWriter{errOut, &mutex}
	defer func() { r.Out, r.ErrOut = out, errOut }()
	outcomes := make([]expansion.Outcome, len(growths))
	var group sync.WaitGroup
	for i, g := range growths {
		group.Go(func() { outcomes[i] = r.grow(ctx, g) })
	}
	group.Wait()
	return outcomes
}

// lockedWriter is a writer for several goroutines.
type lockedWriter struct {
	io.Writer
	mutex *sync.Mutex
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.Writer.Write(p)
}

// explainTemplate says that new replicas get the old size, and how to change it.
func (r *expandRun) explainTemplate(
	set reader.StatefulSet, template *corev1.PersistentVolumeClaim, target resource.Quantity,
) {
	name, namespace := set.Object.Name, set.Object.Namespace
	r.printf(`the template %s of sts/%s still has %s: new replicas get a volume of this size.
Kubernetes does not let a template be edited. To change it, the StatefulSet is deleted without its pods and
claims (kubectl delete --cascade=orphan) and created again with the new size. Its pods continue to run:
  kubectl growvol expand sts/%s %s --recreate --template %s --namespace %s
Change the size in the source of the StatefulSet too (Helm chart, manifest).
`, template.Name, name, template.Spec.Resources.Requests.Storage(), name, target.String(), template.Name, namespace)
}

// recreate replaces the StatefulSet. It reports a failure as refused.
func (r *expandRun) recreate(
	ctx context.Context, set reader.StatefulSet, template *corev1.PersistentVolumeClaim, target resource.Quantity,
) error {
	// The controller writes the status meanwhile: the object must be the present one.
	now, err := r.expander.Reader.StatefulSetClaims(ctx, set.Object.Namespace, set.Object.Name)
	if err != nil {
		return err
	}
	r.printf("sts/%s: deleting it without its pods and claims, and creating it again\n", set.Object.Name)
	backup, err := r.expander.Recreate(ctx, now.Object, template.Name, target)
	if err != nil {
		if backup != "" {
			r.errorf("%s\n", "the StatefulSet is in the file "+backup)
		}
		return err
	}
	r.printf("sts/%s is created again with %s in the template %s; it has its pods and claims\n",
		set.Object.Name, target.String(), template.Name)
	return nil
}
