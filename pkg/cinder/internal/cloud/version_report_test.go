package cloud

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/tests/fakecloud"
)

// reported returns the values of the report's series, by their labels in the order of the
// definition, such as "csi cinder 3.0 3.70".
func reported(t *testing.T, cs *Clouds) map[string]float64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	must(t, reg.Register(cs.versions))
	families, err := reg.Gather()
	must(t, err)
	all := make(map[string]float64)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			label := make(map[string]string)
			for _, l := range m.GetLabel() {
				label[l.GetName()] = l.GetValue()
			}
			key := label["cloud"] + " " + label["service"] + " "
			if family.GetName() == "growvol_openstack_api_version_info" {
				key += label["min"] + " " + label["max"]
			} else {
				key += label["version"] + " " + label["feature"]
			}
			all[key] = m.GetGauge().GetValue()
		}
	}
	return all
}

// wantReported checks the values of some series, and that no service but those named is reported.
func wantReported(t *testing.T, cs *Clouds, want map[string]float64, services ...service) {
	t.Helper()
	got := reported(t, cs)
	for key, value := range want {
		if v, found := got[key]; !found || v != value {
			t.Errorf("got %v, want %q with %v", got, key, value)
		}
	}
	for key := range got {
		if s := service(strings.Fields(key)[1]); !slices.Contains(services, s) {
			t.Errorf("got %q, want no metric of %s", key, s)
		}
	}
}

func TestVersionsAreReported(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	if !r.clouds.reportOnce(t.Context()) {
		t.Error("a service has not answered")
	}
	wantReported(t, r.clouds, map[string]float64{
		"csi cinder 3.0 3.70": 1, "csi nova 2.1 2.93": 1,
		"csi cinder 3.42 extending a volume that is in use":   1,
		"csi nova 2.60 attaching a volume to several servers": 1,
	}, blockStorage, compute)
	if got := len(reported(t, r.clouds)); got != 2+int(featureCount) {
		t.Errorf("got %d series, want one for each service and feature", got)
	}
	r.log.wantLine(t, "level=INFO", `msg="the API versions of the cloud"`, `cinder="3.0 to 3.70"`, `nova="2.1 to 2.93"`)
	// The same versions are neither read nor logged again before there is a new login.
	before := r.log.String()
	for range 3 {
		r.clouds.reportOnce(t.Context())
	}
	if n := r.fake.Count(fakecloud.Discover); n != 2 || strings.Count(r.log.String(), "API versions") !=
		strings.Count(before, "API versions") {
		t.Errorf("%d version documents were read, want 2; the log:\n%s", n, r.log)
	}
	r.fake.RevokeTokens()
	_, err := r.Zones(t.Context())
	must(t, err)
	r.clouds.reportOnce(t.Context())
	if n := r.fake.Count(fakecloud.Discover); n != 4 {
		t.Errorf("%d version documents were read after a new login, want 4", n)
	}
}

func TestOtherCloudsAreReportedOnceTheyAreUsed(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	_, err := r.clouds.Cloud(t.Context(), "admin")
	must(t, err)
	r.clouds.reportOnce(t.Context())
	wantReported(t, r.clouds, map[string]float64{"csi nova 2.1 2.93": 1, "admin nova 2.1 2.93": 1}, blockStorage, compute)
}

func TestVersionsThatAreTooOldAreReported(t *testing.T) {
	r := newRig(t, fakecloud.Options{CinderMax: "3.41", NovaMax: "2.51"})
	r.clouds.reportOnce(t.Context())
	wantReported(t, r.clouds, map[string]float64{
		"csi cinder 3.0 3.41":                                       1,
		"csi cinder 3.42 extending a volume that is in use":         0,
		"csi cinder 3.27 reading or deleting attachments in Cinder": 1,
		"csi nova 2.60 attaching a volume to several servers":       0,
		"csi nova 2.51 notifying Nova that a volume was extended":   1,
	}, blockStorage, compute)
	r.log.wantLine(t, "level=WARN", "too old for some features", `cinder="3.0 to 3.41"`, "lacking=",
		"extending a volume that is in use needs microversion 3.42 of cinder, which offers 3.0 to 3.41",
		"next step: detach the volume", "attaching a volume to several servers needs microversion 2.60 of nova")
}

func TestForbiddenVersionsAreReported(t *testing.T) {
	k := newKeystone(t)
	clouds, err := k.clouds(t, "cloud.conf", "[Global]\nauth-url = URL\nuser-id = u\npassword = p\nproject-id = p1\n"+
		"[BlockStorage]\nignore-volume-microversion = true\n")
	must(t, err)
	clouds.reportOnce(t.Context())
	wantReported(t, clouds, map[string]float64{
		"Global cinder  ": 1, "Global cinder 3.42 extending a volume that is in use": 0, "Global nova 2.1 2.93": 1,
	}, blockStorage, compute)
}

