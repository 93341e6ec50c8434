package autogrow

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/growvol/growvol/pkg/claimreadings"
	"github.com/growvol/growvol/pkg/readings"
	"github.com/growvol/growvol/pkg/volume"
)

const (
	// fastInterval is the time between two readings of a filesystem that fills quickly.
	fastInterval = claimreadings.MinInterval
	// fastHorizon is the number of intervals before the threshold is reached from which on a
	// filesystem counts as one that fills quickly.
	fastHorizon = 3
	// unreadAfter is how long a filesystem is not read until that is reported.
	unreadAfter = 2 * time.Minute
	// refusedPause follows a request that the API server refused.
	refusedPause = time.Minute
	// requestTimeout bounds the requests of one decision.
	requestTimeout = 10 * time.Second
)

// Options are what a Grower works with. All but the fields with a default are required.
type Options struct {
	Client   client.Client // reads from a cache, which has the indexes of package claimcache
	Live     client.Reader // reads from the API server
	Events   events.EventRecorder
	Metrics  prometheus.Registerer
	Log      *slog.Logger
	Now      func() time.Time
	Pause    time.Duration // between two readings of a claim
	Cooldown time.Duration // of claims that name none; default: none
	Fleet    Fleet         // default: no limits
	IsDryRun bool          // report what would happen, and change nothing
}

// Grower raises the requests of claims.
type Grower struct {
	Options
	metrics *metrics

	// mu is held during a decision: the limits of all claims together need one decision at a time.
	mu       sync.Mutex
	claims   map[types.NamespacedName]*state
	recorded map[types.UID]record // of patches that the cache may not have yet
}

// state is what is known of a claim. A restart loses it without harm.
type state struct {
	uid      types.UID
	readings []reading // the newest first
	last     decision  // the last one that was reported
	reported time.Time
	lastSeen verdict
	unread   time.Time // since when it is not read; zero: it is
	refused  time.Time // when the API server refused a request
	// fastUntil is until when the filesystem counts as one that fills quickly.
	fastUntil time.Time
}

// New returns a grower with the options.
func New(o Options) *Grower {
	return &Grower{
		Options: o, metrics: newMetrics(o.Metrics), claims: map[types.NamespacedName]*state{},
		recorded: map[types.UID]record{},
	}
}

// Interval implements claimreadings.Observer. Only claims that have opted in are read.
func (g *Grower) Interval(ctx context.Context, c *corev1.PersistentVolumeClaim) time.Duration {
	class, err := classOf(ctx, g.Client, c)
	if err != nil {
		g.Log.WarnContext(ctx, "whether a claim grows by itself is not known", "namespace", c.Namespace, "claim", c.Name,
			"error", err)
		return 0
	}
	if decide(subject{claim: c, class: class, now: g.Now()}).verdict == verdictOff {
		return 0
	}
	return g.Pause
}

// Retain implements claimreadings.Observer.
func (g *Grower) Retain(claims map[types.NamespacedName]types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for name, s := range g.claims {
		if claims[name] != s.uid {
			delete(g.claims, name)
			g.metrics.forget(name)
		}
	}
	for uid, r := range g.recorded { // a record ends to count by itself
		if g.Now().Sub(r.At) >= fleetPeriod {
			delete(g.recorded, uid)
		}
	}
}

// Observe implements claimreadings.Observer: it decides, and raises the request.
func (g *Grower) Observe(ctx context.Context, r claimreadings.Reading) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	s := g.stateOf(r.Claim)
	isRead := s.add(r, g.Now())
	d, err := g.decide(ctx, g.Client, r.Claim, s)
	switch {
	case err != nil:
	case !isRead && d.verdict == verdictConfirm:
		d = s.judgeUnread(r, g.Now())
	case d.verdict == verdictGrow:
		d, err = g.grow(ctx, r.Claim, s)
	}
	if err != nil {
		if ctx.Err() == nil {
			g.Log.WarnContext(ctx, "a claim that grows by itself cannot be decided on; it is decided on with the next reading",
				"namespace", r.Claim.Namespace, "claim", r.Claim.Name, "error", err)
		}
		return 0
	}
	g.report(ctx, r.Claim, s, d)
	return g.nextReading(s, d)
}

// stateOf returns the state of the claim. The caller holds mu.
func (g *Grower) stateOf(c *corev1.PersistentVolumeClaim) *state {
	name := client.ObjectKeyFromObject(c)
	s := g.claims[name]
	if s == nil || s.uid != c.UID {
		s = &state{uid: c.UID}
		g.claims[name] = s
	}
	return s
}

