package doctor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/growvol/growvol/deploy/charts"
	"github.com/growvol/growvol/pkg/apierror"
	"github.com/growvol/growvol/pkg/pluginpod"
)

// right is something that a user or a ServiceAccount may do in all namespaces. This file checks
// rights, as the API server answers about them.
type right struct{ verb, group, resource string }

func (r right) String() string {
	if r.group == "" {
		return r.verb + " " + r.resource
	}
	resource, subresource, found := strings.Cut(r.resource, "/")
	if found {
		subresource = "/" + subresource
	}
	return r.verb + " " + resource + "." + r.group + subresource
}

// attributes returns the right as the API server asks for it.
func (r right) attributes(namespace string) *authorizationv1.ResourceAttributes {
	resource, subresource, _ := strings.Cut(r.resource, "/")
	return &authorizationv1.ResourceAttributes{
		Verb: r.verb, Group: r.group, Resource: resource, Subresource: subresource, Namespace: namespace,
	}
}

// ownRights returns the rights that the commands of kubectl growvol use, by the command; see
// docs/how-to/kubectl-growvol.md.
func ownRights() map[string][]right {
	return map[string][]right{
		"status": {
			{"get", "", "persistentvolumeclaims"},
			{"list", "", "persistentvolumeclaims"},
			{"list", "", "pods"},
			{"list", "", "events"},
			{"get", "", "persistentvolumes"},
			{"list", "", "persistentvolumes"},
			{"get", "storage.k8s.io", "csinodes"},
			{"get", "", "nodes/proxy"},
			{"get", "storage.k8s.io", "storageclasses"},
			{"list", "storage.k8s.io", "volumeattachments"},
			{"get", "storage.k8s.io", "csidrivers"},
		},
		"expand": {{"patch", "", "persistentvolumeclaims"}, {"get", "storage.k8s.io", "storageclasses"}},
		"expand sts/NAME --recreate": {
			{"get", "apps", "statefulsets"}, {"create", "apps", "statefulsets"}, {"delete", "apps", "statefulsets"},
		},
		"support-bundle": {
			{"get", "", "pods/log"},
			{"get", "", "pods/proxy"},
			{"list", "", "nodes"},
			{"list", "storage.k8s.io", "csidrivers"},
			{"list", "storage.k8s.io", "volumeattachments"},
			{"list", "coordination.k8s.io", "leases"},
		},
	}
}

// checkOwnRights checks what the user of this program may do in all namespaces.
func (d *Doctor) checkOwnRights(ctx context.Context) Check {
	const name = "your rights"
	var denied []string
	for _, command := range slices.Sorted(maps.Keys(ownRights())) {
		missing, err := d.missing(ownRights()[command], func(r right) (bool, error) {
			review := &authorizationv1.SelfSubjectAccessReview{
				Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: r.attributes("")},
			}
			answer, err := d.Client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
			if err != nil {
				return false, apierror.Of(err, "create", "selfsubjectaccessreviews.authorization.k8s.io", "")
			}
			return answer.Status.Allowed, nil
		})
		if err != nil {
			return unread(name, err)
		}
		if len(missing) > 0 {
			denied = append(denied, command+" ("+strings.Join(missing, ", ")+")")
		}
	}
	if len(denied) > 0 {
		return warn(name, "in all namespaces you lack rights of these commands of kubectl growvol, which then show less: "+
			strings.Join(denied, "; "), "ask for a cluster role with these rights, or use the commands where you have them")
	}
	return ok(name, "all commands of kubectl growvol may read what they show, in all namespaces")
}

// checkSidecarRights checks that the ServiceAccount of the controller may do what the chart lets
// its sidecars do.
func (d *Doctor) checkSidecarRights(ctx context.Context, in *installation) Check {
	const name = "sidecars' rights"
	if in.controller == nil {
		return warn(name, "not checked: there is no Deployment", "")
	}
	pod := &in.controller.Spec.Template.Spec
	account := "system:serviceaccount:" + in.namespace + ":" + pod.ServiceAccountName
	var lacking []string
	for _, sidecar := range slices.Sorted(maps.Keys(d.Rules)) {
		if pluginpod.FindContainer(pod, sidecar) == nil {
			continue
		}
		missing, err := d.missing(rightsOf(d.Rules[sidecar]), func(r right) (bool, error) {
			review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
				User: account, ResourceAttributes: r.attributes(""), Groups: []string{
					"system:serviceaccounts", "system:serviceaccounts:" + in.namespace, "system:authenticated",
				},
			}}
			answer, err := d.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
			if err != nil {
				return false, apierror.Of(err, "create", "subjectaccessreviews.authorization.k8s.io", "")
			}
			return answer.Status.Allowed, nil
		})
		if err != nil {
			return unread(name, err)
		}
		if len(missing) > 0 {
			lacking = append(lacking, sidecar+" ("+joinNames(missing)+")")
		}
	}
	if len(lacking) > 0 {
		return fail(name, "the ServiceAccount "+in.namespace+"/"+pod.ServiceAccountName+" lacks rights of "+
			strings.Join(lacking, ", "), "install the chart with rbac.create: true, or add the rights to its roles")
	}
	return ok(name, fmt.Sprintf("the ServiceAccount %s/%s has the rights of the chart's roles",
		in.namespace, pod.ServiceAccountName))
}

func rightsOf(rules []charts.Rule) []right {
	var all []right
	for _, rule := range rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					all = append(all, right{verb, group, resource})
				}
			}
		}
	}
	return all
}

// missing returns the rights that isAllowed returns false for, in their order. It asks for several
// at once.
func (d *Doctor) missing(rights []right, isAllowed func(right) (bool, error)) ([]string, error) {
	var (
		group  errgroup.Group
		mutex  sync.Mutex
		denied = map[right]bool{}
	)
	group.SetLimit(maxNodesAtOnce)
	for _, r := range rights {
		group.Go(func() error {
			allowed, err := isAllowed(r)
			mutex.Lock()
			defer mutex.Unlock()
			denied[r] = !allowed
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var names []string
	for _, r := range rights {
		if denied[r] {
			names = append(names, r.String())
		}
	}
	return names, nil
}
