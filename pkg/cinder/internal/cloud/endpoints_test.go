package cloud

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestEndpointIsFoundInTheCatalog(t *testing.T) {
	const catalog = `[{"type":"volume","endpoints":[{"interface":"public","region":"r1","url":"URL/v1/p1"}]},
		{"type":"volumev2","endpoints":[{"interface":"public","region":"r1","url":"URL/v2/p1"}]},
		{"type":"block-storage","endpoints":[{"interface":"internal","region":"r2","url":"URL/inner/v3/p1"},
			{"interface":"public","region":"r1","url":"URL/outer/v3/p1"}]},
		{"type":"compute","endpoints":[{"interface":"public","region_id":"r1","url":"URL/nova/v2.1"},
			{"interface":"internal","region":"r2","url":"URL/inner/v2.1"}]}]`
	for name, c := range map[string]struct{ yaml, path string }{
		"block-storage": {"", "/outer/v3/p1/os-availability-zone"},
		"region":        {"    region_name: r1\n", "/outer/v3/p1/os-availability-zone"},
		"internal":      {"    interface: internal\n    region_name: r2\n", "/inner/v3/p1/os-availability-zone"},
		"override": {
			"    block_storage_endpoint_override: URL/mine/v3/%(project_id)s\n",
			"/mine/v3/p1/os-availability-zone",
		},
		"volumev3 before": {"    volumev3_endpoint_override: URL/x/v3\n", "/x/v3/os-availability-zone"},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKeystone(t)
			k.catalog = catalog
			clouds, err := k.clouds(t, "clouds.yaml", yamlHead+c.yaml)
			must(t, err)
			cloud, err := clouds.Cloud(t.Context(), "c")
			must(t, err)
			_, err = cloud.Zones(t.Context())
			must(t, err)
			if last := k.paths[len(k.paths)-1]; last != c.path {
				t.Errorf("asked %s, want %s", last, c.path)
			}
		})
	}
}

// catalogOf renders a catalog with a service of each type in each of its regions.
func catalogOf(services map[string][]string) string {
	var entries []string
	for name, regions := range services {
		var endpoints []string
		for _, region := range regions {
			for _, kind := range []string{"public", "internal"} {
				endpoints = append(endpoints, fmt.Sprintf(`{"interface":%q,"region_id":%q,"url":"URL/%s-%s/v3/p1"}`, kind, region,
					kind, region))
			}
		}
		entries = append(entries, fmt.Sprintf(`{"type":%q,"endpoints":[%s]}`, name, strings.Join(endpoints, ",")))
	}
	return "[" + strings.Join(entries, ",") + "]"
}

// A catalog with a service in several regions is refused if the configuration names none.
func TestSeveralRegionsAreRefused(t *testing.T) {
	t.Parallel()
	one, two := []string{"r1"}, []string{"r1", "r2"}
	for name, c := range map[string]struct {
		services map[string][]string
		yaml     string
		words    []string // of the refusal; nil: accepted
	}{
		"both in two": {
			map[string][]string{"volumev3": two, "compute": two},
			"",
			[]string{`block storage in the regions "r1", "r2"`, `compute in the regions "r1", "r2"`},
		},
		"volumes in two": {
			map[string][]string{"volumev3": two, "compute": one},
			"",
			[]string{`block storage in the regions "r1", "r2", and none`},
		},
		"servers in two": {
			map[string][]string{"volumev3": one, "compute": two},
			"",
			[]string{`has compute in the regions "r1", "r2"`},
		},
		"two types": {
			map[string][]string{"volumev3": one, "block-storage": {"r2"}, "compute": one},
			"",
			[]string{`block storage in the regions "r1", "r2"`},
		},
		"internal": {
			map[string][]string{"volumev3": two, "compute": two},
			"    interface: internal\n",
			[]string{"block storage", "compute"},
		},
		"an override of one": {
			map[string][]string{"volumev3": two, "compute": two},
			"    compute_endpoint_override: URL/c\n",
			[]string{"has block storage in the regions"},
		},
		"configured":              {map[string][]string{"volumev3": two, "compute": two}, "    region_name: r2\n", nil},
		"the only one of regions": {map[string][]string{"volumev3": two, "compute": two}, "    regions: [r2]\n", nil},
		"overrides of both": {
			map[string][]string{"volumev3": two, "compute": two},
			"    block_storage_endpoint_override: URL/b\n    compute_endpoint_override: URL/c\n", nil,
		},
		"one":      {map[string][]string{"volumev3": one, "compute": one}, "", nil},
		"one each": {map[string][]string{"volumev3": one, "compute": {"r2"}}, "", nil},
		"other services in two": {
			map[string][]string{"volumev3": one, "compute": one, "image": two, "volumev2": two},
			"", nil,
		},
		"without a name of a region": {map[string][]string{"volumev3": {""}, "compute": {"", "r1"}}, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKeystone(t)
			k.catalog = catalogOf(c.services)
			_, err := k.clouds(t, "clouds.yaml", yamlHead+c.yaml)
			if c.words == nil {
				must(t, err)
				return
			}
			volumetest.WantKind(t, err, volume.KindInvalid, append(c.words, `cloud "c" cannot be used`, "none is configured",
				`cloud "c": region_name (clouds.yaml) or region (cloud.conf)`)...)
		})
	}
}

