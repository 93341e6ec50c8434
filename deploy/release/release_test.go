package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/growvol/growvol/deploy/charts"
	"github.com/growvol/growvol/deploy/release/internal/debian"
	"github.com/growvol/growvol/deploy/release/internal/oci"
	"github.com/growvol/growvol/deploy/release/internal/tree"
)

// inRoot makes the root of the repository the current directory, as for the command.
func inRoot(t *testing.T) { t.Helper(); t.Chdir(filepath.Join("..", "..")) }

// TestPackagesAreThoseOfTheDockerfile checks that the images get every package that the Dockerfile
// installs for them, and that the lock has all of them for both architectures.
func TestPackagesAreThoseOfTheDockerfile(t *testing.T) {
	inRoot(t)
	dockerfile, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	lock, err := debian.ReadLock(lockFile)
	if err != nil {
		t.Fatal(err)
	}
	stages := map[string]string{"build-ceph": setCephDev, "controller-ceph": setCeph, "node": setNode}
	found := 0
	for _, stage := range regexp.MustCompile(`(?m)^FROM `).Split(string(dockerfile), -1) {
		_, name, _ := strings.Cut(strings.SplitN(stage, "\n", 2)[0], " AS ")
		for _, match := range regexp.MustCompile(`--no-install-recommends ([^\\]*) \\`).FindAllStringSubmatch(stage, -1) {
			for _, p := range strings.Fields(match[1]) {
				found++
				for _, arch := range []string{"amd64", "arm64"} {
					isPackage := func(l debian.Package) bool { return l.Name == p && l.Set == stages[name] && l.Arch == arch }
					if !slices.ContainsFunc(lock, isPackage) {
						t.Errorf("%s has no package %s for %s, which stage %s of the Dockerfile installs", lockFile, p, arch, name)
					}
				}
			}
		}
	}
	if found < 8 {
		t.Errorf("found %d packages in the Dockerfile, want at least 8", found)
	}
}

// TestImagesAreThoseOfTheDockerfile compares users and entry points.
func TestImagesAreThoseOfTheDockerfile(t *testing.T) {
	inRoot(t)
	dockerfile, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	for _, stage := range regexp.MustCompile(`(?m)^FROM `).Split(string(dockerfile), -1) {
		_, name, _ := strings.Cut(strings.SplitN(stage, "\n", 2)[0], " AS ")
		entry := regexp.MustCompile(`(?m)^ENTRYPOINT \["/(.*)"\]$`).FindStringSubmatch(stage)
		if entry == nil {
			continue
		}
		r, ok := recipes()["growvol-"+name]
		user := ""
		if match := regexp.MustCompile(`(?m)^USER (.*)$`).FindStringSubmatch(stage); match != nil {
			user = match[1]
		}
		if !ok || r.program != entry[1] || r.user != user {
			t.Errorf("stage %s has the program %s and the user %q; the release has %+v", name, entry[1], user, r)
		}
	}
}

// smallArchive writes an archive of an image with one file, as a release has it.
func smallArchive(t *testing.T) (file string, digest v1.Hash) {
	t.Helper()
	files := tree.New()
	if err := files.AddFile("program", 0o755, []byte("content")); err != nil {
		t.Fatal(err)
	}
	images := map[string]v1.Image{}
	archs := []string{"amd64", "arm64"}
	for _, arch := range archs {
		image, err := oci.Image{
			Arch: arch, Layers: []oci.Layer{{Comment: "all", Files: files}}, User: "1:1", Entrypoint: "/program",
			Labels: map[string]string{"a": "b"}, Created: time.Unix(1e9, 0),
		}.Assemble()
		if err != nil {
			t.Fatal(err)
		}
		images[arch] = image
	}
	index := oci.Index(images, archs, nil)
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "growvol-node_0.1.0_oci.tar")
	if err := oci.WriteArchive(file, index, imageNode, "0.1.0", time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
	return file, digest
}

// TestPushedImagesCanBePulledByDigest pushes to a registry and reads the image of one architecture.
func TestPushedImagesCanBePulledByDigest(t *testing.T) {
	server := httptest.NewServer(registry.New())
	defer server.Close()
	file, digest := smallArchive(t)
	host := strings.TrimPrefix(server.URL, "http://")
	var out strings.Builder
	args := []string{"--dist=" + filepath.Dir(file), "--registry=" + host + "/a/"}
	if err := pushRelease(t.Context(), args, &out); err != nil {
		t.Fatal(err)
	}
	if want := host + "/a/growvol-node@" + digest.String() + "\n"; out.String() != want {
		t.Errorf("push printed %q, want %q", out.String(), want)
	}
	for _, reference := range []string{digest.String(), "0.1.0"} {
		url := server.URL + "/v2/a/growvol-node/manifests/" + reference
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		got := response.Header.Get("Docker-Content-Digest")
		if response.StatusCode != http.StatusOK || got != digest.String() {
			t.Errorf("GET %s: %s with the digest %s, want %s", reference, response.Status, got, digest)
		}
		_ = response.Body.Close()
	}
}

// TestPushFailsIfRegistryLosesImage checks that a push succeeds only after reading back: this
// registry accepts everything and has nothing.
func TestPushFailsIfRegistryLosesImage(t *testing.T) {
	inner := registry.New()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") && r.Method == http.MethodPut {
			_, _ = io.Copy(io.Discard, r.Body) // lost on purpose
			w.WriteHeader(http.StatusCreated)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	defer server.Close()
	file, _ := smallArchive(t)
	err := pushRelease(t.Context(), []string{
		"--dist=" + filepath.Dir(file), "--registry=" + strings.TrimPrefix(server.URL, "http://"),
	}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "back") {
		t.Errorf("push: got %v, want an error of reading back", err)
	}
}

