// Package kubernetes_test drives growvol where its users meet it: in a real
// Kubernetes, with the real sidecars, through kubectl. The cluster is brought
// up by the program `up` of this directory.
package kubernetes_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/tests/csiclient"
)

// clusterVariable names the directory of a running cluster.
const clusterVariable = "GROWVOL_KUBERNETES_DIR"

// patience bounds each wait for something that takes seconds: longer than the
// pauses that kubelet makes between attempts, which reach two minutes.
const patience = 5 * time.Minute

// in runs a command in the namespaces of the cluster.
func in(ctx context.Context, stdin string, args ...string) (string, error) {
	return program(ctx, stdin, "in", args...)
}

// program runs one of the programs beside this file.
func program(ctx context.Context, stdin, name string, args ...string) (string, error) {
	return programWithin(ctx, 2*patience, stdin, name, args...)
}

// programWithin is program with a time limit.
func programWithin(ctx context.Context, limit time.Duration, stdin, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(here, name), args...) //nolint:gosec // the rig's own program
	cmd.Stdin = strings.NewReader(stdin)
	cmd.WaitDelay = time.Second // for its children, which are not killed and may hold its output open
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s%s", name, strings.Join(args, " "), err, out, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// kubectl runs it as the administrator of the cluster.
func kubectl(ctx context.Context, args ...string) (string, error) {
	return in(ctx, "", append([]string{"kubectl"}, args...)...)
}

// root is the directory of the module.
func (s space) root() string {
	s.Helper()
	root, err := csiclient.ModuleRoot(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	return root
}

// needCluster skips the test where no cluster runs.
func needCluster(t *testing.T) {
	t.Helper()
	if os.Getenv(clusterVariable) == "" {
		t.Skipf("%s does not name a running cluster; `make cluster-test` brings one up and tests with it", clusterVariable)
	}
}

// space is a namespace of Kubernetes that belongs to one test.
type space struct {
	*testing.T
	name    string
	release string // of growvol, which serves it; its namespace has this name too
	node    string // kind of node that its pods run on; empty: the cluster's first node
}

// newSpace makes a namespace. At the end of the test everything in it is
// deleted, and nothing of it must be left in the storage.
func newSpace(t *testing.T) space {
	t.Helper()
	needCluster(t)
	return newSpaceOf(t, "growvol", "")
}

// newSpaceOf is newSpace for a release of growvol and a kind of node.
func newSpaceOf(t *testing.T, release, node string) space {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	s := space{T: t, name: name, release: release, node: node}
	// By its label, `up` knows what a test that was killed has left.
	s.must(in(t.Context(), "{apiVersion: v1, kind: Namespace, metadata: {name: "+name+", labels: {growvol.io/test: \"\"}}}", "kubectl", "create", "-f", "-"))
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if t.Failed() {
			s.describe(ctx)
		}
		s.empty(ctx)
	})
	s.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout="+patience.String()) // pods are refused before
	return s
}

// describe logs what a human would look at.
func (s space) describe(ctx context.Context) {
	complaint := regexp.MustCompile(`level=(WARN|ERROR)|\] [EF][0-9]{4} `) // of growvol, of its sidecars
	for _, args := range [][]string{
		{"get", "pods,persistentvolumeclaims,volumesnapshots", "--namespace", s.name, "-o", "wide"},
		{"get", "persistentvolumeclaims", "--namespace", s.name, "-o", "jsonpath={range .items[*]}{.metadata.name} {.status}{'\\n'}{end}"},
		{"get", "events", "--namespace", s.name, "--sort-by=.lastTimestamp", "-o", "custom-columns=T:.lastTimestamp,KIND:.involvedObject.kind,NAME:.involvedObject.name,REASON:.reason,MESSAGE:.message"},
		{"logs", "--namespace", s.release, "--selector", "app.kubernetes.io/name=growvol", "--all-containers", "--prefix", "--tail=200"},
	} {
		out, err := kubectl(ctx, args...)
		if args[0] == "logs" {
			lines := slices.DeleteFunc(strings.Split(out, "\n"), func(line string) bool { return !complaint.MatchString(line) })
			out = strings.Join(lines[max(0, len(lines)-20):], "\n")
		}
		s.Logf("kubectl %s\n%s", strings.Join(args, " "), out)
		if err != nil {
			s.Log(err)
		}
	}
}

