package kubernetes_test

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/claim/bundle/bundletest"
	"github.com/growvol/growvol/tests/must"
)

// plantedSecret is what the test hides in the cluster, where no support bundle may have it.
const plantedSecret = "hunter2zebra"

// unpackBundle returns the contents of the archive's files, by name without the directory.
func unpackBundle(t *testing.T, path string) map[string]string {
	t.Helper()
	files, _ := bundletest.Unpack(t, must.Value(os.ReadFile(path))(t))
	return files
}

// plantSecrets starts a pod with the claim data that has the secret in its environment, arguments
// and annotations, and writes events of the claim with it.
func (s namespace) plantSecrets() {
	s.Helper()
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi"})
	pod := s.podManifest("writer", "data", false, "pause")
	pod = strings.Replace(pod, "{name: writer}", `{name: writer, annotations: {note: "`+plantedSecret+`"}}`, 1)
	pod = strings.Replace(pod, "      image:", "      env: [{name: A, value: "+plantedSecret+"}]\n      image:", 1)
	s.apply(pod) // kubectl adds the annotation last-applied-configuration, which has all of it
	s.awaitReady("writer")
	s.kubectl("annotate", "pvc", "data", "note="+plantedSecret, "volume.kubernetes.io/test=password: "+plantedSecret)
	uid := s.kubectl("get", "pvc", "data", "-o", "jsonpath={.metadata.uid}")
	s.apply(`apiVersion: v1
kind: Event
metadata: {name: planted}
involvedObject: {apiVersion: v1, kind: PersistentVolumeClaim, namespace: ` + s.name + `, name: data, uid: ` + uid + `}
type: Warning
reason: VolumeResizeFailed
message: "visible-event Authorization: Bearer ` + plantedSecret + `"
`)
	s.apply(`{apiVersion: v1, kind: Secret, metadata: {name: planted}, stringData: {a: ` + plantedSecret + `}}`)
	s.apply(`{apiVersion: v1, kind: ConfigMap, metadata: {name: planted}, data: {a: ` + plantedSecret + `}}`)
}

// A support bundle of the real cluster has what a maintainer needs, and no secret.
func TestKubectlSupportBundle(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.plantSecrets()
	path := filepath.Join(t.TempDir(), "bundle.tar.gz")
	s.wantGrowvol(0, []string{"GET /api/v1/nodes", "is stored, without secrets"}, "support-bundle", "data", "--dry-run")
	_, out := s.growvol("support-bundle", "data", "-f", path)
	if !strings.Contains(out, path+" is written") || strings.Contains(out, "not read: ") {
		t.Fatalf("the bundle is not written, or the administrator cannot read something")
	}
	if info := must.Value(os.Stat(path))(t); info.Mode() != 0o600 {
		t.Errorf("got the mode %o, want 600", info.Mode())
	}
	s.wantGrowvol(1, []string{"exists", "--force"}, "support-bundle", "data", "-f", path)

	files := unpackBundle(t, path)
	for name, content := range files {
		if strings.Contains(content, plantedSecret) || strings.Contains(content, "eyJhbGciOi") {
			t.Errorf("%s has a secret", name)
		}
	}
	for name, want := range map[string]string{
		"kubernetes.json":                    `"gitVersion"`,
		"plugin.json":                        `"goVersion"`,
		"cluster/nodes.yaml":                 "kernelVersion: ",
		"cluster/csidrivers.yaml":            "loop.growvol.io",
		"cluster/csinodes.yaml":              "loop.growvol.io",
		"cluster/storageclasses.yaml":        classXFS,
		"driver/deployments.yaml":            "growvol-controller",
		"driver/daemonsets.yaml":             "growvol-node",
		"driver/leases/growvol.yaml":         "holderIdentity: ",
		"claims/persistentvolumeclaims.yaml": "name: data",
		"claims/persistentvolumes.yaml":      "volumeHandle: ",
		"claims/volumeattachments.yaml":      "attached: true",
		"claims/pods.yaml":                   "claimName: data",
		"claims/events.yaml":                 "visible-event Authorization: [redacted]",
		"claims/status.json":                 `"kind": "ClaimStatus"`,
		"doctor.txt":                         "ok     CSIDriver",
		"MANIFEST.txt":                       "data of the namespace " + s.name,
	} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s does not contain %q:\n%.2000s", name, want, files[name])
		}
	}
	for pattern, want := range map[string]string{
		`^driver/logs/growvol/growvol-controller-[^/]+/growvol\.log$`:     "level=",
		`^driver/logs/growvol/growvol-controller-[^/]+/csi-resizer\.log$`: "",
		`^driver/logs/growvol/growvol-node-[^/]+/growvol\.log$`:           "level=",
		`^driver/metrics/growvol/growvol-node-[^/]+\.txt$`:                "growvol_node_requirement_met",
		`^driver/metrics/growvol/growvol-controller-[^/]+\.txt$`:          "growvol_",
	} {
		found := false
		for name, content := range files {
			found = found || regexp.MustCompile(pattern).MatchString(name) && strings.Contains(content, want)
		}
		if !found {
			t.Errorf("no file with a name like %s contains %q", pattern, want)
		}
	}
}

// Without rights, the manifest names them, and the rest is there.
func TestKubectlSupportBundleNamesMissingRights(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi"})
	s.allowClaims("reader")
	path := filepath.Join(t.TempDir(), "bundle.tar.gz")
	s.wantGrowvol(0, []string{"is written", "not read: cluster/nodes.yaml: the right to list nodes is missing"},
		"support-bundle", "-f", path, "--as=reader")
	files := unpackBundle(t, path)
	for name, want := range map[string]string{
		"claims/persistentvolumeclaims.yaml": "name: data",
		"claims/status.json":                 "the right to get persistentvolumes is missing",
		"MANIFEST.txt":                       "the right to list deployments.apps is missing",
	} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s does not contain %q:\n%s", name, want, files[name])
		}
	}
}

// The doctor finds no fault of the installation of this cluster, and says what a user without
// rights lacks.
func TestKubectlDoctorChecksTheInstallation(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.wantGrowvol(0, []string{
		"ok     controller", "ok     node plugin", "ok     CSIDriver", "ok     CSINode", "ok     sidecars' rights",
		"the ServiceAccount growvol/growvol-controller has the rights", "ok     your rights",
	}, "doctor")
	s.apply(`apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: ` + s.name + `}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: ` + s.name + `}]
`)
	t.Cleanup(func() {
		s.must(kubectl(context.WithoutCancel(t.Context()), "delete", "clusterrolebinding", s.name))
	})
	s.wantGrowvol(0, []string{
		"warn   your rights", "patch persistentvolumeclaims", "the right to create subjectaccessreviews",
		"the right to get csidrivers.storage.k8s.io is missing",
	}, "doctor", "--as="+s.name)
}

// A class that does not allow expansion is part of the sentence of status.
func TestKubectlStatusNamesTheClass(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.createClaim(claim{name: "fixed", class: classFixed, size: "1Gi"})
	s.wantGrowvol(0, []string{"does not allow expansion", "kubectl patch storageclass " + classFixed}, "status", "fixed")
}