// TestArchivesAreReproducible writes the same image twice.
func TestArchivesAreReproducible(t *testing.T) {
	var sums []string
	for range 2 {
		file, _ := smallArchive(t)
		sum, err := fileSum(file)
		if err != nil {
			t.Fatal(err)
		}
		sums = append(sums, sum)
	}
	if sums[0] != sums[1] {
		t.Errorf("two archives of the same image differ: %v", sums)
	}
}

func TestChartNamesImagesByDigest(t *testing.T) {
	inRoot(t)
	digests := map[string]string{}
	for i, name := range imageNames() {
		digests[name] = "sha256:" + strings.Repeat(string(rune('a'+i)), 64)
	}
	files, err := build{version: "1.2.3"}.chart("growvol", "r.example.com/g", digests)
	if err != nil {
		t.Fatal(err)
	}
	values := string(files.Content("growvol/values.yaml"))
	for _, name := range imageNames() {
		if want := `repository: ` + name + `, tag: "", digest: "` + digests[name] + `"`; !strings.Contains(values, want) {
			t.Errorf("the values have no %s", want)
		}
	}
	if !strings.Contains(values, "\nimageRegistry: \"r.example.com/g\"\n") {
		t.Error("the values do not name the registry")
	}
	if chart := string(files.Content("growvol/Chart.yaml")); strings.Count(chart, "ersion: 1.2.3\n") != 2 {
		t.Errorf("Chart.yaml does not have the version 1.2.3 twice:\n%s", chart)
	}
}

func TestKustomizationsNameImagesByDigest(t *testing.T) {
	inRoot(t)
	digests := map[string]string{imageController: "sha256:a", imageControllerCeph: "sha256:b", imageNode: "sha256:c"}
	files := tree.New()
	if err := (build{version: "1.2.3", registry: "r"}).addManifests(files, manifestsDir, digests); err != nil {
		t.Fatal(err)
	}
	for backend, want := range map[string]string{
		"cinder": "newName: r/growvol-controller, digest: sha256:a}",
		"rbd":    "newName: r/growvol-controller-ceph, digest: sha256:b}",
		"loop":   "newName: r/growvol-node, digest: sha256:c}",
	} {
		text := string(files.Content("growvol-1.2.3/" + backend + "/kustomization.yaml"))
		if !strings.Contains(text, want) || strings.Contains(text, "newTag") || strings.Contains(text, "Dockerfile") {
			t.Errorf("kustomization of %s: want %s, and no newTag:\n%s", backend, want, text)
		}
	}
}

// TestDocsHaveTheExamplesThatTheyApply checks the archive with which a person without the sources
// follows the installation.
func TestDocsHaveTheExamplesThatTheyApply(t *testing.T) {
	inRoot(t)
	files, err := build{version: "1.2.3"}.docs()
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, name := range files.Names() {
		if !strings.HasSuffix(name, ".md") || strings.HasSuffix(name, "/CHANGELOG.md") {
			continue
		}
		for _, example := range regexp.MustCompile(`\bexamples/[\w./-]+\.yaml`).FindAll(files.Content(name), -1) {
			found++
			if files.Content("growvol-1.2.3/"+string(example)) == nil {
				t.Errorf("%s names %s, which is not in the archive", name, example)
			}
		}
	}
	if found < 20 {
		t.Errorf("the pages name %d examples, want at least 20", found)
	}
}

func TestChangesOfVersion(t *testing.T) {
	const changelog = "# Changelog\n\n## [Unreleased]\n\nnew\n\n## [0.2.0] - 2026-01-01\n\ntwo\n\n## [0.1.0]\n\none\n"
	for version, want := range map[string]string{
		"0.2.0": "two\n", "0.1.0": "one\n", "0.3.0": "unreleased changes.\n\nnew\n",
	} {
		if got, err := changesOf(changelog, version); err != nil || !strings.HasSuffix(got, want) {
			t.Errorf("changes of %s: got %q, %v, want %q", version, got, err, want)
		}
	}
}

func TestBuildRefusesVersionAndForeignDirectory(t *testing.T) {
	for _, version := range []string{"", "v0.1.0", "0.1", "0.1.0+a", "latest"} {
		if err := buildRelease(t.Context(), []string{"--version=" + version, "--out=" + t.TempDir()}); err == nil {
			t.Errorf("--version=%s: the build succeeded, want an error", version)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := emptyDir(dir); err == nil {
		t.Error("emptyDir emptied a directory that is no release's, want an error")
	}
}

// TestSidecarsOfTheNotesAreThoseOfTheTests checks what the notes say: the tests run the sidecars'
// programs in the versions of the chart. The modules of the programs have the images' tags.
func TestSidecarsOfTheNotesAreThoseOfTheTests(t *testing.T) {
	sidecars, err := charts.Sidecars()
	if err != nil {
		t.Fatal(err)
	}
	modules, err := os.ReadFile(filepath.Join("..", "..", "tests", "kubernetes", "programs", "cluster", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	notes := notRun(sidecars)
	for _, name := range []string{"provisioner", "attacher", "resizer", "snapshotter"} {
		tag := sidecars["csi-"+name]
		pattern := `(?m)^\tgithub\.com/kubernetes-csi/external-` + name + `/v\d+ ` + regexp.QuoteMeta(tag) + `$`
		if tag == "" || !regexp.MustCompile(pattern).Match(modules) {
			t.Errorf("the chart has csi-%s %s, and the tests build another version", name, tag)
		}
	}
	for name, tag := range sidecars {
		if !strings.Contains(notes, " "+tag) {
			t.Errorf("the notes do not name the version %s of %s", tag, name)
		}
	}
}