// add adds the reading. It reports false if the filesystem was not read: then earlier readings do
// not count any more. A reading that repeats the last one, because the node has not read again, is
// no second reading.
func (s *state) add(r claimreadings.Reading, now time.Time) bool {
	v, err := readingOf(r)
	if err != nil {
		if s.unread.IsZero() {
			s.unread = now
		}
		s.readings = nil
		return false
	}
	s.unread = time.Time{}
	s.readings = slices.DeleteFunc(s.readings, func(old reading) bool {
		return old.node == v.node && !v.usage.ReadAt.After(old.usage.ReadAt) || now.Sub(old.usage.ReadAt) > maxPairAge
	})
	s.readings = append([]reading{v}, s.readings...)
	s.readings = s.readings[:min(len(s.readings), 2)]
	return true
}

// readingOf returns the reading, or why it says nothing about the filesystem.
func readingOf(r claimreadings.Reading) (reading, error) {
	if r.Volume == nil {
		return reading{}, r.Err
	}
	if r.Volume.Usage == nil {
		return reading{}, fmt.Errorf("node %s does not report how full the filesystem is", r.Node)
	}
	v := reading{node: r.Node, usage: *r.Volume.Usage}
	i := slices.IndexFunc(r.Volume.Layers, func(l readings.Layer) bool { return l.Name == readings.LayerFilesystem })
	if i < 0 {
		return reading{}, fmt.Errorf("node %s does not report the size of the filesystem", r.Node)
	}
	v.size = r.Volume.Layers[i]
	return v, nil
}

// judgeUnread decides for a claim that was not read.
func (s *state) judgeUnread(r claimreadings.Reading, now time.Time) decision {
	lasts := now.Sub(s.unread)
	if lasts < unreadAfter {
		return decision{verdict: s.lastSeen, isQuiet: true}
	}
	_, err := readingOf(r)
	return decision{
		verdict: verdictUnread, key: "unread " + r.Node,
		note: fmt.Sprintf("how full the filesystem is, is not known for %s, so that the claim does not grow by itself: %v "+
			"(next step: read the log of the node plugin on %s)", lasts.Round(time.Second), err, r.Node),
	}
}

// decide returns the decision for a claim as it was read, from the cache or from the API server.
func (g *Grower) decide(
	ctx context.Context, reader client.Reader, c *corev1.PersistentVolumeClaim, s *state,
) (decision, error) {
	class, err := classOf(ctx, reader, c)
	if err != nil {
		return decision{}, err
	}
	resizer, err := g.otherResizer(ctx, c)
	if err != nil {
		return decision{}, err
	}
	return decide(subject{
		claim: c, class: class, readings: s.readings, resizer: resizer, cooldown: g.Cooldown, now: g.Now(),
	}), nil
}

// classOf returns the claim's StorageClass, or nil if it has none or the class does not exist.
func classOf(
	ctx context.Context, reader client.Reader, c *corev1.PersistentVolumeClaim,
) (*storagev1.StorageClass, error) {
	if c.Spec.StorageClassName == nil || *c.Spec.StorageClassName == "" {
		return nil, nil //nolint:nilnil // documented
	}
	var class storagev1.StorageClass
	err := reader.Get(ctx, types.NamespacedName{Name: *c.Spec.StorageClassName}, &class)
	if apierrors.IsNotFound(err) {
		return nil, nil //nolint:nilnil // documented
	}
	if err != nil {
		return nil, fmt.Errorf("read StorageClass %s: %w", *c.Spec.StorageClassName, err)
	}
	return &class, nil
}

// grow raises the request. It decides again from the claim that it reads from the API server: the
// cache may be older than the last growth. The decision is returned, which may be another one now.
func (g *Grower) grow(ctx context.Context, cached *corev1.PersistentVolumeClaim, s *state) (decision, error) {
	var c corev1.PersistentVolumeClaim
	err := g.Live.Get(ctx, client.ObjectKeyFromObject(cached), &c)
	if err != nil || c.UID != cached.UID {
		return decision{verdict: verdictOff, isQuiet: true}, client.IgnoreNotFound(err)
	}
	d, err := g.decide(ctx, g.Live, &c, s)
	if err != nil || d.verdict != verdictGrow {
		return d, err
	}
	capacity := volume.Size(c.Status.Capacity.Storage().Value())
	if !d.isHalf { // the refused step has been counted
		used, err := g.fleetUsage(ctx)
		if err != nil {
			return decision{}, err
		}
		if key, cause := g.Fleet.refuse(used, d.target-capacity); cause != "" {
			return decision{verdict: verdictFleet, key: "fleet " + key, note: d.note + "; postponed: " + cause}, nil
		}
	}
	if g.IsDryRun {
		d.note = "dry run: " + d.note
		return d, nil
	}
	if g.Now().Sub(s.refused) < refusedPause {
		return decision{verdict: verdictRefused, key: s.last.key, isQuiet: true}, nil
	}
	return g.patch(ctx, &c, s, d, capacity)
}

