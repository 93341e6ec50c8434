package cinder

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

const (
	// maxPasses bounds the passes over the listing that are under way. Each keeps
	// the names that it has seen.
	maxPasses = 4
	// maxPassAge is when a pass that nobody continues is dropped.
	maxPassAge = 10 * time.Minute
	// maxCountAge is when a count that nobody renews is not shown any more: the
	// listings go to another replica.
	maxCountAge = 15 * time.Minute
	// maxNamesLogged bounds the lines about one pass.
	maxNamesLogged = 10
)

// duplicates finds the volumes of this cluster that share their name. A request
// for a volume that a proxy delivers late makes one that nobody knows: the claim
// has another by then. The listings, which external-attacher and the health
// monitor read every minute, show them at no cost.
type duplicates struct {
	log       *slog.Logger
	clusterID string
	gauge     *prometheus.GaugeVec

	mu       sync.Mutex
	passes   map[string]*pass     // by the token of the page that comes next
	latest   time.Time            // when the pass that was reported last began
	reported time.Time            // when that was
	known    map[nameKey][]string // ids as they were logged
}

// nameKey is a name in a cloud.
type nameKey struct{ cloud, name string }

// pass is one reading of the listing, from its first page on.
type pass struct {
	begun  time.Time
	clouds map[string]bool
	first  map[nameKey]member
	more   map[nameKey][]member // the names of several volumes, with the first
}

// member is one of the volumes of a name.
type member struct {
	id, status, claim string
	attached          bool
	failed            bool
	created           time.Time
}

// newDuplicates registers
//
//	growvol_openstack_duplicate_volumes{cloud}   volumes beyond the first of their name
func newDuplicates(log *slog.Logger, clusterID string, reg prometheus.Registerer) (*duplicates, error) {
	d := &duplicates{
		log: log, clusterID: clusterID, passes: make(map[string]*pass),
		gauge: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "growvol_openstack_duplicate_volumes",
			Help: "Volumes of this cluster beyond the first of their name, as of the last complete listing.",
		}, []string{"cloud"}),
	}
	if reg == nil {
		return d, nil
	}
	if err := reg.Register(d); err != nil {
		return nil, volume.Errorf(volume.KindInternal, "registering the metric of duplicate volumes: %w", err)
	}
	return d, nil
}

// Describe implements prometheus.Collector.
func (d *duplicates) Describe(ch chan<- *prometheus.Desc) { d.gauge.Describe(ch) }

// Collect implements prometheus.Collector. There is no series before the first
// complete listing, and none long after the last.
func (d *duplicates) Collect(ch chan<- prometheus.Metric) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.reported) < maxCountAge {
		d.gauge.Collect(ch)
	}
}

// addPage adds a page that was read with token to its pass. The last page, which
// has no next token, ends the pass, and what it found is reported. Pages of
// several passes may come in any order: what is kept at a token is what a pass
// saw before it, and one pass knows as much of that as another. Pages that
// overlap do no harm.
func (d *duplicates) addPage(ctx context.Context, token string, page listPage, next string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.passes, func(_ string, p *pass) bool { return time.Since(p.begun) > maxPassAge })
	p := d.passes[token]
	delete(d.passes, token)
	if token == "" {
		p = &pass{begun: time.Now(), clouds: make(map[string]bool), first: make(map[nameKey]member), more: make(map[nameKey][]member)}
	}
	if p == nil {
		return // its beginning is not known
	}
	if page.part != staticPart {
		p.clouds[page.part] = true
	}
	for _, v := range page.volumes {
		if d.counts(v) {
			p.add(nameKey{page.part, v.Name}, v)
		}
	}
	if next == "" {
		d.report(ctx, p)
		return
	}
	d.passes[next] = p
	if len(d.passes) > maxPasses {
		delete(d.passes, slices.MinFunc(slices.Collect(maps.Keys(d.passes)), func(x, y string) int {
			return d.passes[x].begun.Compare(d.passes[y].begun)
		}))
	}
}