// empty deletes the namespace; its volumes and snapshots go with it, from the
// storage too.
func (s space) empty(ctx context.Context) {
	objects, handles, err := s.stored(ctx)
	if err != nil {
		s.Error(err)
	}
	if _, err := kubectl(ctx, "delete", "namespace", s.name, "--timeout="+patience.String()); err != nil {
		s.Error(err)
		return
	}
	err = eventually(ctx, patience, func(ctx context.Context) error {
		left, _, err := s.stored(ctx)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("objects of Kubernetes are left: %s", left)
		}
		return err
	})
	if err != nil {
		s.Error(err)
		return
	}
	// Directories of the loop backend, and the files behind loop devices.
	kept, err := in(ctx, "", "sh", "-c", "ls /var/lib/growvol/loop/* && losetup --noheadings --output NAME,BACK-FILE")
	if err != nil {
		s.Error(err)
	}
	for i, handle := range handles {
		for line := range strings.Lines(kept) {
			if strings.Contains(line, handle) {
				s.Errorf("%s is deleted, and the storage still has it: %s", objects[i], strings.TrimSpace(line))
			}
		}
	}
}

// stored returns the volumes and snapshots of the namespace, as names of
// objects, and how the driver calls each.
func (s space) stored(ctx context.Context) (objects, handles []string, err error) {
	for _, query := range [][2]string{
		{"persistentvolumes", "jsonpath={range .items[?(@.spec.claimRef.namespace=='" + s.name + "')]}{.metadata.name} {.spec.csi.volumeHandle}{'\\n'}{end}"},
		{"volumesnapshotcontents", "jsonpath={range .items[?(@.spec.volumeSnapshotRef.namespace=='" + s.name + "')]}{.metadata.name} {.status.snapshotHandle}{'\\n'}{end}"},
	} {
		out, err := kubectl(ctx, "get", query[0], "-o", query[1])
		if err != nil {
			return nil, nil, err
		}
		for line := range strings.Lines(out) {
			object, handle, _ := strings.Cut(strings.TrimSpace(line), " ")
			if objects = append(objects, query[0]+"/"+object); handle == "" {
				handle = object // the driver has not answered yet
			}
			handles = append(handles, handle)
		}
	}
	return objects, handles, nil
}

// must ends the test at an error, and passes on what was answered.
func (s space) must(out string, err error) string {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
	return out
}

// kubectl runs it in the namespace.
func (s space) kubectl(args ...string) string {
	s.Helper()
	return s.must(kubectl(s.Context(), append([]string{"--namespace", s.name}, args...)...))
}

// apply creates what the manifest says.
func (s space) apply(manifest string) {
	s.Helper()
	s.must(in(s.Context(), manifest, "kubectl", "--namespace", s.name, "apply", "-f", "-"))
}

// read fetches an object, as "pvc/name".
func (s space) read(object string, to any) {
	s.Helper()
	if err := json.Unmarshal([]byte(s.kubectl("get", object, "-o", "json")), to); err != nil {
		s.Fatal(err)
	}
}

// await waits until the field of the object has the value.
func (s space) await(object, field, value string) {
	s.Helper()
	if _, err := kubectl(s.Context(), "--namespace", s.name, "wait", "--for=jsonpath="+field+"="+value, object, "--timeout="+patience.String()); err != nil {
		s.Fatalf("%s: %s is %q, want %q: %v", object, field, s.kubectl("get", object, "-o", "jsonpath="+field), value, err)
	}
}

// eventually repeats a check until it passes, and returns its last error if
// it does not within the time.
func eventually(ctx context.Context, limit time.Duration, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error
	for {
		err := check(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() == nil || last == nil: // else the check itself was cut off
			last = err
		}
		if operation.Sleep(ctx, 300*time.Millisecond) != nil {
			return fmt.Errorf("not within %s: %w", limit, last)
		}
	}
}

// eventually ends the test if the check does not pass within the time.
func (s space) eventually(check func(context.Context) error) {
	s.Helper()
	if err := eventually(s.Context(), patience, check); err != nil {
		s.Fatal(err)
	}
}