// patch sends the request for the decision.
func (g *Grower) patch(
	ctx context.Context, c *corev1.PersistentVolumeClaim, s *state, d decision, capacity volume.Size,
) (decision, error) {
	next := d.record.next(g.Now(), capacity, d.target, d.total, d.isHalf)
	patch, err := newPatch(c, next)
	if err != nil {
		return decision{}, err
	}
	before := c.ResourceVersion
	// Whether the API server has carried out a request that ended with an error is not known: it is
	// counted until the cache or the hour says otherwise.
	previous, hasPrevious := g.recorded[c.UID]
	g.recorded[c.UID] = next
	err = g.Client.Patch(ctx, c.DeepCopy(), client.RawPatch(types.JSONPatchType, patch))
	if err == nil {
		if !d.isHalf { // otherwise the whole step has been counted
			g.metrics.bytes.Add(float64(d.target - capacity))
		}
		s.readings = nil // none of them is newer than this growth
		g.Log.InfoContext(ctx, "the request of a claim is changed", "namespace", c.Namespace, "claim", c.Name,
			"from", capacity, "to", d.target, "cause", d.note)
		return d, nil
	}
	if !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) && !apierrors.IsBadRequest(err) {
		return decision{}, fmt.Errorf("patch claim %s/%s: %w", c.Namespace, c.Name, err)
	}
	if delete(g.recorded, c.UID); hasPrevious {
		g.recorded[c.UID] = previous
	}
	var now corev1.PersistentVolumeClaim
	if err := g.Live.Get(ctx, client.ObjectKeyFromObject(c), &now); err != nil || now.ResourceVersion != before {
		return decision{verdict: verdictConfirm, isQuiet: true}, client.IgnoreNotFound(err) // changed meanwhile
	}
	s.refused = g.Now()
	return decision{
		verdict: verdictRefused, key: fmt.Sprintf("refused %d", d.target),
		note: fmt.Sprintf("the API server has refused the growth from %s to %s: %v "+
			"(next step: remove the cause, such as a ResourceQuota)", capacity, d.target, err),
	}, nil
}

// fleetUsage returns what counts against the limits of all claims together.
func (g *Grower) fleetUsage(ctx context.Context) (fleetUsage, error) {
	var claims corev1.PersistentVolumeClaimList
	if err := g.Client.List(ctx, &claims, client.UnsafeDisableDeepCopy); err != nil {
		return fleetUsage{}, fmt.Errorf("list claims: %w", err)
	}
	var used fleetUsage
	for i := range claims.Items {
		c := &claims.Items[i]
		r, err := recordOf(c)
		if recorded, found := g.recorded[c.UID]; found && (err != nil || recorded.At.After(r.At)) {
			r = recorded
		} else if err != nil {
			continue // the claim does not grow before a person has removed the annotations
		}
		used.add(c, r, g.Now())
	}
	return used, nil
}

// nextReading returns when the next reading is needed, or 0 if the usual interval is enough.
func (g *Grower) nextReading(s *state, d decision) time.Duration {
	now := g.Now()
	if d.verdict == verdictEnough && s.fillsQuickly(d.spare, fastHorizon*g.Pause) {
		s.fastUntil = now.Add(g.Pause)
	}
	isGrowing := d.isOwnGrowth && now.Sub(d.record.At) < unreadAfter
	switch {
	case d.verdict == verdictConfirm, d.verdict == verdictGrow && !g.IsDryRun, isGrowing, now.Before(s.fastUntil):
		return fastInterval
	case d.verdict == verdictCooldown:
		return d.wait
	}
	return 0
}

// fillsQuickly reports whether the filesystem, which has so many bytes more than the threshold, is
// at the threshold within the horizon, as far as two readings show. A single reading counts as that
// of such a filesystem: the next one shows more.
func (s *state) fillsQuickly(spare volume.Size, horizon time.Duration) bool {
	if len(s.readings) < 2 || s.readings[0].node != s.readings[1].node {
		return true
	}
	newest, earlier := s.readings[0].usage, s.readings[1].usage
	lost := earlier.Available - newest.Available
	took := newest.ReadAt.Sub(earlier.ReadAt)
	return lost > 0 && float64(spare)/float64(lost)*took.Seconds() < horizon.Seconds()
}
