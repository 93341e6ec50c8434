package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The error of a broken cloud names file, place and key, without a value.
func TestBrokenCloudNamesTheKey(t *testing.T) {
	const yaml = "clouds:\n  c:\n    auth: "
	for name, c := range map[string]struct {
		file, text string
		words      []string
	}{
		"no auth-url": {
			"cloud.conf", "[Global]\nusername = u\n",
			[]string{"cloud.conf, section [Global]", "auth-url (auth_url) is missing"},
		},
		"auth-url without scheme": {
			"cloud.conf", "[Global]\nauth-url = keystone:5000\n",
			[]string{"does not begin with http"},
		},
		"no user": {"cloud.conf", "[Global]\nauth-url = http://k\n", []string{"username or user-id"}},
		"no password": {
			"cloud.conf", "[Global \"x\"]\nauth-url = http://k\nusername = u\n",
			[]string{`section [Global "x"]`, "password is missing"},
		},
		"no user domain": {"cloud.conf", "[Global]\nauth-url = http://k\nusername = u\npassword = " + secret +
			"\ntenant-id = t\n", []string{"user-domain-name (user_domain_name)"}},
		"no project": {
			"cloud.conf", "[Global]\nauth-url = http://k\nuser-id = u\npassword = " + secret + "\n",
			[]string{"tenant-id or tenant-name"},
		},
		"no project domain": {"cloud.conf", "[Global]\nauth-url = http://k\nuser-id = u\npassword = " + secret +
			"\ntenant-name = t\n", []string{"tenant-domain-name"}},
		"no secret": {
			"cloud.conf", "[Global]\nauth-url = http://k\napplication-credential-id = a\n",
			[]string{"application-credential-secret"},
		},
		"credential of nobody": {
			"cloud.conf",
			"[Global]\nauth-url = http://k\napplication-credential-name = a\napplication-credential-secret = " + secret + "\n",
			[]string{"needs user-id"},
		},
		"unknown interface": {
			"cloud.conf", "[Global]\nauth-url = http://k\nos-endpoint-type = " + secret + "\n",
			[]string{"os-endpoint-type (interface) is none of"},
		},
		"tls-insecure": {
			"cloud.conf", "[Global]\nauth-url = http://k\ntls-insecure = " + secret + "\n",
			[]string{"tls-insecure is neither"},
		},
		"no CA file": {
			"cloud.conf", "[Global]\nauth-url = http://k\nca-file = /nonexistent/ca.pem\n",
			[]string{"ca-file (cacert)", "/nonexistent/ca.pem"},
		},
		"no clouds file": {
			"cloud.conf", "[Global]\nuse-clouds = true\nclouds-file = /nonexistent/clouds.yaml\n",
			[]string{"use-clouds", "/nonexistent/clouds.yaml"},
		},
		"clouds.yaml: no password": {
			"clouds.yaml", yaml + "{auth_url: http://k, username: u}\n",
			[]string{`clouds.yaml, cloud "c"`, "password is missing"},
		},
		"clouds.yaml: wrong type": {
			"clouds.yaml", yaml + secret + "\n",
			[]string{`cloud "c"`, "line 3: cannot unmarshal !!str"},
		},
		"clouds.yaml: verify": {
			"clouds.yaml", yaml + "{auth_url: http://k}\n    verify: " + secret + "\n",
			[]string{"cannot unmarshal"},
		},
		"clouds.yaml: password map": {
			"clouds.yaml", yaml + "{auth_url: http://k, password: {" + secret + ": x}}\n",
			[]string{"cannot unmarshal"},
		},
		"clouds.yaml: auth_type": {
			"clouds.yaml", yaml + "{auth_url: http://k}\n    auth_type: v3oidcpassword\n",
			[]string{"auth_type v3oidcpassword is not supported"},
		},
		"clouds.yaml: auth_url": {
			"clouds.yaml", yaml + "{auth_url: 'http://u:" + secret + "/x@k', user_id: u}\n",
			[]string{"auth-url (auth_url) is not an address"},
		},
		"clouds.yaml: override": {
			"clouds.yaml", yaml +
				"{auth_url: http://k, user_id: u}\n    volume_endpoint_override: " + secret + "\n",
			[]string{"block_storage_endpoint_override", "is not an address"},
		},
		"clouds.yaml: no auth": {"clouds.yaml", yaml + "{}\n    auth_type: none\n", []string{"gives no access"}},
	} {
		t.Run(name, func(t *testing.T) {
			config, err := load(t, map[string]string{c.file: c.text})
			must(t, err)
			err = config.Clouds[config.Names()[0]].Err
			wantWords(t, err, c.words...)
		})
	}
}

