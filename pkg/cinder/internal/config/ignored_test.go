package config

import (
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// warnings renders the warnings as "file: keys: …" or, about values that are cut, "file: values:
// …", and fails the test if one has a secret.
func warnings(t *testing.T, c *Config) []string {
	t.Helper()
	var out []string
	for _, w := range c.Warnings {
		word := "keys"
		if w.IsCut {
			word = "values"
		}
		out = append(out, filepath.Base(w.File)+": "+word+": "+strings.Join(w.Keys, ", "))
	}
	if text := strings.Join(out, "\n"); strings.Contains(text, secret) {
		t.Errorf("the warnings quote a secret:\n%s", text)
	}
	return out
}

const usable = "auth-url = http://k\nuser-id = u\ntenant-id = t\n"

// A cloud.conf that serves other programs too has one warning with all that has no effect here.
func TestIgnoredKeysOfCloudConf(t *testing.T) {
	c, err := load(t, map[string]string{"cloud.conf": "[Global]\n" + usable + `Password = p
novelty = ` + secret + `
unheard-of
X` + strings.ReplaceAll(secret, "-", "") + ` = 1
[LoadBalancer]
floating-network-id = ` + secret + `
subnet-id = x
[LoadBalancerClass "public"]
subnet-id = x
[` + secret + `]
a = b
[BlockStorage]
node-volume-attach-limit = 25
rescan-on-resize = true
[BlockStorage "east"]
ignore-volume-az = true
[Metadata]
search-order = configDrive
`})
	must(t, err)
	want := []string{`cloud.conf: keys: [BlockStorage "east"], ` +
		`[BlockStorage] node-volume-attach-limit (use --max-volumes of growvol-node), ` +
		`[BlockStorage] rescan-on-resize (not needed), [Global] line 7, [Global] line 8, [Global] novelty, ` +
		`[LoadBalancerClass "public"], [LoadBalancer], ` +
		`[Metadata] search-order (use --node-id and --zone of growvol-node), the section of line 15`}
	if got := warnings(t, c); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

// Each file has its own warning; a file that has only what is read has none.
func TestIgnoredKeysOfSeveralFiles(t *testing.T) {
	c, err := load(t, map[string]string{
		"a.conf": "[Global]\n" + usable + "x = 1\n", "b.conf": "[Global]\npassword = p\n", "cloud.conf": "[Route]\ny = 1\n",
	})
	must(t, err)
	want := []string{"a.conf: keys: [Global] x", "cloud.conf: keys: [Route]"}
	if got := warnings(t, c); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// gcfg ends a value at # and ;, as the ini files of Git do, so that a password that has one of
// them becomes a shorter one.
func TestCutValuesOfCloudConf(t *testing.T) {
	for text, cut := range map[string]bool{
		"password = abc#def":            true,
		"password = abc;def":            true,
		"password = #abcdef":            true,
		"password = ;abc":               true,
		"password =#abc":                true,
		`password = "abc"#def`:          true,
		`password = ab"c"; a comment`:   true,
		`password = "abc#def"`:          false,
		`password = "abc;def" # really`: false,
		`password = a\"b # a comment`:   false,
		"password = abc ; a comment":    false,
		"password = abc\t# a comment":   false,
		"password = abc \\\n def#ghi":   true,
		"password = abc\n#tenant-id=x":  false,
		"password = abc\r\n# x":         false,
		"password = \"\" # none":        false,
		"password = ; none":             false,
		"password = abc":                false,
	} {
		c, err := load(t, map[string]string{"cloud.conf": "# b\n[Global] ; a\n" + usable + text + "\n[BlockStorage]\n"})
		must(t, err)
		var want []string
		if cut {
			want = []string{"cloud.conf: values: [Global] password"}
		}
		if got := warnings(t, c); !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// The warning about keys of openstacksdk that are not read has their path, also in secure.yaml.
func TestIgnoredKeysOfCloudsYAML(t *testing.T) {
	c, err := load(t, map[string]string{
		"clouds.yaml": `
cache: {auth: true}
defaults: &defaults
  network_api_version: 2
  profile: vexxhost
clouds:
  east:
    <<: *defaults
    auth: {auth_url: http://k, user_id: u, project_id: p, system_scope: all, ` +
			`passcode: ` + secret + `, ` + secret + `: x}
    identity_api_version: 3
    volume_api_version: "3"
    compute_api_version: 2.1
    volume_interface: internal
    regions: [{name: r, values: {auth: {password: ` + secret + `}}}]
  west:
    auth: {auth_url: http://k, user_id: u, project_id: p, password: p,rest}
    identity_api_version: 2
    volume_api_version: 2
`,
		"secure.yaml": "clouds: {east: {auth: {password: p, pasword: " + secret + "}}}\ncolor: " + secret + "\n",
	})
	must(t, err)
	want := []string{
		"clouds.yaml: keys: cache, clouds.east.auth.line 9, clouds.east.auth.passcode, clouds.east.auth.system_scope, " +
			"clouds.east.network_api_version, " +
			"clouds.east.profile, clouds.east.regions.values, clouds.east.volume_interface, clouds.west.auth.line 16, " +
			"clouds.west.identity_api_version, clouds.west.volume_api_version, defaults",
		"secure.yaml: keys: clouds.east.auth.pasword, color",
	}
	if got := warnings(t, c); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	must(t, c.Clouds["east"].Err)
	if region := c.Clouds["east"].Cloud.Region; region != "r" {
		t.Errorf("region %q", region)
	}
}

// A file that several sections refer to is warned of once.
func TestIgnoredKeysAreWarnedOfOnce(t *testing.T) {
	c, err := load(t, map[string]string{
		"other.yaml": "clouds: {c: {profile: x, auth: {auth_url: http://k, user_id: u, project_id: p, password: p}}}",
		"cloud.conf": "[Global]\nuse-clouds\nclouds-file = DIR/other.yaml\ncloud = c\n[Global \"b\"]\nuse-clouds = " +
			"true\nclouds-file = DIR/other.yaml\ncloud = c\n",
	})
	must(t, err)
	if got, want := warnings(t, c), []string{"other.yaml: keys: clouds.c.profile"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// openstacksdk takes the first of several regions; here none is chosen by chance.
func TestRegionsOfCloudsYAML(t *testing.T) {
	for text, want := range map[string]string{
		"regions: [r]": "r", "regions: [{name: r}]": "r", "regions: []": "", "region_name: s\n    regions: [r, s]": "s",
	} {
		c, err := load(t,
			map[string]string{"clouds.yaml": "clouds:\n  c:\n    auth: {auth_url: http://k, user_id: u, project_id: p, " +
				"password: p}\n    " + text + "\n"})
		if got := singleCloud(t, c, err).Region; got != want {
			t.Errorf("%s: region %q, want %q", text, got, want)
		}
	}
	c, err := load(t,
		map[string]string{"clouds.yaml": "clouds:\n  c:\n    auth: {auth_url: http://k, user_id: u, project_id: p, " +
			"password: p}\n    regions: [r, {name: s}]\n"})
	must(t, err)
	wantWords(t, c.Clouds["c"].Err, "region_name is missing", `"r", "s"`)
}

func TestInsecureOfCloudsYAML(t *testing.T) {
	for text, want := range map[string]bool{
		"insecure: true": true, "verify: false": true, "insecure: false": false,
		"verify: true": false, "insecure: true\n    verify: true": true,
	} {
		c, err := load(t,
			map[string]string{"clouds.yaml": "clouds:\n  c:\n    auth: {auth_url: http://k, user_id: u, project_id: p, " +
				"password: p}\n    " + text + "\n"})
		if got := singleCloud(t, c, err).Insecure; got != want {
			t.Errorf("%s: insecure %t, want %t", text, got, want)
		}
	}
}

// The keys that count as read are those that gcfg stores.
func TestConfKeysAreThoseOfTheStructs(t *testing.T) {
	global, blockStorage := keysOf(reflect.TypeFor[globalSection](), "gcfg"), keysOf(reflect.TypeFor[Settings](), "gcfg")
	delete(global, "") // the embedded credentials
	wantGlobal := reflect.TypeFor[globalSection]().NumField() - 1 + reflect.TypeFor[credentials]().NumField()
	if reflect.TypeFor[cloudConf]().NumField() != 3 || len(global) != wantGlobal || len(blockStorage) != 2 {
		t.Errorf("keys of [Global] %v, of [BlockStorage] %v", global, blockStorage)
	}
}

// The last line of a value in base64 that has line breaks looks like a key without a value.
func TestRestOfBase64IsNoKey(t *testing.T) {
	c, err := load(t, map[string]string{"cloud.conf": "[Global]\n" + usable +
		"password = QUJDREVGR0hJ\nab12cd==\nef34g=\nef56g==#\n"})
	must(t, err)
	want := []string{
		"cloud.conf: keys: [Global] line 6, [Global] line 7, [Global] line 8",
		"cloud.conf: values: [Global] line 8",
	}
	if got := warnings(t, c); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}
