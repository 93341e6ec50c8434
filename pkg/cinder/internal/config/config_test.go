package config

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const secret = "s3cr3t-Value"

// writeFiles puts files into a new directory and returns it.
func writeFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(strings.ReplaceAll(text, "DIR", dir)), 0o600))
	}
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// load reads the given files: clouds.yaml and all that end in .conf, in order.
func load(t *testing.T, texts map[string]string) (*Config, error) {
	t.Helper()
	dir := writeFiles(t, texts)
	var f Files
	for _, name := range []string{"a.conf", "b.conf", "cloud.conf"} {
		if _, ok := texts[name]; ok {
			f.CloudConf = append(f.CloudConf, filepath.Join(dir, name))
		}
	}
	if _, ok := texts["clouds.yaml"]; ok {
		f.CloudsYAML = filepath.Join(dir, "clouds.yaml")
	}
	return f.Load()
}

// singleCloud returns the single cloud of a configuration, without its origin.
func singleCloud(t *testing.T, c *Config, err error) Cloud {
	t.Helper()
	must(t, err)
	if len(c.Clouds) != 1 {
		t.Fatalf("clouds %v", c.Names())
	}
	e := c.Clouds[c.Names()[0]]
	must(t, e.Err)
	e.Cloud.Origin = ""
	return e.Cloud
}

func TestCloudConfIsRead(t *testing.T) {
	c, err := load(t, map[string]string{"ca.pem": "CA", "cert.pem": "CERT", "key.pem": "KEY", "cloud.conf": `
[Global]
auth-url = https://keystone:5000/v3 ; a comment
username = "u"
password = "` + secret + `;#"
tenant-name = tn
tenant-domain-name = tdn
user-domain-id = udi
domain-name = dn
region = r
os-endpoint-type = internalURL
ca-file = DIR/ca.pem
cert-file = DIR/cert.pem
key-file = DIR/key.pem
tls-insecure = true

[BlockStorage]
ignore-volume-az = true
ignore-volume-microversion = yes
`})
	got := singleCloud(t, c, err)
	want := Cloud{
		Name: "Global", AuthURL: "https://keystone:5000/v3", Username: "u", Password: secret + ";#", ProjectName: "tn",
		ProjectDomainName: "tdn", UserDomainID: "udi",
		Region: "r", Interface: "internal", CA: "CA", Cert: "CERT", Key: "KEY", Insecure: true,
	}
	if got != want {
		t.Errorf("read %s", diff(got, want))
	}
	if s := (Settings{true, true}); c.Settings != s || len(c.Warnings) != 0 {
		t.Errorf("settings %+v, warnings %v", c.Settings, c.Warnings)
	}
}

// diff names the fields in which clouds differ, with their values.
func diff(got, want Cloud) string {
	type plain Cloud // without the methods that hide secrets
	return fmt.Sprintf("%+v\nwant %+v", plain(got), plain(want))
}

func TestSynonymsInCloudConf(t *testing.T) {
	c, err := load(t, map[string]string{"cloud.conf": `
[Global "east"]
auth-url = http://k
user-id = ui
password = p
project-id = pi
project-name = pn
project-domain-id = pdi
endpoint-type = admin
`})
	want := Cloud{
		Name: "east", AuthURL: "http://k", UserID: "ui", Password: "p", ProjectID: "pi", ProjectName: "pn",
		ProjectDomainID: "pdi", Interface: "admin",
	}
	if got := singleCloud(t, c, err); got != want {
		t.Errorf("read %s", diff(got, want))
	}
}

func TestLaterFilesOverride(t *testing.T) {
	c, err := load(t, map[string]string{
		"a.conf": "[Global]\nauth-url = http://k\nuser-id = u\ntenant-id = t\npassword = old\n",
		"b.conf": "[global]\nPassword = new\n[Global \"second\"]\nauth-url = http://k2\nuser-id = u\npassword = " +
			"p\ntenant-id = t\n",
	})
	must(t, err)
	if c.Clouds["Global"].Cloud.Password != "new" || c.Clouds["Global"].Cloud.UserID != "u" || len(c.Clouds) != 2 {
		t.Errorf("clouds %v", c.Clouds)
	}
}

const cloudsYAML = `
clouds:
  east:
    auth:
      auth_url: http://keystone:5000
      username: u
      project_name: pn
      user_domain_name: udn
      project_domain_id: pdi
    region_name: r
    interface: internal
    verify: false
    cacert: DIR/ca.pem
    volume_endpoint_override: http://cinder/v3
    compute_endpoint_override: http://nova/v2.1
    identity_api_version: 3
    regions: [r, s]
  west:
    auth_type: v3applicationcredential
    auth:
      auth_url: http://keystone:5000
      application_credential_id: ai
      application_credential_secret: 0123
      username: ignored
      password: ignored
`

