package claimreadings

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/growvol/growvol/pkg/claimcache"
	"github.com/growvol/growvol/pkg/readings"
	"github.com/growvol/growvol/tests/must"
)

const driver = "loop.growvol.io"

// plugins answer for all nodes: with the volumes that are requested.
type plugins struct {
	mu      sync.Mutex
	reads   map[string][]time.Time // by node
	failing string                 // the node that answers with an error
	hangs   func(node string) bool // nodes that do not answer
	running atomic.Int32
	maximum atomic.Int32
}

func (p *plugins) ReadNode(ctx context.Context, node string, handles ...string) (readings.Answer, error) {
	p.maximum.Store(max(p.maximum.Load(), p.running.Add(1)))
	defer p.running.Add(-1)
	p.mu.Lock()
	p.reads[node] = append(p.reads[node], time.Now())
	p.mu.Unlock()
	switch {
	case node == p.failing:
		return readings.Answer{}, errors.New("no answer")
	case p.hangs(node):
		<-ctx.Done()
		return readings.Answer{}, ctx.Err()
	}
	a := readings.Answer{Driver: driver, Node: node}
	for _, handle := range handles {
		a.Volumes = append(a.Volumes, readings.Volume{ID: handle})
	}
	return a, nil
}

func (p *plugins) count(node string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.reads[node])
}

// observer needs claims whose name does not begin with "unneeded".
type observer struct {
	interval, next time.Duration
	mu             sync.Mutex
	seen           []Reading
	retained       map[types.NamespacedName]types.UID
}

func (o *observer) Interval(_ context.Context, c *corev1.PersistentVolumeClaim) time.Duration {
	if strings.HasPrefix(c.Name, "unneeded") {
		return 0
	}
	return o.interval
}

func (o *observer) Observe(_ context.Context, r Reading) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seen = append(o.seen, r)
	return o.next
}

func (o *observer) Retain(claims map[types.NamespacedName]types.UID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.retained = claims
}

// objectsOf returns a claim with its volume, and a pod that writes to it on the node.
func objectsOf(name, node, driver string) []client.Object {
	return []client.Object{
		&corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: name, UID: types.UID("uid-" + name)},
			Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: "pv-" + name},
			Status:     corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
		},
		&corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: "pv-" + name},
			Spec: corev1.PersistentVolumeSpec{
				ClaimRef: &corev1.ObjectReference{UID: types.UID("uid-" + name)},
				PersistentVolumeSource: corev1.PersistentVolumeSource{
					CSI: &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: "vol-" + name},
				},
			},
		},
		&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "pod-" + name},
			Spec: corev1.PodSpec{
				NodeName:   node,
				Containers: []corev1.Container{{VolumeMounts: []corev1.VolumeMount{{Name: "v"}}}},
				Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
					PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
				}}},
			},
		},
	}
}

// rig is a poller over a fake cluster.
type rig struct {
	*Poller
	plugins  *plugins
	cluster  client.Client
	registry *prometheus.Registry
}

func newRig(observers []Observer, objects ...client.Object) *rig {
	r := &rig{
		plugins:  &plugins{reads: map[string][]time.Time{}, hangs: func(string) bool { return false }},
		registry: prometheus.NewRegistry(),
	}
	r.cluster = fake.NewClientBuilder().WithObjects(objects...).
		WithIndex(&corev1.Pod{}, claimcache.IndexClaims, claimcache.ClaimsOf).Build()
	r.Poller = New(Options{
		Driver: driver, Reader: r.plugins, Client: r.cluster, Observers: observers, Metrics: r.registry,
		Log: slog.New(slog.DiscardHandler),
	})
	return r
}

// run runs the poller for the time.
func (r *rig) run(t *testing.T, d time.Duration) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), d-time.Millisecond)
	defer stop()
	must.Succeed(t, r.Start(ctx))
}

// Nodes are read at the interval that their claims need, and no others.
func TestNodesAreReadAtTheirInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, slow := &observer{interval: 10 * time.Second}, &observer{interval: time.Minute}
		idle := &observer{}
		r := newRig([]Observer{o, slow, idle}, slices.Concat(
			objectsOf("data", "node1", driver), objectsOf("logs", "node1", driver),
			objectsOf("foreign", "node3", "ebs.csi.aws.com"))...)
		r.run(t, time.Minute)
		if got := r.plugins.count("node1"); got != 6 {
			t.Errorf("got %d readings of node1 in a minute, want 6", got)
		}
		if got := r.plugins.count("node3"); got != 0 {
			t.Errorf("got %d readings of a node without a volume of the driver", got)
		}
		if len(o.seen) != 12 || o.seen[0].Volume == nil || o.seen[0].Node != "node1" ||
			o.seen[0].Volume.ID != "vol-"+o.seen[0].Claim.Name {
			t.Errorf("got %d readings of two claims, the first is %+v, want 12", len(o.seen), o.seen[0])
		}
		if len(idle.seen) != 0 || len(idle.retained) != 0 {
			t.Errorf("an observer that needs no claim got %d readings of %v", len(idle.seen), idle.retained)
		}
		if len(o.retained) != 2 || o.retained[types.NamespacedName{Namespace: "app", Name: "data"}] != "uid-data" {
			t.Errorf("got the claims %v, want data and logs", o.retained)
		}
	})
}

func TestClaimsThatNobodyNeedsAreNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pending := objectsOf("pending", "node4", driver)
		pending[0].(*corev1.PersistentVolumeClaim).Status.Phase = corev1.ClaimPending //nolint:errcheck // of objectsOf
		r := newRig([]Observer{&observer{interval: 10 * time.Second}}, slices.Concat(
			objectsOf("unneeded", "node2", driver), objectsOf("unused", "node3", driver)[:2], pending)...)
		r.run(t, time.Minute)
		if len(r.plugins.reads) != 0 {
			t.Errorf("got readings of %v, want none", r.plugins.reads)
		}
	})
}

// An observer gets the next reading earlier, but at most once a second.
func TestObserverGetsReadingsEarlier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(
			[]Observer{&observer{interval: 10 * time.Second, next: time.Millisecond}},
			objectsOf("data", "node1", driver)...)
		r.run(t, 20*time.Second)
		if got := r.plugins.count("node1"); got != 20 {
			t.Errorf("got %d readings in 20 s, want 20", got)
		}
	})
}

// A node that hangs occupies one slot, and is not read a second time meanwhile; others are read.
func TestNodeThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &observer{interval: 5 * time.Second}
		r := newRig([]Observer{o}, slices.Concat(objectsOf("data", "node1", driver), objectsOf("logs", "node2", driver),
			objectsOf("tmp", "node3", driver))...)
		r.plugins.hangs, r.plugins.failing = func(node string) bool { return node == "node1" }, "node2"
		r.run(t, unreadAfter+30*time.Second)
		if got := r.plugins.count("node3"); got != 30 {
			t.Errorf("got %d readings of the node that answers, want 30", got)
		}
		if got := r.plugins.count("node1"); got != 8 {
			t.Errorf("got %d readings of the node that hangs, want 8", got)
		}
		for _, seen := range o.seen {
			if isBad := seen.Claim.Name != "tmp"; isBad != (seen.Err != nil) || isBad == (seen.Volume != nil) {
				t.Errorf("got the reading %+v of claim %s", seen, seen.Claim.Name)
			}
		}
		const want = `
# HELP growvol_operator_nodes_unread Nodes with claims to be read that have not answered for 2 minutes.
# TYPE growvol_operator_nodes_unread gauge
growvol_operator_nodes_unread 2
`
		must.Succeed(t, testutil.GatherAndCompare(r.registry, strings.NewReader(want), "growvol_operator_nodes_unread"))
	})
}

func TestConcurrentReadingsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(nil)
		r.plugins.hangs = func(string) bool { return true }
		for i := range 2 * maxConcurrentReads {
			r.nodes[fmt.Sprintf("node%d", i)] = &node{interval: time.Minute}
		}
		ctx, stop := context.WithCancel(t.Context())
		r.startDue(ctx, time.Now())
		synctest.Wait()
		stop()
		r.wait.Wait()
		if got := r.plugins.maximum.Load(); got > maxConcurrentReads {
			t.Errorf("got %d readings at once, want %d at most", got, maxConcurrentReads)
		}
		total := 0
		for _, times := range r.plugins.reads {
			total += len(times)
		}
		if total != maxConcurrentReads {
			t.Errorf("got %d readings at one tick, want %d", total, maxConcurrentReads)
		}
	})
}

// What the plugin could not read, and an answer of another plugin, are no readings.
func TestAnswersThatSayNothing(t *testing.T) {
	for name, row := range map[string]struct {
		answer readings.Answer
		want   string
	}{
		"problem": {readings.Answer{Volumes: []readings.Volume{{ID: "vol", Problem: "it hangs"}}}, "it hangs"},
		"absent":  {readings.Answer{Volumes: []readings.Volume{{ID: "other"}}}, "does not have the volume vol"},
	} {
		if v, err := volumeOf(
			&row.answer,
			nil,
			"vol",
			"node1",
		); v != nil || err == nil ||
			!strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v and %v, want the error %q", name, v, err, row.want)
		}
	}
	r := newRig(nil)
	r.Driver = "other"
	if _, err := r.readNode(t.Context(), "node1", nil); err == nil || !strings.Contains(err.Error(), "want those of") {
		t.Errorf("got %v for the answer of another driver", err)
	}
}

// A claim that was created again under the same name has another volume.
func TestClaimThatWasReplacedIsNotObserved(t *testing.T) {
	o := &observer{interval: time.Second}
	r := newRig([]Observer{o}, objectsOf("data", "node1", driver)...)
	name := types.NamespacedName{Namespace: "app", Name: "data"}
	r.read(t.Context(), "node1", []target{{claim: name, uid: "earlier", handle: "vol-data"}})
	if len(o.seen) != 0 {
		t.Errorf("got the readings %+v, want none", o.seen)
	}
}
