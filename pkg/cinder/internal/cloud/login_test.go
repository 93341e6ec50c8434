package cloud

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

func discardLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

// keystone is a server that accepts every login, records the request, and answers with a catalog.
type keystone struct {
	*httptest.Server
	asked   map[string]any
	catalog string // JSON; URL stands for the server's address
	paths   []string
	version string // answer to version requests
}

func newKeystone(t *testing.T) *keystone {
	t.Helper()
	k := &keystone{
		catalog: `[{"type":"volumev3","endpoints":[{"interface":"public","region":"r1","url":"URL/v3/p1"}]},
			{"type":"compute","endpoints":[{"interface":"public","region":"r1","url":"URL/v2.1"}]}]`,
		version: `{"versions":[{"id":"v3.0","version":"3.70","min_version":"3.0"},
			{"id":"v2.1","version":"2.93","min_version":"2.1"}],"availabilityZoneInfo":[]}`,
	}
	k.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		k.paths = append(k.paths, q.URL.Path)
		if q.URL.Path != "/v3/auth/tokens" {
			_, _ = io.WriteString(w, k.version)
			return
		}
		_ = json.NewDecoder(q.Body).Decode(&k.asked)
		w.Header().Set("X-Subject-Token", "gAAAAtoken")
		w.WriteHeader(http.StatusCreated)
		expires := time.Now().Add(time.Hour).UTC().Format("2006-01-02T15:04:05.000000Z")
		_, _ = io.WriteString(w, `{"token":{"expires_at":"`+expires+`","project":{"id":"p1"},"catalog":`+
			strings.ReplaceAll(k.catalog, "URL", k.URL)+`}}`)
	}))
	t.Cleanup(k.Close)
	return k
}

// clouds opens a client over a file; URL in its text stands for the server.
func (k *keystone) clouds(t *testing.T, name, text string) (*Clouds, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(path, []byte(strings.ReplaceAll(text, "URL", k.URL)), 0o600))
	o := Options{CloudsYAML: path, Log: discardLog()}
	if strings.HasSuffix(name, ".conf") {
		o = Options{CloudConfig: []string{path}, Log: discardLog()}
	}
	clouds, err := open(t.Context(), o, fastTuning())
	if err == nil {
		t.Cleanup(clouds.Close)
	}
	return clouds, err
}

