// Package reader reads from a cluster what package claim shows: claims and the objects around them
// from the API server, filesystems from kubelet, and the other layers from the driver, if it gives
// readings. A reading that fails does not fail the others: its error, which names the missing
// right, is part of the status.
package reader

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/growvol/growvol/pkg/apierror"
	"github.com/growvol/growvol/pkg/claim"
)

// Driver gives the readings of a CSI driver: the size of the volume in the storage system, of the
// device and the mapping on the node, and of the filesystem.
type Driver interface {
	// ReadLayers returns for each of the volumes the layers that the driver has read, and the error of
	// the others.
	ReadLayers(ctx context.Context, volumes []DriverVolume) []claim.Reading[[]claim.Layer]
}

// DriverVolume is a volume of a CSI driver.
type DriverVolume struct {
	Driver, Handle string
	Node           string // the Kubernetes node that has the volume; empty: none
}

// Reader reads claims.
type Reader struct {
	Client kubernetes.Interface
	Stats  Stats
	Driver Driver // nil: no driver gives readings
	Now    func() time.Time
}

// Selection selects claims.
type Selection struct {
	Namespace string // empty: all namespaces
	Labels    string // a label selector; empty: all claims
}

// Claim returns the claim. Kinds: NotFound, Denied, Unavailable.
func (r *Reader) Claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	c, err := r.Client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
	return c, apierror.Of(err, "get", "persistentvolumeclaims", namespace)
}

// Claims returns the selected claims.
func (r *Reader) Claims(ctx context.Context, selection Selection) ([]corev1.PersistentVolumeClaim, error) {
	list, err := r.Client.CoreV1().PersistentVolumeClaims(selection.Namespace).List(ctx,
		metav1.ListOptions{LabelSelector: selection.Labels})
	if err != nil {
		return nil, apierror.Of(err, "list", "persistentvolumeclaims", selection.Namespace)
	}
	return list.Items, nil
}

// StatefulSetClaims returns the claims that Kubernetes has made from the templates of the
// StatefulSet, ordered by template and ordinal, and the StatefulSet itself.
func (r *Reader) StatefulSetClaims(ctx context.Context, namespace, name string) (StatefulSet, error) {
	object, err := r.Client.AppsV1().StatefulSets(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return StatefulSet{}, apierror.Of(err, "get", "statefulsets", namespace)
	}
	all, err := r.Claims(ctx, Selection{Namespace: namespace})
	if err != nil {
		return StatefulSet{}, err
	}
	return StatefulSet{Object: object, Claims: selectClaims(object, all)}, nil
}

// Status returns the status of one claim.
func (r *Reader) Status(ctx context.Context, c *corev1.PersistentVolumeClaim) claim.Status {
	return claim.NewStatus(r.Objects(ctx, c))
}

// Objects returns the readings of one claim.
func (r *Reader) Objects(ctx context.Context, c *corev1.PersistentVolumeClaim) claim.Objects {
	s := newSnapshot(r)
	o := s.objects(ctx, c)
	o.Events = r.eventsOf(ctx, c, o.Pods.Value)
	return o
}

// Statuses returns the status of each claim. It reads each object and each node once.
func (r *Reader) Statuses(ctx context.Context, claims []corev1.PersistentVolumeClaim) []claim.Status {
	s := newSnapshot(r)
	namespace := commonNamespace(claims)
	if len(claims) > preloadThreshold {
		s.preload(ctx)
	}
	pods := indexPods(r.pods(ctx, namespace))
	events := r.events(ctx, namespace, "involvedObject.kind=PersistentVolumeClaim")
	eventsOf := map[types.UID][]corev1.Event{}
	for i := range events.Value {
		uid := events.Value[i].InvolvedObject.UID
		eventsOf[uid] = append(eventsOf[uid], events.Value[i])
	}
	s.readNodes(ctx, claims, pods)
	s.readDrivers(ctx, claims, pods)
	statuses := make([]claim.Status, 0, len(claims))
	for i := range claims {
		c := &claims[i]
		o := s.objectsWithPods(ctx, c, pods.using(c))
		o.Events = claim.Reading[[]corev1.Event]{Value: eventsOf[c.UID], Err: events.Err}
		statuses = append(statuses, claim.NewStatus(o))
	}
	return statuses
}

// preloadThreshold is the number of claims above which one list is cheaper than a read of each
// object.
const preloadThreshold = 3

