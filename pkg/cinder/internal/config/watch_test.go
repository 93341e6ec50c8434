package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const conf = "[Global]\nauth-url = http://k\nuser-id = u\ntenant-id = t\npassword = "

func TestChangedFilesAreReadAgain(t *testing.T) {
	dir := writeFiles(t, map[string]string{"cloud.conf": conf + "old\n"})
	path := filepath.Join(dir, "cloud.conf")
	read, broken := 0, 0
	w, err := NewWatch(Files{CloudConf: []string{path}}, time.Hour, func(_ *Config, err error) {
		read++
		if err != nil {
			broken++
		}
	})
	must(t, err)
	password := func(now bool) string { return w.Current(now).Clouds[Unnamed].Cloud.Password }
	replace := func(text string) {
		must(t, os.WriteFile(path+".new", []byte(text), 0o600))
		must(t, os.Rename(path+".new", path))
	}
	if password(true) != "old" || read != 0 {
		t.Errorf("an unchanged file was read %d times", read)
	}
	replace(conf + "new\n")
	if password(false) != "old" {
		t.Error("the files were checked before the interval ended")
	}
	if password(true) != "new" || read != 1 {
		t.Errorf("password %s after %d readings", password(true), read)
	}
	replace("[Global\n")
	for range 3 {
		if password(true) != "new" {
			t.Error("a broken file took effect")
		}
	}
	if read != 2 || broken != 1 {
		t.Errorf("a broken file was read %d times and told %d times", read-1, broken)
	}
	must(t, os.Remove(path))
	if password(true) != "new" || broken != 2 {
		t.Errorf("a file that is gone: password %s, told %d times", password(true), broken)
	}
	replace(conf + "newest\n")
	if password(true) != "newest" {
		t.Errorf("password %s after the file came back", password(true))
	}
	// The same size and, on a coarse clock, the same time: the inode tells.
	info, err := os.Stat(path)
	must(t, err)
	must(t, os.WriteFile(path+".new", []byte(conf+"latest\n"), 0o600))
	must(t, os.Chtimes(path+".new", info.ModTime(), info.ModTime()))
	must(t, os.Rename(path+".new", path))
	if password(true) != "latest" {
		t.Errorf("password %s: a file of the same size and time was not noticed", password(true))
	}
}

func TestBrokenCloudKeepsItsOldDescription(t *testing.T) {
	const two = "[Global \"a\"]\nauth-url = http://k\nuser-id = u\ntenant-id = t\npassword = x\n[Global " +
		"\"b\"]\nauth-url = http://k\nuser-id = u\ntenant-id = t\npassword = "
	path := filepath.Join(writeFiles(t, map[string]string{"cloud.conf": two + "1\n"}), "cloud.conf")
	var told error
	w, err := NewWatch(Files{CloudConf: []string{path}}, 0, func(_ *Config, err error) { told = err })
	must(t, err)
	must(t, os.WriteFile(path, []byte(strings.ReplaceAll(two, "= x", "= new-x")+"\n"), 0o600))
	c := w.Current(true)
	if c.Clouds["b"].Cloud.Password != "1" || c.Clouds["b"].Err != nil || c.Clouds["a"].Cloud.Password != "new-x" {
		t.Errorf("b has password %q (%v), a has %q", c.Clouds["b"].Cloud.Password, c.Clouds["b"].Err,
			c.Clouds["a"].Cloud.Password)
	}
	if told == nil || !strings.Contains(told.Error(), `section [Global "b"]`) {
		t.Errorf("told %v", told)
	}
	must(t, os.WriteFile(path, []byte(strings.Split(two, "[Global \"b\"]")[0]), 0o600))
	if c = w.Current(true); len(c.Clouds) != 1 || told != nil {
		t.Errorf("a cloud that was removed is still there: %v (%v)", c.Names(), told)
	}
}

// Files that the configuration refers to, or that may appear beside it, are checked too.
func TestWatchOfFurtherFiles(t *testing.T) {
	dir := writeFiles(t, map[string]string{"clouds.yaml": cloudsYAML, "ca.pem": "CA"})
	w, err := NewWatch(Files{CloudsYAML: filepath.Join(dir, "clouds.yaml")}, 0, func(_ *Config, err error) {
		if err != nil {
			t.Error(err)
		}
	})
	must(t, err)
	if w.Current(false).Clouds["east"].Err == nil {
		t.Fatal("a cloud without a password is accepted")
	}
	must(t, os.WriteFile(filepath.Join(dir, "secure.yaml"), []byte("clouds: {east: {auth: {password: p}}}"), 0o600))
	if err := w.Current(false).Clouds["east"].Err; err != nil {
		t.Errorf("secure.yaml came up: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(dir, "ca.pem"), []byte("NEW CA"), 0o600))
	if ca := w.Current(false).Clouds["east"].Cloud.CA; ca != "NEW CA" {
		t.Errorf("the CA file has changed, but %q is in use", ca)
	}
	if _, err := NewWatch(Files{}, 0, nil); err == nil {
		t.Error("no files at all are accepted")
	}
}