func TestLoginSendsTheConfiguredCredentials(t *testing.T) {
	const url = "auth-url = URL\n"
	for name, c := range map[string]struct{ conf, identity, scope string }{
		"password": {
			"username = u\npassword = p\nuser-domain-name = ud\ntenant-name = t\ntenant-domain-name = td\n",
			`{"methods":["password"],"password":{"user":{"domain":{"name":"ud"},"name":"u","password":"p"}}}`,
			`{"project":{"domain":{"name":"td"},"name":"t"}}`,
		},
		"user and project by id": {
			"user-id = ui\npassword = p\nproject-id = pi\ndomain-id = d\n",
			`{"methods":["password"],"password":{"user":{"id":"ui","password":"p"}}}`, `{"project":{"id":"pi"}}`,
		},
		"one domain for all": {
			"username = u\npassword = p\ndomain-id = d\ntenant-name = t\n",
			`{"methods":["password"],"password":{"user":{"domain":{"id":"d"},"name":"u","password":"p"}}}`,
			`{"project":{"domain":{"id":"d"},"name":"t"}}`,
		},
		"application credential": {
			"application-credential-id = ai\napplication-credential-secret = as\ntenant-name = t\n",
			`{"application_credential":{"id":"ai","secret":"as"},"methods":["application_credential"]}`, `null`,
		},
		"application credential by name": {
			"application-credential-name = an\napplication-credential-secret = as\nusername = u\nuser-domain-name = " +
				"ud\npassword = p\n",
			`{"application_credential":{"name":"an","secret":"as","user":{"domain":{"name":"ud"},"name":"u"}},` +
				`"methods":["application_credential"]}`, `null`,
		},
		"trust": {
			"trust-id = ti\ntrustee-id = te\ntrustee-password = tp\nusername = u\npassword = p\n",
			`{"methods":["password"],"password":{"user":{"id":"te","password":"tp"}}}`, `{"OS-TRUST:trust":{"id":"ti"}}`,
		},
		"token": {
			"token = tok\ntenant-id = pi\nusername = u\n",
			`{"methods":["token"],"token":{"id":"tok"}}`, `{"project":{"id":"pi"}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKeystone(t)
			_, err := k.clouds(t, "cloud.conf", "[Global]\n"+url+c.conf)
			must(t, err)
			auth, _ := k.asked["auth"].(map[string]any)
			identity, _ := json.Marshal(auth["identity"])
			scope, _ := json.Marshal(auth["scope"])
			if string(identity) != c.identity || string(scope) != c.scope {
				t.Errorf("asked for\n%s in scope %s, want\n%s in scope %s", identity, scope, c.identity, c.scope)
			}
		})
	}
}

const yamlHead = "clouds:\n  c:\n    auth: {auth_url: URL/v3, user_id: u, password: p, project_id: p1}\n"

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
			wantKind(t, err, volume.KindInvalid, append(c.words, `cloud "c" cannot be used`, "none is configured",
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
	wantKind(t, err, volume.KindUnavailable, `cloud "two" cannot be used`, `"r1", "r2"`, `section [Global "two"]`)
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
	wantKind(t, err, volume.KindUnavailable, "listing the availability zones",
		`cloud "c" has no public endpoint of volumev3 in region mars; it has public in r1`,
		"check region and endpoint type of")
	wantKind(t, cloud.CheckFeature(t.Context(), FeatureMultiattach), volume.KindUnavailable, "compute in region mars")
	k.catalog = "[]"
	if clouds, err = k.clouds(t, "clouds.yaml", yamlHead); err == nil {
		cloud, err = clouds.Cloud(t.Context(), "c")
		must(t, err)
		_, err = cloud.Server(t.Context(), absentID)
	}
	wantKind(t, err, volume.KindUnavailable, "has none at all")
}

// A redirect would carry the token to wherever it points.
func TestRedirectsAreNotFollowed(t *testing.T) {
	var leaked string
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter,
		q *http.Request,
	) {
		leaked = q.Header.Get("X-Auth-Token")
	}))
	defer thief.Close()
	k := newKeystone(t)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		http.Redirect(w, q, thief.URL+q.URL.Path, http.StatusFound)
	}))
	defer front.Close()
	clouds, err := k.clouds(t, "clouds.yaml", yamlHead+"    block_storage_endpoint_override: "+front.URL+"/v3\n")
	must(t, err)
	cloud, err := clouds.Cloud(t.Context(), "")
	must(t, err)
	_, err = cloud.Volume(t.Context(), absentID)
	wantKind(t, err, volume.KindUnavailable, "302 Found", "endpoint in the catalog")
	if leaked != "" {
		t.Error("the token went to another server")
	}
}

func TestDefaultCloud(t *testing.T) {
	k := newKeystone(t)
	section := func(name string) string {
		return "[Global" + name + "]\nauth-url = URL\nuser-id = u\npassword = p\nproject-id = p1\n"
	}
	clouds, err := k.clouds(t, "cloud.conf", section(` "b"`)+section("")+section(` "a"`))
	must(t, err)
	if names := strings.Join(clouds.Names(), " "); names != "Global a b" {
		t.Errorf("names %q", names)
	}
	_, err = clouds.Cloud(t.Context(), "nope")
	wantKind(t, err, volume.KindInvalid, `cloud "nope" is not configured; configured are "Global", "a", "b"`)
	_, err = k.clouds(t, "cloud.conf", section(` "b"`)+section(` "a"`))
	wantKind(t, err, volume.KindInvalid, `several clouds ("a", "b")`, "name the default cloud")
	if _, err = k.clouds(t, "cloud.conf", section(` "only"`)); err != nil {
		t.Errorf("the only cloud is not the default: %v", err)
	}
	// What is wrong with another cloud does no harm until it is asked for.
	clouds, err = k.clouds(t, "cloud.conf", section("")+"[Global \"bad\"]\nauth-url = URL\nusername = u\n")
	must(t, err)
	_, err = clouds.Cloud(t.Context(), "bad")
	wantKind(t, err, volume.KindUnavailable, `cloud "bad" cannot be used`, `section [Global "bad"]`, "password is missing")
}

// A cloud that does not know a filter returns everything.
func TestIgnoredFiltersMatchNoOthers(t *testing.T) {
	k := newKeystone(t)
	clouds, err := k.clouds(t, "clouds.yaml", yamlHead)
	must(t, err)
	c, err := clouds.Cloud(t.Context(), "")
	must(t, err)
	const list = `[{"id":"1","name":"other","volume_id":"x","resource_uuid":"x"},
		{"id":"2","name":"mine","volume_id":"v","resource_uuid":"v"}]`
	must(t, c.CheckFeature(t.Context(), FeatureMessages)) // the versions are known before the answers change
	k.version = `{"volumes":LIST,"snapshots":LIST,"backups":LIST,"messages":LIST,"attachments":LIST}`
	k.version = strings.ReplaceAll(k.version, "LIST", list)
	ctx := t.Context()
	vs, err := c.VolumesNamed(ctx, "mine")
	must(t, err)
	ss, err := c.SnapshotsNamed(ctx, "mine")
	must(t, err)
	bs, err := c.BackupsNamed(ctx, "mine")
	must(t, err)
	ms, err := c.Messages(ctx, "v")
	must(t, err)
	as, err := c.AttachmentRecords(ctx, "v")
	must(t, err)
	for what, n := range map[string]int{
		"volumes": len(vs), "snapshots": len(ss), "backups": len(bs), "messages": len(ms),
		"attachments": len(as),
	} {
		if n != 1 {
			t.Errorf("%d %s, want the one that was asked for", n, what)
		}
	}
	if vs[0].ID != "2" || ss[0].ID != "2" || bs[0].ID != "2" || as[0].ID != "2" {
		t.Errorf("the wrong ones: %v %v %v %v", vs, ss, bs, as)
	}
}

func TestWrongClockMakesNoExtraLogins(t *testing.T) {
	k := newKeystone(t)
	clouds, err := k.clouds(t, "clouds.yaml", yamlHead)
	must(t, err)
	c, err := clouds.Cloud(t.Context(), "")
	must(t, err)
	c.conn.renewAt = time.Time{} // as after a login whose token had ended by our clock
	k.paths = nil
	for range 3 {
		_, err := c.Zones(t.Context())
		must(t, err)
	}
	if len(k.paths) != 3 {
		t.Errorf("a wrong clock makes needless logins: %v", k.paths)
	}
}

// A login fails with what is wrong with the certificates of the cloud.
func TestBrokenCAFailsTheLogin(t *testing.T) {
	k := newKeystone(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(ca, []byte("no PEM"), 0o600))
	_, err := k.clouds(t, "clouds.yaml", yamlHead+"    cacert: "+ca+"\n")
	wantKind(t, err, volume.KindUnavailable, `cloud "c"`, "clouds.yaml", "holds no certificate")
	_, err = k.clouds(t, "clouds.yaml", strings.ReplaceAll(yamlHead, "URL/v3", `"http://[bad"`))
	wantKind(t, err, volume.KindUnavailable, "auth-url")
}

// Addresses may contain a user and a password; no error quotes them: of an address that is broken,
// does not answer or is refused.
func TestPasswordsInAddressesAreNotQuoted(t *testing.T) {
	const planted = "s3cr3tOfUrl"
	k := newKeystone(t)
	address := strings.Replace(k.URL, "http://", "http://u:"+planted+"@", 1)
	var log strings.Builder
	for _, url := range []string{
		"http://u:" + planted + "@[bad", "http://u:" + planted + "@127.0.0.1:1", "http://u:" + planted + "@127.0.0.1:port",
		"http://u:" + planted + "%zz@k",
		"http://u:" + planted + "\x7f@k", "http://u:" + planted + "/x@k", address + "/refused",
	} {
		for _, key := range []string{"block_storage_endpoint_override", "compute_endpoint_override", "auth_url"} {
			text := yamlHead + "    " + key + ": \"" + url + "\"\n"
			if key == "auth_url" {
				text = strings.Replace(yamlHead, "URL/v3", `"`+url+`"`, 1)
			}
			path := filepath.Join(t.TempDir(), "clouds.yaml")
			must(t, os.WriteFile(path, []byte(strings.ReplaceAll(text, "URL", k.URL)), 0o600))
			clouds, err := open(t.Context(), Options{CloudsYAML: path, Log: slog.New(slog.NewTextHandler(&log, nil))},
				fastTuning())
			if err == nil {
				var c *Cloud
				if c, err = clouds.Cloud(t.Context(), ""); err == nil {
					_, errVolume := c.Volume(t.Context(), absentID)
					_, errServer := c.Server(t.Context(), absentID)
					err = errors.Join(errVolume, errServer)
				}
				clouds.Close()
			}
			if err == nil || strings.Contains(err.Error(), planted) {
				t.Errorf("%s: %s: %v", key, url, err)
			}
		}
	}
	if strings.Contains(log.String(), planted) || log.Len() == 0 {
		t.Errorf("logged %s", log.String())
	}
}

// The warnings about a file are logged with its name and keys, without values, once per reading.
func TestIgnoredKeysAreLogged(t *testing.T) {
	t.Parallel()
	k := newKeystone(t)
	var log strings.Builder
	path := filepath.Join(t.TempDir(), "cloud.conf")
	text := "[Global]\nauth-url = " + k.URL + "\nuser-id = u\nproject-id = p1\npassword = s3cr3t#Rest\nnovelty = " +
		"s3cr3t\n[Networking]\nx = s3cr3t\n"
	must(t, os.WriteFile(path, []byte(text), 0o600))
	clouds, err := open(t.Context(), Options{CloudConfig: []string{path}, Log: slog.New(slog.NewTextHandler(&log, nil))},
		fastTuning())
	must(t, err)
	clouds.Close()
	for _, want := range []string{
		"level=WARN msg=\"keys of a configuration file are not read and have no effect\" file=" + path +
			` keys="[[Global] novelty [Networking]]"`,
		"double quotes\" file=" + path + ` keys="[[Global] password]"`,
	} {
		if strings.Count(log.String(), want) != 1 {
			t.Errorf("the log lacks %s", want)
		}
	}
	if strings.Contains(log.String(), "s3cr3t") || strings.Contains(log.String(), "Rest") ||
		strings.Count(log.String(), "level=WARN") != 2 {
		t.Errorf("logged:\n%s", log.String())
	}
}