// commonNamespace returns the namespace of all claims, or an empty text if they have several.
func commonNamespace(claims []corev1.PersistentVolumeClaim) string {
	for i := range claims {
		if claims[i].Namespace != claims[0].Namespace {
			return ""
		}
	}
	if len(claims) == 0 {
		return ""
	}
	return claims[0].Namespace
}

// pods returns the pods of the namespace, or of all namespaces.
func (r *Reader) pods(ctx context.Context, namespace string) claim.Reading[[]corev1.Pod] {
	list, err := r.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return claim.Reading[[]corev1.Pod]{Err: apierror.Of(err, "list", "pods", namespace)}
	}
	return claim.Reading[[]corev1.Pod]{Value: list.Items}
}

// podIndex has pods by the claims that they use.
type podIndex struct {
	byClaim map[types.NamespacedName][]corev1.Pod
	err     error // of reading the pods
}

func indexPods(pods claim.Reading[[]corev1.Pod]) podIndex {
	index := podIndex{byClaim: map[types.NamespacedName][]corev1.Pod{}, err: pods.Err}
	for i := range pods.Value {
		p := &pods.Value[i]
		names := map[string]bool{} // a pod may have the claim in several volumes
		for j := range p.Spec.Volumes {
			switch v := &p.Spec.Volumes[j]; {
			case v.Ephemeral != nil: // Kubernetes names the claim after pod and volume
				names[p.Name+"-"+v.Name] = true
			case v.PersistentVolumeClaim != nil:
				names[v.PersistentVolumeClaim.ClaimName] = true
			}
		}
		for name := range names {
			key := types.NamespacedName{Namespace: p.Namespace, Name: name}
			index.byClaim[key] = append(index.byClaim[key], *p)
		}
	}
	return index
}

// using returns the pods that use the claim.
func (x podIndex) using(c *corev1.PersistentVolumeClaim) claim.Reading[[]corev1.Pod] {
	key := types.NamespacedName{Namespace: c.Namespace, Name: c.Name}
	return claim.Reading[[]corev1.Pod]{Value: x.byClaim[key], Err: x.err}
}

// events returns the events of the namespace, or of all namespaces, that the selector selects.
func (r *Reader) events(ctx context.Context, namespace, selector string) claim.Reading[[]corev1.Event] {
	list, err := r.Client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: selector})
	if err != nil {
		return claim.Reading[[]corev1.Event]{Err: apierror.Of(err, "list", "events", namespace)}
	}
	return claim.Reading[[]corev1.Event]{Value: list.Items}
}

// eventsOf returns the events of the claim and of its pods.
func (r *Reader) eventsOf(
	ctx context.Context, c *corev1.PersistentVolumeClaim, pods []corev1.Pod,
) claim.Reading[[]corev1.Event] {
	all := r.events(ctx, c.Namespace, "involvedObject.uid="+string(c.UID))
	for i := range pods {
		if all.Err != nil {
			break
		}
		more := r.events(ctx, c.Namespace, "involvedObject.uid="+string(pods[i].UID))
		all.Value, all.Err = append(all.Value, more.Value...), more.Err
	}
	return all
}

// nodeOf returns the node of the first pod that has one and has not ended.
func nodeOf(pods []corev1.Pod) string {
	for i := range pods {
		p := &pods[i]
		if p.Spec.NodeName != "" && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			return p.Spec.NodeName
		}
	}
	return ""
}

func (r *Reader) csiNode(ctx context.Context, name string) (*storagev1.CSINode, error) {
	object, err := r.Client.StorageV1().CSINodes().Get(ctx, name, metav1.GetOptions{})
	return object, apierror.Of(err, "get", "csinodes", "")
}

func (r *Reader) persistentVolume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	object, err := r.Client.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
	return object, apierror.Of(err, "get", "persistentvolumes", "")
}

// Names returns the names of the claims of the namespace, and of its StatefulSets as "sts/NAME",
// for the completion of a shell.
func (r *Reader) Names(ctx context.Context, namespace string) ([]string, error) {
	claims, err := r.Claims(ctx, Selection{Namespace: namespace})
	if err != nil {
		return nil, err
	}
	var names []string
	for i := range claims {
		names = append(names, claims[i].Name)
	}
	sets, err := r.Client.AppsV1().StatefulSets(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return names, nil //nolint:nilerr // without the right to read StatefulSets, the claims are of use
	}
	for i := range sets.Items {
		names = append(names, "sts/"+sets.Items[i].Name)
	}
	return names, nil
}
