package debian

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/deploy/release/internal/tree"
)

func TestLockIsReadAsWritten(t *testing.T) {
	lock := Lock{
		{"node", "amd64", "b", "1:2~3", "00", "debian/pool/b.deb"},
		{"node", "amd64", "a", "1", "01", "debian/pool/a.deb"},
		{"ceph", "arm64", "a", "1", "02", "debian/pool/a.deb"},
	}
	name := filepath.Join(t.TempDir(), "lock")
	var text bytes.Buffer
	if err := lock.Write(&text, []string{"one", "two"}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := ReadLock(name)
	if err != nil || !slices.Equal(got, lock) {
		t.Errorf("ReadLock: got %v, %v, want %v", got, err, lock)
	}
	if got, want := got.Select("node", "amd64"), []Package{lock[1], lock[0]}; !slices.Equal(got, want) {
		t.Errorf("Select: got %v, want %v", got, want)
	}
}

// TestFileHasChecksumOfLock checks that a file of the mirror with another checksum is refused, and
// that a damaged file in the cache is downloaded again.
func TestFileHasChecksumOfLock(t *testing.T) {
	content := []byte("a package")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(content) // the client sees a failure
	}))
	defer server.Close()
	mirror := Mirror{URL: server.URL, Cache: t.TempDir()}
	p := Package{Name: "a", Version: "1", Path: "debian/pool/a.deb", SHA256: checksum(content)}
	name, err := mirror.File(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if name, err = mirror.File(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the file has %q, %v, want %q", got, err, content)
	}
	p.SHA256 = checksum([]byte("another"))
	if name, err := mirror.File(t.Context(), p); err == nil || !strings.Contains(err.Error(), "the lock says") {
		t.Errorf("File: got %s, %v, want an error for the checksum", name, err)
	}
}

func TestClosureFollowsDependencies(t *testing.T) {
	index := map[string]candidate{}
	for _, text := range []string{
		"Package: a\nVersion: 1\nPre-Depends: libc (>= 2)\nDepends: missing | b:any (= 1), debconf (>= 0.5) | debconf-2.0\n",
		"Package: b\nDepends: a\n", "Package: libc\n", "Package: debconf\n", "Package: c\nDepends: missing\n",
	} {
		c := parseParagraph(text)
		index[c.name] = c
	}
	resolver := Resolver{Unneeded: []string{"debconf"}}
	selected, err := resolver.closure(index, Request{Packages: []string{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range selected {
		names = append(names, c.name)
	}
	if want := []string{"a", "b", "libc"}; !slices.Equal(names, want) {
		t.Errorf("closure of a: got %q, want %q", names, want)
	}
	if _, err := resolver.closure(index, Request{Packages: []string{"c"}}); err == nil {
		t.Error("closure of a package with a missing dependency succeeded, want an error")
	}
}

func TestExpiredIndexIsRefused(t *testing.T) {
	for text, valid := range map[string]bool{
		time.Now().Add(time.Hour).UTC().Format(time.RFC1123): true, "Thu, 03 Dec 2020 21:03:35 UTC": false, "soon": false,
	} {
		if err := checkNotExpired(text); (err == nil) != valid {
			t.Errorf("checkNotExpired(%q): got %v, want an error: %t", text, err, !valid)
		}
	}
}

func TestLicensesOfCopyrightFile(t *testing.T) {
	for text, want := range map[string][]string{
		"Format: x\n\nFiles: *\nLicense: GPL-2+\n text\n\nLicense: LGPL-2.1+\n\nFiles: a\nLicense: GPL-2+\n" +
			" in /usr/share/common-licenses/GPL-2.\n": {"GPL-2+", "LGPL-2.1+"},
		"The texts are in /usr/share/common-licenses/LGPL-2.1 and\n`/usr/share/common-licenses/GPL'.\n" +
			"Parts: /usr/share/common-licenses/Artistic.": {"Artistic", "GPL", "LGPL-2.1"},
		"Public domain; licenses are in /usr/share/common-licenses/ .": nil,
	} {
		files := tree.New()
		if err := files.AddFile("usr/share/doc/a/copyright", 0o644, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got := Licenses(files, "a"); !slices.Equal(got, want) {
			t.Errorf("Licenses(%q): got %q, want %q", text, got, want)
		}
	}
}
