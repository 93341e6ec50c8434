package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The parts of a planted password. None may stand in an error or a warning.
const (
	secretHead = "s3cr3tHead"
	secretTail = "T4ilOfIt"
)

// checkNoSecret fails the test if reading files of the text said anything of the planted password.
func checkNoSecret(t *testing.T, text string, c *Config, err error) {
	t.Helper()
	var said []string
	if err != nil {
		said = append(said, err.Error())
	}
	if c != nil {
		said = append(said, fmt.Sprint(c.Warnings))
		for _, name := range c.Names() {
			if e := c.Clouds[name]; e.Err != nil && !containsSecret(name) {
				said = append(said, e.Err.Error())
			}
		}
	}
	for _, s := range said {
		if containsSecret(s) {
			t.Errorf("reading %q says %q", text, s)
		}
	}
}

// parseText reads the text of a cloud.conf without the files that it names.
func parseText(text string) (*Config, error) {
	var conf cloudConf
	ignored, cut, err := parseConf(&conf, []byte(text))
	r := reader{config: &Config{Clouds: map[string]Entry{}, states: map[string]fileState{}}}
	r.addWarning(Warning{File: "f", Keys: ignored})
	r.addWarning(Warning{File: "f", Keys: cut, IsCut: true})
	for name, g := range conf.Global {
		g.CAFile, g.CertFile, g.KeyFile, g.CloudsFile, g.UseClouds = "", "", "", "", false
		r.addCloud(g.cloud(&r, Files{}, name, "f"))
	}
	return r.config, err
}

// reload overwrites one file of a directory and reads the whole.
func reload(t *testing.T, dir, name, text string) (*Config, error) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	return Files{CloudsYAML: filepath.Join(dir, "clouds.yaml")}.Load()
}

// containsSecret reports whether a text has a part of the password, in any case of its letters.
func containsSecret(text string) bool {
	text = strings.ToLower(text)
	return strings.Contains(text, strings.ToLower(secretHead)) || strings.Contains(text, strings.ToLower(secretTail))
}

// specials are what a password may have that means something to a parser.
func specials() []string {
	return []string{
		"", `"`, `\`, `\q`, `\"`, `""`, "\x00", "\xff", "#", ";", " # ", "'", "`", "=", " = ", "[", "]", "\n", "\\\n", "\r\n",
		"{", "}", ":", ": ", "*", "&",
		"!", "!!", "%", "@", ",", "|", "\n  ", "\n    ", "\t", "--- ", "\n---\n", "<<: ", `" at section "`,
		"  at section \"Global\", variable \"",
	}
}

// A password is never quoted, whatever is wrong with the file around it or with its own
// characters.
func TestSyntaxErrorsOfCloudConfQuoteNoValue(t *testing.T) {
	errors := 0
	for _, around := range []string{
		"password = SECRET", "password SECRET", "password: SECRET", "password == SECRET", "password = \"SECRET",
		"password = SECRET\"", "password = 'SECRET'",
		"password = \"SECRET\" x", "password = x\nSECRET", "password = x\nSECRET = y", "password = x\n[SECRET]",
		"password = x\n[SECRET", "password = x\n[ SECRET x ]",
		"password = x\n[Global \"SECRET", "password = x\n\"SECRET\"", "password = \\SECRET", "password = x\\\nSECRET",
		"password\n= SECRET", "!SECRET", "=SECRET",
		"tls-insecure = SECRET", "use-clouds = SECRET", "use-clouds = \"SECRET", "[BlockStorage]\nignore-volume-az = SECRET",
		"os-endpoint-type = SECRET",
		"[BlockStorage]\nignore-volume-microversion = \"SECRET\"", "[Metadata]\nsearch-order = SECRET",
		"[BlockStorage]\nnode-volume-attach-limit = SECRET",
	} {
		for _, special := range specials() {
			for _, begin := range []string{"[Global]\n" + usable, ""} {
				text := begin + strings.ReplaceAll(around, "SECRET", secretHead+special+secretTail) + "\n"
				c, err := parseText(text)
				checkNoSecret(t, text, c, err)
				if err != nil && strings.Contains(err.Error(), "U+") { // one character is a part, too
					t.Errorf("reading %q says %q", text, err)
				}
				if err != nil {
					errors++
				}
			}
		}
	}
	if errors < 1000 {
		t.Errorf("only %d files were refused", errors)
	}
}