// A service that hangs delays neither the start nor other calls, and is reported once it answers.
func TestServiceThatHangsHasNoVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := fakecloud.Start(t, fakecloud.Options{InMemory: true})
		hang := fake.On(fakecloud.Match{Call: fakecloud.Discover, Path: regexp.MustCompile("^/compute/")},
			fakecloud.Hangs()).Always()
		tuning := fastTuning()
		tuning.timeouts.versions, tuning.timeouts.versionsAttempt = 100*time.Millisecond, 50*time.Millisecond
		log := &logRecorder{}
		clouds, err := open(t.Context(), csiOptions(t, fake, slog.New(slog.NewTextHandler(log, nil))), tuning)
		must(t, err)
		defer clouds.Close()
		if clouds.reportOnce(t.Context()) {
			t.Error("all services have answered, although Nova hangs")
		}
		wantReported(t, clouds, map[string]float64{"csi cinder 3.0 3.70": 1}, blockStorage)
		log.wantLine(t, "level=WARN", "cannot read the API versions of a service", "service=nova")
		log.wantLine(t, "level=INFO", `cinder="3.0 to 3.70"`, `nova="not known"`)
		hang.Remove()
		last := &clouds.cloud("csi").current().versions[compute].last
		last.retryAt = last.retryAt.Add(-versionsPause)
		if !clouds.reportOnce(t.Context()) {
			t.Error("a service has not answered after the outage")
		}
		wantReported(t, clouds, map[string]float64{"csi nova 2.1 2.93": 1}, blockStorage, compute)
	})
}

func TestGarbageIsNoVersion(t *testing.T) {
	for _, garbage := range []string{"", "<html>", "[]", `{"versions":{}}`, `{"version":{"id":"v3","version":"many"}}`} {
		k := newKeystone(t)
		k.version = garbage
		clouds, err := k.clouds(t, "clouds.yaml", yamlHead)
		must(t, err)
		if clouds.reportOnce(t.Context()) {
			t.Errorf("%q: the services have answered", garbage)
		}
		if got := reported(t, clouds); len(got) > 0 && !strings.Contains(garbage, "many") {
			t.Errorf("%q: got %v, want no series", garbage, got)
		}
	}
}

func TestVersionsAreFoundBehindEachKindOfCatalogURL(t *testing.T) {
	for _, c := range []struct{ volume, compute, volumePath, computePath string }{
		{"URL/v3/p1", "URL/v2.1", "/v3/", "/v2.1/"},
		{"URL/volume/v3/p1", "URL/compute/v2.1", "/volume/v3/", "/compute/v2.1/"},
		{"URL/a/b/v3/p1/", "URL/a/c/v2.1/p1", "/a/b/v3/", "/a/c/v2.1/"},
		{"URL/volume", "URL/compute/", "/volume/", "/compute/"},
		{"URL", "URL/nova", "/", "/nova/"},
	} {
		k := newKeystone(t)
		k.catalog = fmt.Sprintf(`[{"type":"volumev3","endpoints":[{"interface":"public","region":"r1","url":%q}]},
			{"type":"compute","endpoints":[{"interface":"public","region":"r1","url":%q}]}]`, c.volume, c.compute)
		clouds, err := k.clouds(t, "clouds.yaml", yamlHead)
		must(t, err)
		clouds.reportOnce(t.Context())
		asked := slices.DeleteFunc(k.paths, func(p string) bool { return p == "/v3/auth/tokens" })
		if !slices.Equal(asked, []string{c.volumePath, c.computePath}) {
			t.Errorf("%s and %s: asked %v, want %s and %s", c.volume, c.compute, asked, c.volumePath, c.computePath)
		}
		if _, found := reported(t, clouds)["c cinder 3.0 3.70"]; !found {
			t.Errorf("%s: got %v, want the versions of Cinder", c.volume, reported(t, clouds))
		}
	}
}

func TestReportEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); r.clouds.ReportVersions(ctx) }()
		for len(reported(t, r.clouds)) == 0 {
			must(t, operation.Sleep(t.Context(), 2*time.Millisecond))
		}
		cancel()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Error("ReportVersions has not returned 10s after the end of its context")
		}
	})
}

// The reference names each feature, its version, and nothing else.
func TestReferenceHasTheVersions(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "docs", "reference.md"))
	must(t, err)
	_, section, _ := bytes.Cut(page, []byte("\n## API versions of OpenStack\n"))
	section, _, _ = bytes.Cut(section, []byte("\n## "))
	var want []string
	for f := range featureCount {
		n := f.need()
		want = append(want, fmt.Sprintf("%s | %s | %s", n.what, n.service, n.version))
	}
	var got []string
	for _, row := range regexp.MustCompile(`(?m)^\| (.* \| (?:cinder|nova) \| [\d.]+) \|`).FindAllSubmatch(section, -1) {
		got = append(got, string(row[1]))
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("docs/reference.md has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Only features.go has microversions.
func TestMicroversionsHaveOneSource(t *testing.T) {
	sources, err := filepath.Glob("*.go")
	must(t, err)
	for _, path := range sources {
		text, err := os.ReadFile(path)
		must(t, err)
		if path == "features.go" || strings.HasSuffix(path, "_test.go") {
			continue
		}
		if found := regexp.MustCompile(`(?m)^[^/\n]*"[23]\.\d+"`).Find(text); found != nil {
			t.Errorf("%s has a microversion: %s", path, found)
		}
	}
}