// A cloud that is not the default one is refused when it is asked for, and used once its region is
// configured.
func TestSeveralRegionsOfAnotherCloud(t *testing.T) {
	t.Parallel()
	plain, k := newKeystone(t), newKeystone(t)
	k.catalog = catalogOf(map[string][]string{"volumev3": {"r1", "r2"}, "compute": {"r1", "r2"}})
	path := filepath.Join(t.TempDir(), "cloud.conf")
	text := func(region string) []byte {
		user := "user-id = u\npassword = p\nproject-id = p1\n"
		return []byte("[Global]\nauth-url = " + plain.URL + "\n" + user + "[Global \"two\"]\nauth-url = " + k.URL + "\n" +
			user + region)
	}
	must(t, os.WriteFile(path, text(""), 0o600))
	clouds, err := open(t.Context(), Options{CloudConfig: []string{path}, Log: discardLog()}, fastTuning())
	must(t, err)
	defer clouds.Close()
	_, err = clouds.Cloud(t.Context(), "two")
	volumetest.WantKind(t, err, volume.KindUnavailable, `cloud "two" cannot be used`, `"r1", "r2"`,
		`section [Global "two"]`)
	must(t, os.WriteFile(path, text("region = r2\n"), 0o600))
	clouds.watch.Current(true)
	c, err := clouds.Cloud(t.Context(), "two")
	must(t, err)
	_, err = c.Zones(t.Context())
	must(t, err)
	if last := k.paths[len(k.paths)-1]; last != "/public-r2/v3/p1/os-availability-zone" {
		t.Errorf("asked %s", last)
	}
}

func TestMissingEndpointNamesWhatTheCatalogHas(t *testing.T) {
	k := newKeystone(t)
	clouds, err := k.clouds(t, "clouds.yaml", yamlHead+"    region_name: mars\n")
	must(t, err)
	cloud, err := clouds.Cloud(t.Context(), "c")
	must(t, err)
	_, err = cloud.Zones(t.Context())
	volumetest.WantKind(t, err, volume.KindUnavailable, "listing the availability zones",
		`cloud "c" has no public endpoint of volumev3 in region mars; it has public in r1`,
		"check region and endpoint type of")
	volumetest.WantKind(t, cloud.CheckFeature(t.Context(), FeatureMultiattach), volume.KindUnavailable,
		"compute in region mars")
	k.catalog = "[]"
	if clouds, err = k.clouds(t, "clouds.yaml", yamlHead); err == nil {
		cloud, err = clouds.Cloud(t.Context(), "c")
		must(t, err)
		_, err = cloud.Server(t.Context(), absentID)
	}
	volumetest.WantKind(t, err, volume.KindUnavailable, "has none at all")
}
