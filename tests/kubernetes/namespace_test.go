package kubernetes_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/tests/must"
)

// namespace is a Kubernetes namespace for one test, with the calls that the test
// makes in it. A call that fails ends the test.
type namespace struct {
	*testing.T
	name    string
	release string // the Helm release of growvol, and its namespace
	node    string // the kind of node for the pods; empty for the cluster's first node
	host    string // the name of the node for the pods; empty for any of the kind
}

// newNamespace creates a namespace for the test's name. The end of the test deletes
// the namespace and fails the test if the storage still has one of its volumes.
func newNamespace(t *testing.T) namespace {
	t.Helper()
	skipWithoutCluster(t)
	return newNamespaceFor(t, "growvol", "")
}

// newNamespaceFor is newNamespace for a release of growvol and a kind of node.
func newNamespaceFor(t *testing.T, release, node string) namespace {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	s := namespace{T: t, name: name, release: release, node: node}
	// An earlier run may have deleted it just now. The label shows the script up that a test was
	// killed.
	s.must(kubectl(t.Context(), "wait", "--for=delete", "namespace/"+name, "--timeout="+waitTimeout.String()))
	manifest := `{apiVersion: v1, kind: Namespace, metadata: {name: ` + name + `, labels: {growvol.io/test: ""}}}`
	s.must(runInCluster(t.Context(), manifest, "kubectl", "create", "-f", "-"))
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if t.Failed() {
			s.logState(ctx)
		}
		s.deleteAndCheck(ctx)
	})
	// Before the service account exists, pods are refused.
	s.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout="+waitTimeout.String())
	return s
}

// logState logs the namespace's objects and events, and the warnings and errors of
// growvol and its sidecars.
func (s namespace) logState(ctx context.Context) {
	warning := regexp.MustCompile(`level=(WARN|ERROR)|\] [EF][0-9]{4} `) // the formats of growvol and the sidecars
	for _, args := range [][]string{
		{"get", "pods,persistentvolumeclaims,volumesnapshots", "--namespace", s.name, "-o", "wide"},
		{
			"get", "persistentvolumeclaims", "--namespace", s.name,
			"-o", "jsonpath={range .items[*]}{.metadata.name} {.status}{'\\n'}{end}",
		},
		{
			"get", "events", "--namespace", s.name, "--sort-by=.lastTimestamp", "-o", "custom-columns=T:.lastTimestamp," +
				"KIND:.involvedObject.kind,NAME:.involvedObject.name,REASON:.reason,MESSAGE:.message",
		},
		{
			"logs", "--namespace", s.release, "--selector", "app.kubernetes.io/name=growvol",
			"--all-containers", "--prefix", "--tail=200",
		},
	} {
		out, err := kubectl(ctx, args...)
		if args[0] == "logs" {
			lines := slices.DeleteFunc(strings.Split(out, "\n"), func(line string) bool { return !warning.MatchString(line) })
			out = strings.Join(lines[max(0, len(lines)-20):], "\n")
		}
		s.Logf("kubectl %s\n%s", strings.Join(args, " "), out)
		if err != nil {
			s.Log(err)
		}
	}
}

// deleteAndCheck deletes the namespace with its volumes and snapshots, and fails the
// test if Kubernetes or the loop backend still has one of them.
func (s namespace) deleteAndCheck(ctx context.Context) {
	objects, handles, err := s.listStored(ctx)
	if err != nil {
		s.Error(err)
	}
	// The namespace alone would take longer: Kubernetes waits 5 s before it deletes what is in one,
	// and again if an object has a finalizer, as claims have.
	for _, args := range [][]string{
		{"statefulsets,pods,persistentvolumeclaims,volumesnapshots", "--all", "--namespace", s.name},
		{"namespace", s.name, "--wait=false"},
	} {
		args = append([]string{"delete", "--timeout=" + waitTimeout.String()}, args...)
		if _, err := kubectl(ctx, args...); err != nil {
			s.Error(err)
			return
		}
	}
	err = eventually(ctx, waitTimeout, func(ctx context.Context) error {
		left, _, err := s.listStored(ctx)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("Kubernetes still has %s", left)
		}
		return err
	})
	if err != nil {
		s.Error(err)
		return
	}
	// The directories of the loop backend, and the files of loop devices.
	stored, err := runInCluster(ctx, "", "sh", "-c",
		"ls /var/lib/growvol/loop/* && losetup --noheadings --output NAME,BACK-FILE")
	if err != nil {
		s.Error(err)
	}
	for i, handle := range handles {
		for line := range strings.Lines(stored) {
			if strings.Contains(line, handle) {
				s.Errorf("%s is deleted, but the storage still has it: %s", objects[i], strings.TrimSpace(line))
			}
		}
	}
}