func TestSyntaxErrorsOfCloudsYAMLQuoteNoValue(t *testing.T) {
	errors, dir, beside := 0, t.TempDir(), writeFiles(t, map[string]string{"clouds.yaml": cloudsYAML})
	for _, around := range []string{
		"auth: {password: SECRET}", "auth: {password: \"SECRET}", "auth: {password: 'SECRET}", "auth: SECRET",
		"auth: [SECRET]", "auth: {password: {SECRET: x}}",
		"auth: {password: [SECRET]}", "auth: {password: [SECRET}", "SECRET", "? SECRET", "? [SECRET]\n    : x",
		"auth: {password: *SECRET}", "auth: {password: &SECRET}",
		"auth: {password: !SECRET x}", "auth: {password: !!int SECRET}", "auth: {password: !!binary SECRET}",
		"auth: {password: !!SECRET [x]}", "verify: SECRET", "insecure: 'SECRET'",
		"auth: {password: !!float SECRET}", "auth: {password: !!bool SECRET}", "auth: {password: |\n SECRET}",
		"auth:\n\tpassword: SECRET", "auth:\n  password: SECRET",
		"regions: SECRET", "regions: [[SECRET]]", "regions: [{name: [SECRET]}]", "auth: {SECRET: x, SECRET: y}",
		"auth: {<<: SECRET}", "<<: SECRET", "auth: {password: >\n SECRET\n",
		"auth: {password: \"SECRET\" x}", "auth: {password: \"\\SECRET\"}", "auth: {password: !<SECRET> x}",
		"auth: {password: !a!SECRET x}", "%SECRET", "verify: !!bool SECRET",
		"auth: {password: x} SECRET", "region_name: [SECRET]", "auth: &a {password: [*a, SECRET]}", "cacert: [SECRET]",
	} {
		for i, special := range specials() {
			value := strings.ReplaceAll(around, "SECRET", secretHead+special+secretTail)
			text := "clouds:\n  c:\n    auth_type: password\n    " + value + "\n"
			c, err := reload(t, dir, "clouds.yaml", text)
			checkNoSecret(t, text, c, err)
			if err != nil || c.Clouds["c"].Err != nil {
				errors++
			}
			if i == 0 {
				c, err = reload(t, beside, "secure.yaml", text)
				checkNoSecret(t, text, c, err)
			}
		}
	}
	if errors < 1000 {
		t.Errorf("only %d files were refused", errors)
	}
}

// A certificate or a key in the place of its file's name is not quoted.
func TestContentInThePlaceOfAFileIsNotQuoted(t *testing.T) {
	for _, pem := range []string{
		"-----BEGIN PRIVATE KEY-----" + secretHead, secretHead + "\\n" + secretHead,
		strings.Repeat(secretHead, 40),
	} {
		for _, key := range []string{"ca-file", "cert-file", "key-file"} {
			text := "[Global]\n" + usable + "password = p\n" + key + " = \"" + pem + "\"\n"
			c, err := load(t, map[string]string{"cloud.conf": text})
			checkNoSecret(t, text, c, err)
			must(t, err)
			wantWords(t, c.Clouds[Unnamed].Err, key, "seems to be the content of one")
		}
		text := "clouds: {c: {key: \"" + pem + "\", auth: {auth_url: http://k, user_id: u, project_id: p, password: p}}}"
		c, err := load(t, map[string]string{"clouds.yaml": text})
		checkNoSecret(t, text, c, err)
		must(t, err)
		wantWords(t, c.Clouds["c"].Err, "key-file (key)", "seems to be the content of one")
	}
}

// Reading a file neither panics nor quotes a value.
func FuzzCloudConf(f *testing.F) {
	f.Add("[Global]\npassword = ", "\n")
	f.Add("[Global \"a\"]\npassword=\"\\", "\"\n[BlockStorage]\nrescan-on-resize\n")
	f.Add("[Global \"\\", "")
	f.Add("\xef\xbb\xbf[Global]\r\nuse-clouds\r\n; c\r\npassword=", "#x")
	f.Add("[default-Global]\npassword = ", "\n[")
	f.Add("[BlockStorage]\nignore-volume-az = ", "\n")
	f.Fuzz(func(t *testing.T, before, after string) {
		text := before + secretHead + after
		c, err := parseText(text)
		for _, name := range c.Names() {
			if containsSecret(name) {
				return // the name of a cloud is no value, and stands where the cloud is described
			}
		}
		checkNoSecret(t, text, c, err)
	})
}

func FuzzCloudsYAML(f *testing.F) {
	before, after, _ := strings.Cut(cloudsYAML, "http://")
	f.Add(before, after)
	f.Add("clouds: {a: {auth: &x {password: *", "}}}")
	f.Add("clouds:\n  ? [a]\n  : b", "")
	f.Add("clouds: {a: {verify: `", "`}}")
	f.Fuzz(func(t *testing.T, before, after string) {
		path := filepath.Join(t.TempDir(), "clouds.yaml")
		text := before + secretHead + after
		must(t, os.WriteFile(path, []byte(text), 0o600))
		r := reader{config: &Config{Clouds: map[string]Entry{}, states: map[string]fileState{}}}
		clouds, err := r.readCloudsYAML(path)
		for name, raw := range clouds {
			if containsSecret(name) {
				return
			}
			raw.CA, raw.Cert, raw.Key = "", "", ""
			if containsSecret(raw.AuthType) || len(raw.Regions) > 1 {
				continue // the messages about these have their values, which are no secrets
			}
			r.addCloud(raw.cloud(&r, name, path))
		}
		checkNoSecret(t, text, r.config, err)
	})
}