func TestCloudsYAMLIsRead(t *testing.T) {
	c, err := load(t, map[string]string{
		"clouds.yaml": cloudsYAML, "ca.pem": "CA",
		"secure.yaml": "clouds:\n  east:\n    auth:\n      password: " + secret + "\n  nobody:\n    auth: {password: x}\n",
	})
	must(t, err)
	east, west := c.Clouds["east"], c.Clouds["west"]
	must(t, east.Err)
	must(t, west.Err)
	if !strings.HasSuffix(east.Cloud.Origin, `clouds.yaml, cloud "east"`) {
		t.Errorf("origin %s", east.Cloud.Origin)
	}
	east.Cloud.Origin, west.Cloud.Origin = "", ""
	want := Cloud{
		Name: "east", AuthURL: "http://keystone:5000", Username: "u", Password: secret, ProjectName: "pn",
		UserDomainName: "udn", ProjectDomainID: "pdi",
		Region: "r", Interface: "internal", Insecure: true, CA: "CA", BlockStorageURL: "http://cinder/v3",
		ComputeURL: "http://nova/v2.1",
	}
	if east.Cloud != want {
		t.Errorf("read %s", diff(east.Cloud, want))
	}
	want = Cloud{
		Name: "west", AuthURL: "http://keystone:5000", Username: "ignored", AppCredentialID: "ai",
		AppCredentialSecret: "0123", Interface: "public",
	}
	if west.Cloud != want {
		t.Errorf("read %s", diff(west.Cloud, want))
	}
	if len(c.Clouds) != 2 {
		t.Errorf("clouds %v", c.Names())
	}
}

// An entry of cloud.conf that refers to clouds.yaml takes from there what it leaves out.
func TestUseCloudsFillsWhatTheSectionLeavesOut(t *testing.T) {
	files := map[string]string{
		"other.yaml": cloudsYAML, "secure.yaml": "clouds: {east: {auth: {password: p}}}", "ca.pem": "CA",
		"cloud.conf": "[Global]\nuse-clouds = true\nclouds-file = DIR/other.yaml\ncloud = east\nregion = mine\nusername = " +
			"me\n",
	}
	c, err := load(t, files)
	want := Cloud{
		Name: "Global", AuthURL: "http://keystone:5000", Username: "me", Password: "p", ProjectName: "pn",
		UserDomainName: "udn", ProjectDomainID: "pdi",
		Region: "mine", Interface: "internal", Insecure: true, CA: "CA", BlockStorageURL: "http://cinder/v3",
		ComputeURL: "http://nova/v2.1",
	}
	if got := singleCloud(t, c, err); got != want {
		t.Errorf("read %s", diff(got, want))
	}
	files["token.yaml"] = "clouds: {east: {auth: {auth_url: http://k, token: t, project_id: p}}}"
	files["cloud.conf"] = "[Global]\nuse-clouds = true\nclouds-file = DIR/token.yaml\ncloud = east\n"
	c, err = load(t, files)
	if got := singleCloud(t, c, err); got.Token != "t" {
		t.Errorf("the token of clouds.yaml is %q", got.Token)
	}
	// An id and a name of one thing are not taken from different files.
	files["token.yaml"] = "clouds: {east: {auth: {auth_url: http://k, password: p, user_id: ui, project_id: pi}}}"
	files["cloud.conf"] = "[Global]\nuse-clouds = true\nclouds-file = DIR/token.yaml\ncloud = east\n" +
		"username = me\nuser-domain-id = d\ntenant-name = pn\ntenant-domain-name = pdn\n"
	c, err = load(t, files)
	if got := singleCloud(t, c, err); got.UserID+got.ProjectID != "" || got.Username != "me" || got.ProjectName != "pn" {
		t.Errorf("the section says who logs in, but read %s", diff(got, Cloud{Username: "me", ProjectName: "pn"}))
	}
	files["cloud.conf"] = "[Global]\nuse-clouds = true\nclouds-file = DIR/other.yaml\ncloud = north\n"
	c, err = load(t, files)
	must(t, err)
	if err = c.Clouds["Global"].Err; err == nil || !strings.Contains(err.Error(),
		`has no cloud "north" (key cloud), but "east", "west"`) {
		t.Errorf("a cloud that is not there: %v", err)
	}
}

func TestLogsAndTextsHideSecrets(t *testing.T) {
	c := Cloud{Name: "c", Origin: "f", Password: secret, Token: secret, AppCredentialSecret: secret, Key: secret}
	var b strings.Builder
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "cloud", c)
	fmt.Fprintf(&b, "%v %+v %#v %s", c, c, c, c)
	if strings.Contains(b.String(), secret) {
		t.Errorf("a secret shows: %s", b.String())
	}
}
