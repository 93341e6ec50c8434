// Package duplicates finds the volumes of this cluster that share their name. A request for a
// volume that a proxy delivers late creates one that nobody knows: the claim has another by
// then. The listings, which external-attacher and the health monitor read every minute, show
// these volumes without further requests. The package makes no requests; it exports a metric
// and logs.
package duplicates

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
	"github.com/growvol/growvol/pkg/cinder/internal/message"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
)

// Detector counts duplicates in the pages of listings. New makes one.
type Detector struct {
	log       *slog.Logger
	clusterID string
	gauge     *prometheus.GaugeVec

	mu       sync.Mutex
	passes   map[string]*pass     // by the token of the next page
	latest   time.Time            // when the last reported pass began
	reported time.Time            // when that pass was reported
	logged   map[nameKey][]string // ids at the last report
}

const (
	// maxPasses bounds the unfinished passes over the listing. Each keeps the names that it
	// has seen.
	maxPasses = 4
	// maxPassAge is the age at which a pass that no listing continues is dropped.
	maxPassAge = 10 * time.Minute
	// maxCountAge is the age at which a count that no listing renews disappears: the listings
	// go to another replica then.
	maxCountAge = 15 * time.Minute
	// maxNamesLogged bounds the log lines about one pass.
	maxNamesLogged = 10
)

// nameKey is a name in a cloud.
type nameKey struct{ cloud, name string }

// pass is one reading of the listing from its first page on.
type pass struct {
	begun  time.Time
	clouds map[string]bool
	byName map[nameKey][]member
}

// member is one of the volumes of a name.
type member struct {
	volume cloud.Volume // with the fields that compare and logName need
	claim  string
}

func (m member) isAttached() bool { return len(m.volume.Attachments) > 0 }

// New returns a Detector for the volumes of a cluster. With reg it registers
//
//	growvol_openstack_duplicate_volumes{cloud}   volumes beyond the first of their name
func New(log *slog.Logger, clusterID string, reg prometheus.Registerer) (*Detector, error) {
	d := &Detector{
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
		return nil, volume.Errorf(volume.KindInternal, "register the metric of duplicate volumes: %w", err)
	}
	return d, nil
}

// Describe implements prometheus.Collector.
func (d *Detector) Describe(ch chan<- *prometheus.Desc) { d.gauge.Describe(ch) }

// Collect implements prometheus.Collector. There is no series before the first complete
// listing, and none maxCountAge after the last.
func (d *Detector) Collect(ch chan<- prometheus.Metric) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.reported) < maxCountAge {
		d.gauge.Collect(ch)
	}
}

// Page is a page of a listing.
type Page struct {
	Cloud   string // empty: the volumes belong to several clouds, and the page completes none
	Volumes []cloud.Volume
	Token   string // that the page was read with; empty: the first page
	Next    string // token of the next page; empty: the last page
}

// AddPage adds a page to its pass. The last page ends the pass, and the Detector reports what
// the pass found. Pages of several passes may come in any order: a pass is known by the token
// of its next page, and all passes have seen the same pages before a token. Pages may overlap.
func (d *Detector) AddPage(ctx context.Context, page Page) {
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.passes, func(_ string, p *pass) bool { return time.Since(p.begun) > maxPassAge })
	p := d.passes[page.Token]
	delete(d.passes, page.Token)
	if page.Token == "" {
		p = &pass{begun: time.Now(), clouds: make(map[string]bool), byName: make(map[nameKey][]member)}
	}
	if p == nil {
		return // its first pages were dropped, or read by another process
	}
	if page.Cloud != "" {
		p.clouds[page.Cloud] = true
	}
	for _, v := range page.Volumes {
		if d.counts(v) {
			p.add(nameKey{page.Cloud, v.Name}, v)
		}
	}
	if page.Next == "" {
		d.report(ctx, p)
		return
	}
	d.passes[page.Next] = p
	if len(d.passes) > maxPasses {
		delete(d.passes, slices.MinFunc(slices.Collect(maps.Keys(d.passes)), func(x, y string) int {
			return d.passes[x].begun.Compare(d.passes[y].begun)
		}))
	}
}