func wantWords(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("it is accepted")
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q lacks %q", err, w)
		}
	}
	if strings.Contains(err.Error(), secret) {
		t.Errorf("%q quotes a secret", err)
	}
}

// Files that are broken as a whole.
func TestBrokenFileNamesFileAndReason(t *testing.T) {
	for name, c := range map[string]struct {
		file, text string
		words      []string
	}{
		"syntax": {
			"cloud.conf", "[Global]\nauth-url http://k\npassword = " + secret + "\n",
			[]string{"cloud.conf", "2:"},
		},
		"open quote": {"cloud.conf", "[Global]\npassword = \"" + secret + "\n", []string{"cloud.conf"}},
		"escape":     {"cloud.conf", "[Global]\npassword = \"a\\" + secret + "\"\n", []string{"cloud.conf"}},
		"no section": {"cloud.conf", "password = " + secret + "\n", []string{"cloud.conf", "expected section header"}},
		"boolean": {
			"cloud.conf", "[BlockStorage]\nignore-volume-az = " + secret + "\n",
			[]string{"cloud.conf", "neither true nor false", "ignore-volume-az"},
		},
		"no value": {
			"cloud.conf", "[Global]\npassword\n",
			[]string{"cloud.conf", "the value is missing", "password"},
		},
		"empty":             {"cloud.conf", "", []string{"no cloud is described in", "cloud.conf"}},
		"YAML":              {"clouds.yaml", "clouds: [" + secret, []string{"clouds.yaml", "line 1"}},
		"YAML alias":        {"clouds.yaml", "clouds: *" + secret, []string{"clouds.yaml"}},
		"YAML of other use": {"clouds.yaml", "a: b\n", []string{"no cloud is described in", "clouds.yaml"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, map[string]string{c.file: c.text})
			wantWords(t, err, c.words...)
		})
	}
	_, err := Files{CloudConf: []string{"/nonexistent/cloud.conf"}}.Load()
	wantWords(t, err, "/nonexistent/cloud.conf")
	_, err = Files{CloudsYAML: "/nonexistent/clouds.yaml"}.Load()
	wantWords(t, err, "/nonexistent/clouds.yaml")
	big := filepath.Join(t.TempDir(), "big")
	must(t, os.WriteFile(big, nil, 0o600))
	must(t, os.Truncate(big, maxFileSize+1))
	_, err = Files{CloudsYAML: big}.Load()
	wantWords(t, err, big, "too many")
}

func TestBrokenSecureYAML(t *testing.T) {
	_, err := load(t, map[string]string{"clouds.yaml": cloudsYAML, "secure.yaml": "clouds: {" + secret})
	wantWords(t, err, "secure.yaml")
	c, err := load(t, map[string]string{"clouds.yaml": cloudsYAML, "secure.yaml": "clouds: {east: {auth: " + secret +
		"}}"})
	must(t, err)
	wantWords(t, c.Clouds["east"].Err, "secure.yaml", `cloud "east"`)
}

func TestOneNameTwice(t *testing.T) {
	c, err := load(t, map[string]string{
		"clouds.yaml": cloudsYAML, "ca.pem": "",
		"cloud.conf": "[Global \"east\"]\nauth-url = http://k\n",
	})
	must(t, err)
	wantWords(t, c.Clouds["east"].Err, `"east" is used twice`, "clouds.yaml", "cloud.conf")
}