// listStored returns the names of the namespace's PersistentVolumes, VolumeSnapshotContents and
// VolumeGroupSnapshotContents, and the driver's handle of each.
func (s namespace) listStored(ctx context.Context) (objects, handles []string, err error) {
	// An object has one field of those that follow each other.
	out, err := kubectl(ctx, "get", "persistentvolumes,volumesnapshotcontents,volumegroupsnapshotcontents", "-o",
		"jsonpath={range .items[*]}{.kind}/{.metadata.name},"+
			"{.spec.claimRef.namespace}{.spec.volumeSnapshotRef.namespace}{.spec.volumeGroupSnapshotRef.namespace},"+
			"{.spec.csi.volumeHandle}{.status.snapshotHandle}{.status.volumeGroupSnapshotHandle}{'\\n'}{end}")
	if err != nil {
		return nil, nil, err
	}
	for line := range strings.Lines(out) {
		fields := strings.Split(strings.TrimSpace(line), ",")
		if len(fields) != 3 {
			return nil, nil, fmt.Errorf("got the line %q of kubectl, want an object, its namespace and its handle", line)
		}
		if fields[1] != s.name {
			continue
		}
		objects = append(objects, fields[0])
		_, name, _ := strings.Cut(fields[0], "/")
		handles = append(handles, cmp.Or(fields[2], name)) // without a handle, the driver has not answered yet
	}
	return objects, handles, nil
}

// must ends the test if err is not nil, and returns out otherwise.
func (s namespace) must(out string, err error) string {
	s.Helper()
	must.Succeed(s.T, err)
	return out
}

// kubectl runs kubectl in the namespace.
func (s namespace) kubectl(args ...string) string {
	s.Helper()
	return s.must(kubectl(s.Context(), append([]string{"--namespace", s.name}, args...)...))
}

// exec runs a command in a pod and returns its output. It waits for a kubelet that was just
// started: until it has its pods from the API server, it says that they do not exist.
func (s namespace) exec(pod string, command ...string) (out string, err error) {
	s.Helper()
	args := append([]string{"--namespace", s.name, "exec", pod, "--"}, command...)
	isStarting := regexp.MustCompile(`unable to upgrade connection: pod does not exist|error dialing backend`)
	waited := eventually(s.Context(), waitTimeout, func(ctx context.Context) error {
		if out, err = kubectl(ctx, args...); err != nil && isStarting.MatchString(err.Error()) {
			return err
		}
		return nil
	})
	return out, cmp.Or(waited, err)
}

// apply applies a manifest.
func (s namespace) apply(manifest string) {
	s.Helper()
	s.must(runInCluster(s.Context(), manifest, "kubectl", "--namespace", s.name, "apply", "-f", "-"))
}

// get reads an object, such as "pvc/name".
func (s namespace) get(object string, to any) {
	s.Helper()
	must.Succeed(s.T, json.Unmarshal([]byte(s.kubectl("get", object, "-o", "json")), to))
}

// awaitField waits until the field of the object has the value.
func (s namespace) awaitField(object, field, value string) {
	s.Helper()
	_, err := kubectl(s.Context(), "--namespace", s.name,
		"wait", "--for=jsonpath="+field+"="+value, object, "--timeout="+waitTimeout.String())
	if err != nil {
		got := s.kubectl("get", object, "-o", "jsonpath="+field)
		s.Fatalf("%s: %s is %q, want %q: %v", object, field, got, value, err)
	}
}

// eventually repeats a check until it passes, and ends the test after waitTimeout.
func (s namespace) eventually(check func(context.Context) error) {
	s.Helper()
	must.Succeed(s.T, eventually(s.Context(), waitTimeout, check))
}
