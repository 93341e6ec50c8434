package kubernetes_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/csiclient"
)

// Every example is applied, in the order in which a reader would, and does
// what it says. Those of Cinder are shown to the API server, which checks them
// in full, and so is that of encrypted volumes.
func TestExamples(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	var replace []string
	if !capable(t) {
		replace = []string{"fstype: ext4", "fstype: xfs"}
	}
	e := readExamples(s, replace...)
	deletedAtEnd(t, "storageclass/growvol", "volumesnapshotclass/growvol")
	// First: its classes have the same names.
	for name := range maps.Clone(e.text) {
		if strings.HasPrefix(name, "cinder/") {
			s.must(in(t.Context(), e.take(name), "kubectl", "apply", "--dry-run=server", "-f", "-"))
		}
	}
	// Volumes of this class need dm-crypt, which not every machine has.
	s.must(in(t.Context(), e.take("loop/encrypted.yaml"), "kubectl", "apply", "--dry-run=server", "-f", "-"))
	s.apply(e.take("loop/storageclass.yaml"))
	s.apply(e.take("loop/snapshotclass.yaml"))

	s.apply(e.take("database.yaml"))
	s.ready("database")
	undisturbed := s.undisturbed()
	s.apply(e.take("expansion.yaml"))
	s.grown("database", "2Gi")
	s.wantFilesystem("database", 2*volume.GiB)
	undisturbed()
	s.synced("database")
	s.apply(e.take("snapshot.yaml"))
	s.await("volumesnapshot/database", "{.status.readyToUse}", "true")
	for _, name := range []string{"restore.yaml", "clone.yaml", "raw-block.yaml", "ephemeral.yaml", "statefulset.yaml"} {
		s.apply(e.take(name))
	}
	s.ready("database-restored", "database-clone", "raw", "scratch")
	s.kubectl("rollout", "status", "statefulset/log", "--timeout="+patience.String())
	for _, pod := range []string{"database-restored", "database-clone"} {
		s.wantFilesystem(pod, 3*volume.GiB)
		if log := s.kubectl("exec", pod, "--", "cat", "/data/log"); log == "" {
			t.Errorf("%s has not the log that the database wrote", pod)
		}
	}

	for name := range e.text {
		t.Errorf("the example %s is not tried", name)
	}
}

// synced waits until the pod of database.yaml has brought its first line to the
// disk, where a snapshot has it: the pod prints when it has.
func (s space) synced(pod string) {
	s.Helper()
	s.eventually(func(context.Context) error {
		if s.kubectl("logs", pod) == "" {
			return fmt.Errorf("pod %s has printed nothing", pod)
		}
		return nil
	})
}

// deletedAtEnd deletes objects that belong to no namespace, at the end of the
// test, if they are there.
func deletedAtEnd(t *testing.T, objects ...string) {
	t.Helper()
	t.Cleanup(func() {
		for _, o := range objects {
			if _, err := kubectl(context.WithoutCancel(t.Context()), "delete", "--ignore-not-found", o); err != nil {
				t.Error(err)
			}
		}
	})
}

// wantFilesystem demands that df in the pod shows a volume of this size.
func (s space) wantFilesystem(pod string, size volume.Size) {
	s.Helper()
	out := s.kubectl("exec", pod, "--", "df", "-P", "-k", "/data")
	var kib int64
	if _, numbers, found := strings.Cut(out, "\n"); !found {
		s.Fatalf("df in %s says %q", pod, out)
	} else if _, err := fmt.Sscanf(numbers, "%s %d", new(string), &kib); err != nil {
		s.Fatalf("df in %s says %q: %v", pod, out, err)
	}
	if kib<<10 < least(size) || kib<<10 > size.Bytes() {
		s.Errorf("%s: the filesystem should have %s, and df says\n%s", pod, size, out)
	}
}

// examples are the manifests that are still to be tried, by file name.
type examples struct {
	space
	text map[string]string
}

// readExamples reads them, with an image that the cluster has and further
// replacements of text.
func readExamples(s space, replace ...string) examples {
	s.Helper()
	replace = append(replace, "image: busybox:1.37", "image: localhost/busybox:test")
	dir := filepath.Join(s.root(), "examples")
	e := examples{s, map[string]string{}}
	for _, pattern := range []string{"*.yaml", "cinder/*.yaml", "loop/*.yaml"} {
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
	root, err := csiclient.ModuleRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := filepath.Glob(filepath.Join(root, "deploy", "kubernetes", "*", "kustomization.yaml"))
	if err != nil || len(dirs) == 0 {
		t.Fatalf("there are no plain manifests: %v", err)
	}
	for _, dir := range dirs {
		needNamespace(t, filepath.Join(filepath.Dir(dir), "namespace.yaml"))
		if out, err := kubectl(t.Context(), "apply", "--server-side", "--force-conflicts", "--dry-run=server", "-k", filepath.Dir(dir)); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

// needNamespace makes the namespace for the time of the test, if it is not
// there: the API server does not check objects for one that is missing.
func needNamespace(t *testing.T, manifest string) {
	t.Helper()
	_, err := kubectl(t.Context(), "create", "-f", manifest)
	switch {
	case err == nil:
		t.Cleanup(func() {
			if _, err := kubectl(context.WithoutCancel(t.Context()), "delete", "-f", manifest); err != nil {
				t.Error(err)
			}
		})
	case !strings.Contains(err.Error(), "AlreadyExists"):
		t.Fatal(err)
	}
}