// counts reports whether a volume belongs to this cluster and should be the only one of its
// name.
func (d *Detector) counts(v cloud.Volume) bool {
	return metadata.IsOfCluster(v.Metadata, d.clusterID) && v.Name != "" &&
		v.Status != state.Deleting && v.Status != state.ErrorDeleting
}

func (p *pass) add(key nameKey, v cloud.Volume) {
	all := p.byName[key]
	if slices.ContainsFunc(all, func(m member) bool { return m.volume.ID == v.ID }) {
		return // pages may overlap
	}
	m := member{volume: cloud.Volume{ID: v.ID, Status: v.Status, CreatedAt: v.CreatedAt, Attachments: v.Attachments}}
	if v.Metadata[metadata.Claim] != "" {
		m.claim = v.Metadata[metadata.ClaimNamespace] + "/" + v.Metadata[metadata.Claim]
	}
	p.byName[key] = append(all, m)
}

// report exports and logs what a complete pass has found. It ignores a pass that began before
// the last reported one.
func (d *Detector) report(ctx context.Context, p *pass) {
	if p.begun.Before(d.latest) {
		return
	}
	d.latest, d.reported = p.begun, time.Now()
	maps.DeleteFunc(p.byName, func(_ nameKey, all []member) bool { return len(all) == 1 })
	surplus := make(map[string]int)
	for key, all := range p.byName {
		surplus[key.cloud] += len(all) - 1
	}
	d.gauge.Reset()
	for name := range p.clouds {
		d.gauge.WithLabelValues(name).Set(float64(surplus[name]))
	}
	d.logChanges(ctx, p.byName)
}

// logChanges logs the names whose volumes have changed since the last report.
func (d *Detector) logChanges(ctx context.Context, found map[nameKey][]member) {
	before := d.logged
	d.logged = make(map[nameKey][]string, len(found))
	lines, unlogged := 0, 0
	for key, all := range found {
		slices.SortFunc(all, compare)
		ids := make([]string, 0, len(all))
		for _, m := range all {
			ids = append(ids, m.volume.ID)
		}
		slices.Sort(ids)
		d.logged[key] = ids
		switch {
		case slices.Equal(ids, before[key]):
		case lines == maxNamesLogged:
			unlogged++
		default:
			lines++
			d.logName(ctx, key, all)
		}
	}
	if unlogged > 0 {
		d.log.WarnContext(ctx, "further volumes of this cluster have the same name as others", "names", unlogged)
	}
	if len(found) == 0 && len(before) > 0 {
		d.log.InfoContext(ctx, "no two volumes of this cluster have the same name any more")
	}
}

// compare sorts the volume that the PersistentVolume most likely names first.
func compare(x, y member) int {
	return cmp.Or(state.FalseLast(x.isAttached(), y.isAttached()), state.Compare(x.volume, y.volume))
}

func (d *Detector) logName(ctx context.Context, key nameKey, all []member) {
	volumes := make([]string, 0, len(all))
	for _, m := range all {
		text := m.volume.ID + " (" + m.volume.Status
		if m.isAttached() {
			text += ", attached"
		}
		volumes = append(volumes, text+")")
	}
	reason := "it is the oldest usable one"
	if all[0].isAttached() {
		reason = "it is attached"
	}
	d.log.WarnContext(ctx,
		"several volumes of this cluster have the same name: Cinder probably carried out a request twice",
		"cloud", key.cloud, "name", key.name, "claim", all[0].claim,
		"volumes", message.JoinAtMost(volumes), "likely in use", all[0].volume.ID, "because", reason,
		"next step", "find the volume that the PersistentVolume names: "+
			"kubectl get pv "+key.name+" -o jsonpath={.spec.csi.volumeHandle}; "+
			"delete the others if nobody needs their data: openstack volume delete ID")
}
