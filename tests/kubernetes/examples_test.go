package kubernetes_test

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/growvol/growvol/tests/co"
)

// Every example is applied, in the order in which a reader would, and does
// what it says. Those of Cinder are shown to the API server, which checks them
// in full.
func TestExamples(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	e := readExamples(s)
	t.Cleanup(func() {
		for _, class := range []string{"storageclass/growvol", "volumesnapshotclass/growvol"} {
			if _, err := kubectl(context.WithoutCancel(t.Context()), "delete", "--ignore-not-found", class); err != nil {
				t.Error(err)
			}
		}
	})
	// First: its classes have the same names.
	for name := range maps.Clone(e.text) {
		if strings.HasPrefix(name, "cinder/") {
			s.must(in(t.Context(), e.take(name), "kubectl", "apply", "--dry-run=server", "-f", "-"))
		}
	}
	s.apply(e.take("loop/storageclass.yaml"))
	s.apply(e.take("loop/snapshotclass.yaml"))

	s.apply(e.take("database.yaml"))
	s.ready("database")
	undisturbed := s.undisturbed()
	s.apply(e.take("expansion.yaml"))
	s.grown("database", "2Gi")
	undisturbed()
	s.apply(e.take("snapshot.yaml"))
	s.await("volumesnapshot/database", "{.status.readyToUse}", "true")
	for _, name := range []string{"restore.yaml", "clone.yaml", "raw-block.yaml", "ephemeral.yaml", "statefulset.yaml"} {
		s.apply(e.take(name))
	}
	s.ready("database-restored", "database-clone", "raw", "scratch")
	s.kubectl("rollout", "status", "statefulset/log", "--timeout="+patience.String())
	for _, pod := range []string{"database-restored", "database-clone"} {
		if size := s.kubectl("exec", pod, "--", "df", "-m", "/data"); !strings.Contains(size, " 30") && !strings.Contains(size, " 29") {
			t.Errorf("%s asks for 3Gi; df says\n%s", pod, size)
		}
		if log := s.kubectl("exec", pod, "--", "cat", "/data/log"); log == "" {
			t.Errorf("%s has not the log that the database wrote", pod)
		}
	}

	for name := range e.text {
		t.Errorf("the example %s is not tried", name)
	}
}

// examples are the manifests that are still to be tried, by file name.
type examples struct {
	space
	text map[string]string
}

// readExamples reads them, with an image that the cluster has and, where the
// kernel does not let ext4 grow in use, another filesystem.
func readExamples(s space) examples {
	s.Helper()
	root, err := co.Root(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	replace := []string{"image: busybox:1.37", "image: localhost/busybox:test"}
	if !capable(s.T) {
		replace = append(replace, "fstype: ext4", "fstype: xfs")
	}
	dir := filepath.Join(root, "examples")
	e := examples{s, map[string]string{}}
	for _, pattern := range []string{"*.yaml", "*/*.yaml"} {
		paths, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			s.Fatal(err)
		}
		for _, path := range paths {
			content, err := os.ReadFile(path) //nolint:gosec // a file of this repository
			if err != nil {
				s.Fatal(err)
			}
			name, err := filepath.Rel(dir, path)
			if err != nil {
				s.Fatal(err)
			}
			e.text[name] = strings.NewReplacer(replace...).Replace(string(content))
		}
	}
	return e
}

// take returns an example and strikes it off.
func (e examples) take(name string) string {
	e.Helper()
	text, found := e.text[name]
	if !found {
		e.Fatalf("there is no example %s", name)
	}
	delete(e.text, name)
	return text
}

// The plain manifests are what the API server takes.
func TestPlainManifests(t *testing.T) {
	needCluster(t)
	t.Parallel()
	root, err := co.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := filepath.Glob(filepath.Join(root, "deploy", "kubernetes", "*", "kustomization.yaml"))
	if err != nil || len(dirs) == 0 {
		t.Fatalf("there are no plain manifests: %v", err)
	}
	for _, dir := range dirs {
		if out, err := kubectl(t.Context(), "apply", "--server-side", "--force-conflicts", "--dry-run=server", "-k", filepath.Dir(dir)); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}
