package expansion

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/growvol/growvol/pkg/apierror"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// recreateTimeout bounds the time in which the StatefulSet does not exist, and the time until the
// new one has the pods.
const recreateTimeout = 2 * time.Minute

// checkSuffix makes the name of the object that the API server only checks.
const checkSuffix = "-growvol-check"

// FindTemplate returns the template of the name, or the only one for an empty name. Kind: Invalid.
func FindTemplate(set *appsv1.StatefulSet, name string) (*corev1.PersistentVolumeClaim, error) {
	templates := set.Spec.VolumeClaimTemplates
	var names []string
	for i := range templates {
		if templates[i].Name == name || name == "" && len(templates) == 1 {
			return &templates[i], nil
		}
		names = append(names, templates[i].Name)
	}
	if len(names) == 0 {
		return nil, volume.Errorf(volume.KindInvalid, "the StatefulSet %s has no volumeClaimTemplates", set.Name)
	}
	return nil, volume.Errorf(volume.KindInvalid, "the StatefulSet %s has the templates %q", set.Name, names).
		WithRemedy("name one of them with --template")
}

// Recreate replaces the StatefulSet by one whose template has the size. Kubernetes does not let the
// template be edited: Recreate deletes the StatefulSet without its pods and claims, creates it
// again, and returns when the new one has the same pods. It writes the StatefulSet to a file first
// and returns the file's path; the file is left if Recreate fails.
//
// From the deletion on, the work continues when ctx ends: the StatefulSet must exist again. Kinds:
// Precondition (another controller manages the StatefulSet), and those of the API server.
func (e *Expander) Recreate(
	ctx context.Context, set *appsv1.StatefulSet, template string, size resource.Quantity,
) (backup string, err error) {
	if owner := metav1.GetControllerOf(set); owner != nil {
		return "", volume.Errorf(volume.KindPrecondition, "the StatefulSet %s is managed by %s %s, which would undo this",
			set.Name, owner.Kind, owner.Name).WithRemedy("change the size in " + owner.Kind + " " + owner.Name)
	}
	replacement, err := replacementOf(set, template, size)
	if err != nil {
		return "", err
	}
	if err := e.checkCreate(ctx, replacement); err != nil {
		return "", err
	}
	pods, err := e.podsOf(ctx, set)
	if err != nil {
		return "", err
	}
	if backup, err = writeBackup(replacement); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recreateTimeout)
	defer cancel()
	created, err := e.replace(ctx, set, replacement)
	if err != nil {
		return backup, volume.Errorf(volume.KindOf(err), "replace the StatefulSet %s: %w", set.Name, err).
			WithRemedy(fmt.Sprintf("if kubectl get statefulset %s --namespace %s does not show it, run: kubectl create -f %s",
				set.Name, set.Namespace, backup))
	}
	if err := e.awaitAdopted(ctx, created, pods); err != nil {
		return backup, err
	}
	return backup, os.Remove(backup)
}

// replacementOf returns the StatefulSet as it is to be created again.
func replacementOf(set *appsv1.StatefulSet, template string, size resource.Quantity) (*appsv1.StatefulSet, error) {
	r := set.DeepCopy()
	r.TypeMeta = metav1.TypeMeta{APIVersion: "apps/v1", Kind: "StatefulSet"}
	r.UID, r.ResourceVersion, r.Generation = "", "", 0
	r.CreationTimestamp, r.ManagedFields, r.Status = metav1.Time{}, nil, appsv1.StatefulSetStatus{}
	found, err := FindTemplate(r, template)
	if err != nil {
		return nil, err
	}
	if found.Spec.Resources.Requests == nil {
		found.Spec.Resources.Requests = corev1.ResourceList{}
	}
	found.Spec.Resources.Requests[corev1.ResourceStorage] = size
	return r, nil
}

// checkCreate lets the API server check the right to create the StatefulSet, and whether it accepts
// it. A name that is not in use is needed for that.
func (e *Expander) checkCreate(ctx context.Context, replacement *appsv1.StatefulSet) error {
	c := replacement.DeepCopy()
	c.Name += checkSuffix
	_, err := e.Client.AppsV1().StatefulSets(c.Namespace).Create(ctx, c,
		metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldManager: fieldManager})
	return apierror.Of(err, "create", "statefulsets", c.Namespace)
}

// podsOf returns the ids of the pods that the StatefulSet controls.
func (e *Expander) podsOf(ctx context.Context, set *appsv1.StatefulSet) (map[types.UID]string, error) {
	list, err := e.Client.CoreV1().Pods(set.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, apierror.Of(err, "list", "pods", set.Namespace)
	}
	pods := map[types.UID]string{}
	for i := range list.Items {
		if p := &list.Items[i]; metav1.IsControlledBy(p, set) && p.DeletionTimestamp == nil {
			pods[p.UID] = p.Name
		}
	}
	return pods, nil
}

func writeBackup(set *appsv1.StatefulSet) (path string, err error) {
	content, err := yaml.Marshal(set)
	if err != nil {
		return "", err
	}
	file, err := os.CreateTemp("", "statefulset-"+set.Namespace+"-"+set.Name+"-*.yaml")
	if err != nil {
		return "", err
	}
	_, err = file.Write(content)
	if err == nil {
		err = file.Sync()
	}
	return file.Name(), volume.Join(err, file.Close())
}

// replace deletes the StatefulSet, leaves its pods and claims, and creates the replacement.
func (e *Expander) replace(
	ctx context.Context, set, replacement *appsv1.StatefulSet,
) (created *appsv1.StatefulSet, err error) {
	sets := e.Client.AppsV1().StatefulSets(set.Namespace)
	orphan := metav1.DeletePropagationOrphan
	err = sets.Delete(ctx, set.Name, metav1.DeleteOptions{
		PropagationPolicy: &orphan,
		Preconditions:     &metav1.Preconditions{UID: &set.UID, ResourceVersion: &set.ResourceVersion},
	})
	if err != nil {
		return nil, apierror.Of(err, "delete", "statefulsets", set.Namespace)
	}
	for {
		// Until the garbage collector has removed the owner from pods and claims, the name is taken.
		created, err = sets.Create(ctx, replacement, metav1.CreateOptions{FieldManager: fieldManager})
		if err == nil {
			return created, nil
		}
		if !apierrors.IsAlreadyExists(err) && volume.KindOf(apierror.Of(err, "create", "statefulsets", "")) !=
			volume.KindUnavailable {
			return nil, apierror.Of(err, "create", "statefulsets", set.Namespace)
		}
		if sleepErr := operation.Sleep(ctx, claimInterval); sleepErr != nil {
			return nil, fmt.Errorf("%w: %w", sleepErr, err)
		}
	}
}

// awaitAdopted waits until the StatefulSet controls the same pods as its predecessor.
func (e *Expander) awaitAdopted(ctx context.Context, set *appsv1.StatefulSet, pods map[types.UID]string) error {
	for {
		adopted, err := e.podsOf(ctx, set)
		var missing []string
		for uid, name := range pods {
			if _, ok := adopted[uid]; !ok {
				missing = append(missing, name)
			}
		}
		if err == nil && len(missing) == 0 {
			return nil
		}
		slices.Sort(missing)
		if sleepErr := operation.Sleep(ctx, claimInterval); sleepErr != nil {
			return volume.Errorf(volume.KindDeadline,
				"the StatefulSet %s is created again, but has not taken over its pods %q: %w",
				set.Name, missing, volume.Join(err, sleepErr)).
				WithRemedy("check it: kubectl describe statefulset " + set.Name + " --namespace " + set.Namespace)
		}
	}
}
