// Package duplicates reports volumes of this cluster that have the same name. If a proxy delivers a
// request for a volume late, Cinder creates a volume that no PersistentVolume names: the claim
// already has another one. A Detector finds such volumes in the pages of the listings that
// external-attacher and the health monitor read every minute. It makes no requests; it exports a
// metric and logs.
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

// Detector finds duplicates in the pages of listings (AddPage). New makes one.
type Detector struct {
	log       *slog.Logger
	clusterID string
	gauge     *prometheus.GaugeVec

	mu       sync.Mutex
	passes   map[string]*pass     // the incomplete passes, by the token of the next page
	latest   time.Time            // when the last reported pass began
	reported time.Time            // when that pass was reported
	logged   map[nameKey][]string // volume ids at the last report
}

const (
	// maxPasses bounds the number of incomplete passes, each of which stores the names of its
	// volumes.
	maxPasses = 4
	// maxPassAge is the age at which an incomplete pass is dropped.
	maxPassAge = 10 * time.Minute
	// maxCountAge is the age at which the metric disappears if no pass renews it: then another replica
	// gets the requests.
	maxCountAge = 15 * time.Minute
	// maxNamesLogged bounds the log lines about one pass.
	maxNamesLogged = 10
)

// nameKey is a volume name in a cloud.
type nameKey struct{ cloud, name string }

// pass is one pass over a listing, from its first page.
type pass struct {
	begun  time.Time
	clouds map[string]bool
	byName map[nameKey][]member
}

// member is a volume that has the name of a nameKey.
type member struct {
	volume cloud.Volume // with the fields that compare and logName need
	claim  string       // namespace/name; empty: unknown
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
		return nil, volume.Errorf(volume.KindInternal, "cannot register the metric of duplicate volumes: %w", err)
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
	Cloud   string // empty: the volumes belong to several clouds, and their counts are not exported
	Volumes []cloud.Volume
	Token   string // token that the page was read with; empty: the first page
	Next    string // token of the next page; empty: the last page
}

// AddPage adds a page to its pass. After the last page of the pass it exports and logs the
// duplicates. Pages of several passes may come in any order: a pass is identified by the token of
// its next page, because all passes have read the same pages before a token. Pages may overlap.
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
		return // the pass was dropped, or another process read its first pages
	}
	if page.Cloud != "" {
		p.clouds[page.Cloud] = true
	}
	for _, v := range page.Volumes {
		if d.isCounted(v) {
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

// isCounted reports whether a volume belongs to this cluster, has a name, and is not being deleted.
func (d *Detector) isCounted(v cloud.Volume) bool {
	return metadata.IsOfCluster(v.Metadata, d.clusterID) && v.Name != "" &&
		v.Status != state.Deleting && v.Status != state.ErrorDeleting
}

func (p *pass) add(key nameKey, v cloud.Volume) {
	all := p.byName[key]
	if slices.ContainsFunc(all, func(m member) bool { return m.volume.ID == v.ID }) {
		return // an earlier page has it
	}
	m := member{volume: cloud.Volume{ID: v.ID, Status: v.Status, CreatedAt: v.CreatedAt, Attachments: v.Attachments}}
	if v.Metadata[metadata.Claim] != "" {
		m.claim = v.Metadata[metadata.ClaimNamespace] + "/" + v.Metadata[metadata.Claim]
	}
	p.byName[key] = append(all, m)
}

// report exports and logs the duplicates of a complete pass, unless a pass that began later was
// already reported.
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
		d.log.WarnContext(ctx, "more names have several volumes of this cluster", "names", unlogged)
	}
	if len(found) == 0 && len(before) > 0 {
		d.log.InfoContext(ctx, "no two volumes of this cluster have the same name any more")
	}
}

// compare sorts volumes of one name. The first is most likely the one that the PersistentVolume
// names.
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
	reason := "it is the oldest usable volume"
	if all[0].isAttached() {
		reason = "it is attached"
	}
	d.log.WarnContext(ctx,
		"several volumes of this cluster have the same name: Cinder probably carried out a request twice",
		"cloud", key.cloud, "name", key.name, "claim", all[0].claim,
		"volumes", message.JoinAtMost(volumes), "likely in use", all[0].volume.ID, "because", reason,
		"next step", "find the volume that the PersistentVolume names: "+
			"kubectl get pv "+key.name+" -o jsonpath={.spec.csi.volumeHandle}; "+
			"if nothing needs the data of the others, delete them: openstack volume delete ID")
}