// counts reports whether a volume is one of this cluster's that should have its
// name for itself.
func (d *duplicates) counts(v cloud.Volume) bool {
	return isOfCluster(v.Metadata, d.clusterID) && v.Name != "" && v.Status != stateDeleting && v.Status != stateErrorDeleting
}

func (p *pass) add(key nameKey, v cloud.Volume) {
	m := member{id: v.ID, status: v.Status, attached: len(v.Attachments) > 0, failed: failed(v), created: v.CreatedAt}
	if v.Metadata[metaClaim] != "" {
		m.claim = v.Metadata[metaClaimNamespace] + "/" + v.Metadata[metaClaim]
	}
	first, seen := p.first[key]
	all := p.more[key]
	switch {
	case !seen:
		p.first[key] = m
	case first.id == m.id || slices.ContainsFunc(all, func(o member) bool { return o.id == m.id }):
	case all == nil:
		p.more[key] = []member{first, m}
	default:
		p.more[key] = append(all, m)
	}
}

// report shows what a complete pass has found. A pass that began before the one
// that was reported last knows less.
func (d *duplicates) report(ctx context.Context, p *pass) {
	if p.begun.Before(d.latest) {
		return
	}
	d.latest, d.reported = p.begun, time.Now()
	surplus := make(map[string]int)
	for key, all := range p.more {
		surplus[key.cloud] += len(all) - 1
	}
	d.gauge.Reset()
	for name := range p.clouds {
		d.gauge.WithLabelValues(name).Set(float64(surplus[name]))
	}
	d.logChanges(ctx, p.more)
}

// logChanges logs the names whose volumes are others than at the last report.
func (d *duplicates) logChanges(ctx context.Context, found map[nameKey][]member) {
	before := d.known
	d.known = make(map[nameKey][]string, len(found))
	logged, unlogged := 0, 0
	for key, all := range found {
		slices.SortFunc(all, preferred)
		ids := make([]string, 0, len(all))
		for _, m := range all {
			ids = append(ids, m.id)
		}
		slices.Sort(ids)
		d.known[key] = ids
		switch {
		case slices.Equal(ids, before[key]):
		case logged == maxNamesLogged:
			unlogged++
		default:
			logged++
			d.logName(ctx, key, all)
		}
	}
	if unlogged > 0 {
		d.log.WarnContext(ctx, "further names have several volumes of this cluster", "names", unlogged)
	}
	if len(found) == 0 && len(before) > 0 {
		d.log.InfoContext(ctx, "every volume of this cluster has a name of its own again")
	}
}

// preferred orders the volumes of a name: the first is most likely the one that
// the PersistentVolume names.
func preferred(x, y member) int {
	return cmp.Or(cmp.Compare(no(x.attached), no(y.attached)), cmp.Compare(no(!x.failed), no(!y.failed)),
		x.created.Compare(y.created), cmp.Compare(x.id, y.id))
}

func (d *duplicates) logName(ctx context.Context, key nameKey, all []member) {
	volumes := make([]string, 0, len(all))
	for _, m := range all {
		text := m.id + " (" + m.status
		if m.attached {
			text += ", attached"
		}
		volumes = append(volumes, text+")")
	}
	reason := "it is the oldest usable one"
	if all[0].attached {
		reason = "it is attached"
	}
	d.log.WarnContext(ctx, "several volumes of this cluster have one name: a request for a volume was probably carried out twice",
		"cloud", key.cloud, "name", key.name, "claim", all[0].claim, "volumes", few(volumes), "likely in use", all[0].id, "because", reason,
		"next step", "see which volume the PersistentVolume names (kubectl get pv "+key.name+" -o jsonpath={.spec.csi.volumeHandle}), "+
			"and delete the others if they hold nothing of worth (openstack volume delete ID)")
}
