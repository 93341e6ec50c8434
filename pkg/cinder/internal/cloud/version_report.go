package cloud

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/growvol/growvol/pkg/operation"
)

const (
	// versionsInterval is how often ReportVersions looks whether there is a new connection, whose
	// versions are not read yet. A token is renewed before it ends, so that happens hourly or so.
	versionsInterval = time.Minute
	// maxVersionsBackoff is the longest pause of ReportVersions while a service does not answer.
	maxVersionsBackoff = 10 * time.Minute
)

// versionReport exports and logs which microversions the services of the clouds offer, and which
// features they lack. Services that have not answered are not in it.
type versionReport struct {
	info, feature *prometheus.Desc

	mu     sync.Mutex
	clouds map[string]serviceVersions // by the name of the cloud
	logged map[string]string          // what was last logged about a cloud
}

// serviceVersions are the versions of the services of one cloud.
type serviceVersions map[service]versionRange

// newVersionReport returns the collector of
//
//	growvol_openstack_api_version_info{cloud,service,min,max}               always 1
//	growvol_openstack_api_feature_offered{cloud,service,feature,version}    1 or 0
func newVersionReport() *versionReport {
	return &versionReport{
		info: prometheus.NewDesc("growvol_openstack_api_version_info",
			"Lowest and highest microversion that a service offers; empty if it has none.",
			[]string{"cloud", "service", "min", "max"}, nil),
		feature: prometheus.NewDesc("growvol_openstack_api_feature_offered",
			"Whether a service offers the microversion that a feature needs at least.",
			[]string{"cloud", "service", "feature", "version"}, nil),
		clouds: make(map[string]serviceVersions), logged: make(map[string]string),
	}
}

// Describe implements prometheus.Collector.
func (r *versionReport) Describe(ch chan<- *prometheus.Desc) { ch <- r.info; ch <- r.feature }

// Collect implements prometheus.Collector.
func (r *versionReport) Collect(ch chan<- prometheus.Metric) {
	r.mu.Lock()
	defer r.mu.Unlock()
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	for cloud, services := range r.clouds {
		for s, v := range services {
			if v.err != nil {
				continue
			}
			lowest, highest := v.bounds()
			gauge(r.info, 1, cloud, string(s), lowest, highest)
			for n := range needsOf(s) {
				value := 1.0
				if v.check(n) != nil {
					value = 0
				}
				gauge(r.feature, value, cloud, string(s), n.what, n.version)
			}
		}
	}
}

// replace replaces what is reported.
func (r *versionReport) replace(clouds map[string]serviceVersions) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clouds = clouds
	maps.DeleteFunc(r.logged, func(name, _ string) bool { return clouds[name] == nil })
}

// log logs the versions of a cloud in one line, unless it was logged before. The line warns if a
// service lacks what a feature needs.
func (r *versionReport) log(ctx context.Context, log *slog.Logger, name string, services serviceVersions) {
	values := []any{"cloud", name}
	var lacking []string
	for _, s := range slices.Sorted(maps.Keys(services)) {
		v := services[s]
		values = append(values, string(s), v.String())
		for n := range needsOf(s) {
			if err := v.check(n); v.err == nil && err != nil {
				lacking = append(lacking, err.Error())
			}
		}
	}
	text := strings.Join(append(lacking, services.String()), "; ")
	r.mu.Lock()
	isKnown := r.logged[name] == text
	r.logged[name] = text
	r.mu.Unlock()
	switch {
	case isKnown:
	case len(lacking) > 0:
		log.WarnContext(ctx, "the API versions of the cloud are too old for some features, which will fail",
			append(values, "lacking", strings.Join(lacking, "; "))...)
	default:
		log.InfoContext(ctx, "the API versions of the cloud", values...)
	}
}

// String returns the versions in the order of the services.
func (v serviceVersions) String() string {
	var all []string
	for _, s := range slices.Sorted(maps.Keys(v)) {
		all = append(all, string(s)+" "+v[s].String())
	}
	return strings.Join(all, ", ")
}

// ReportVersions reads which microversions the services offer, exports them as metrics and logs
// them, until ctx ends or cs is closed: at once for the default cloud, after their first login for
// the others, and again after each new login. A service that does not answer has no metric, and is
// asked again. ReportVersions sends no request while the versions are known.
func (cs *Clouds) ReportVersions(ctx context.Context) {
	backoff := versionsPause
	for ctx.Err() == nil && !cs.isClosed() {
		pause := versionsInterval
		if !cs.reportOnce(ctx) {
			pause, backoff = backoff, min(2*backoff, maxVersionsBackoff)
		} else {
			backoff = versionsPause
		}
		if operation.Sleep(ctx, pause) != nil {
			return
		}
	}
}

// reportOnce is one round of ReportVersions. It reports whether each service has answered.
func (cs *Clouds) reportOnce(ctx context.Context) bool {
	areKnown := true
	all := make(map[string]serviceVersions)
	for _, name := range cs.Names() {
		c := cs.cloud(name)
		if name != cs.defaultName && c.current() == nil {
			continue // nothing uses this cloud yet
		}
		all[name] = serviceVersions{}
		isOneKnown := false
		for _, s := range []service{blockStorage, compute} {
			v := c.offeredVersions(ctx, s)
			all[name][s] = v
			areKnown, isOneKnown = areKnown && v.err == nil, isOneKnown || v.err == nil
		}
		if ctx.Err() != nil {
			return false
		}
		if isOneKnown {
			cs.versions.log(ctx, cs.log, name, all[name])
		}
	}
	cs.versions.replace(all)
	return areKnown
}

// offeredVersions returns the versions of a service; the err of the result says why they are not
// known. It logs in if that is necessary.
func (c *Cloud) offeredVersions(ctx context.Context, s service) versionRange {
	var v versionRange
	err := c.withLogin(ctx, "reading the API versions of "+string(s), func(conn *connection) error {
		v = conn.offeredVersions(ctx, s)
		return v.err
	})
	if err != nil {
		return versionRange{err: err}
	}
	return v
}
