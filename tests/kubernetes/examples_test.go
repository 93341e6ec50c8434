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
	"github.com/growvol/growvol/tests/must"
)

// Every example is applied, in the order of a reader, and does what it describes.
// The examples for Cinder, for Ceph and for encrypted volumes are only validated by the API
// server.
func TestExamplesWork(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	var replace []string
	if !hasSysResource(t) {
		replace = []string{"fstype: ext4", "fstype: xfs"}
	}
	e := readExamples(s, replace...)
	deleteAtEnd(t, "storageclass/growvol", "volumesnapshotclass/growvol")
	// Before the others are applied, because their classes have the same names.
	for name := range maps.Clone(e.text) {
		if strings.HasPrefix(name, "cinder/") || strings.HasPrefix(name, "rbd/") {
			s.must(runInCluster(t.Context(), e.take(name), "kubectl", "apply", "--dry-run=server", "-f", "-"))
		}
	}
	// Volumes of this class need dm-crypt, which the machine may lack.
	s.must(runInCluster(t.Context(), e.take("loop/encrypted.yaml"), "kubectl", "apply", "--dry-run=server", "-f", "-"))
	s.apply(e.take("loop/storageclass.yaml"))
	s.apply(e.take("loop/snapshotclass.yaml"))

	s.apply(e.take("database.yaml"))
	s.awaitReady("database")
	wantSamePods := s.recordPods()
	s.apply(e.take("expansion.yaml"))
	s.awaitExpanded("database", "2Gi")
	s.wantDF("database", 2*volume.GiB)
	wantSamePods()
	s.awaitOutput("database")
	s.apply(e.take("snapshot.yaml"))
	s.awaitField("volumesnapshot/database", "{.status.readyToUse}", "true")
	for _, name := range []string{"restore.yaml", "clone.yaml", "raw-block.yaml", "ephemeral.yaml", "statefulset.yaml"} {
		s.apply(e.take(name))
	}
	s.awaitReady("database-restored", "database-clone", "raw", "scratch")
	s.kubectl("rollout", "status", "statefulset/log", "--timeout="+waitTimeout.String())
	for _, pod := range []string{"database-restored", "database-clone"} {
		s.wantDF(pod, 3*volume.GiB)
		if log := s.must(s.exec(pod, "cat", "/data/log")); log == "" {
			t.Errorf("%s does not have the log that the database wrote", pod)
		}
	}

	for name := range e.text {
		t.Errorf("the example %s is not tested", name)
	}
}

// awaitOutput waits until the pod prints something. The pod of database.yaml prints
// when its first line is on the disk, so that a snapshot contains the line.
func (s namespace) awaitOutput(pod string) {
	s.Helper()
	s.eventually(func(context.Context) error {
		if s.kubectl("logs", pod) == "" {
			return fmt.Errorf("the pod %s has printed nothing", pod)
		}
		return nil
	})
}

// deleteAtEnd deletes objects that are in no namespace, if they exist, at the end of
// the test.
func deleteAtEnd(t *testing.T, objects ...string) {
	t.Helper()
	t.Cleanup(func() {
		for _, o := range objects {
			if _, err := kubectl(context.WithoutCancel(t.Context()), "delete", "--ignore-not-found", o); err != nil {
				t.Error(err)
			}
		}
	})
}

// wantDF fails the test unless df in the pod shows a filesystem that fills a volume
// of the size.
func (s namespace) wantDF(pod string, size volume.Size) {
	s.Helper()
	out := s.must(s.exec(pod, "df", "-P", "-k", "/data"))
	var kib int64
	_, numbers, _ := strings.Cut(out, "\n")
	if _, err := fmt.Sscanf(numbers, "%s %d", new(string), &kib); err != nil {
		s.Fatalf("df in %s: cannot parse %q: %v", pod, out, err)
	}
	if kib<<10 < minFilesystemSize(size) || kib<<10 > size.Bytes() {
		s.Errorf("df in %s: got %d KiB, want about %s:\n%s", pod, kib, size, out)
	}
}

// examples are the manifests that no test has taken yet, by file name.
type examples struct {
	namespace
	text map[string]string
}

// readExamples reads the examples, replaces their image by one that the cluster has,
// and makes the further replacements of text (old, new, …).
func readExamples(s namespace, replace ...string) examples {
	s.Helper()
	replace = append(replace, "image: busybox:1.37", "image: localhost/busybox:test")
	dir := filepath.Join(moduleRoot(s.T), "examples")
	e := examples{s, map[string]string{}}
	for _, pattern := range []string{"*.yaml", "cinder/*.yaml", "loop/*.yaml", "rbd/*.yaml"} {
		for _, path := range must.Value(filepath.Glob(filepath.Join(dir, pattern)))(s.T) {
			content := must.Value(os.ReadFile(path))(s.T) //nolint:gosec // a file of this repository
			name := must.Value(filepath.Rel(dir, path))(s.T)
			e.text[name] = strings.NewReplacer(replace...).Replace(string(content))
		}
	}
	return e
}

// take returns an example and removes it from the examples.
func (e examples) take(name string) string {
	e.Helper()
	text, found := e.text[name]
	if !found {
		e.Fatalf("no example is named %s", name)
	}
	delete(e.text, name)
	return text
}

// The API server accepts the plain manifests.
func TestPlainManifestsAreValid(t *testing.T) {
	skipWithoutCluster(t)
	t.Parallel()
	files := must.Value(filepath.Glob(filepath.Join(moduleRoot(t), "deploy", "kubernetes", "*", "kustomization.yaml")))(t)
	if len(files) == 0 {
		t.Fatal("got no plain manifests in deploy/kubernetes")
	}
	for _, file := range files {
		dir := filepath.Dir(file)
		createMissingNamespace(t, filepath.Join(dir, "namespace.yaml"))
		out, err := kubectl(t.Context(), "apply", "--server-side", "--force-conflicts", "--dry-run=server", "-k", dir)
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

// createMissingNamespace creates the namespace until the end of the test, if it does
// not exist: the API server validates no objects for a missing one.
func createMissingNamespace(t *testing.T, manifest string) {
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
