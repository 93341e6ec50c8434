package cloud

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

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
	volumetest.WantKind(t, err, volume.KindInvalid, `cloud "nope" is not configured; configured are "Global", "a", "b"`)
	_, err = k.clouds(t, "cloud.conf", section(` "b"`)+section(` "a"`))
	volumetest.WantKind(t, err, volume.KindInvalid, `several clouds ("a", "b")`,
		"name the default cloud with the flag --cloud")
	if _, err = k.clouds(t, "cloud.conf", section(` "only"`)); err != nil {
		t.Errorf("the only cloud is not the default: %v", err)
	}
	// What is wrong with another cloud does no harm until it is asked for.
	clouds, err = k.clouds(t, "cloud.conf", section("")+"[Global \"bad\"]\nauth-url = URL\nusername = u\n")
	must(t, err)
	_, err = clouds.Cloud(t.Context(), "bad")
	volumetest.WantKind(t, err, volume.KindUnavailable, `cloud "bad" cannot be used`, `section [Global "bad"]`,
		"password is missing")
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
