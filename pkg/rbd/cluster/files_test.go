package cluster

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// cephCSIConfig is a config.json with fields of ceph-csi that do not concern this driver.
const cephCSIConfig = `[
  {"clusterID": "a", "monitors": ["10.0.0.1:6789", "10.0.0.2:6789"],
   "rbd": {"netNamespaceFilePath": "", "radosNamespace": "tenant", "mirrorDaemonCount": 1},
   "cephFS": {"subvolumeGroup": "csi"}, "readAffinity": {"enabled": false, "crushLocationLabels": []}},
  {"clusterID": "b", "monitors": ["[v2:10.0.1.1:3300,v1:10.0.1.1:6789]"], "radosNamespace": "old"}
]`

// writeFiles writes files, named by their paths, and returns the Files of their directory.
func writeFiles(t *testing.T, files map[string]string) Files {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Files{Config: filepath.Join(dir, "config.json"), Keys: filepath.Join(dir, "keys")}
}

func TestReadCephCSIConfiguration(t *testing.T) {
	files := writeFiles(t, map[string]string{
		"config.json": cephCSIConfig, "keys/userID": "csi\n", "keys/userKey": testKey + "\n",
		"keys/b/userID": "client.other", "keys/b/userKey": "b3RoZXI=",
	})
	a, err := files.Read("a")
	if err != nil || a.ID != "a" || a.MonHost() != "10.0.0.1:6789,10.0.0.2:6789" || a.Namespace != "tenant" ||
		a.User != "csi" || a.Key != testKey {
		t.Errorf("got %+v, namespace %q (%v)", a, a.Namespace, err)
	}
	b, err := files.Read("b")
	if err != nil || b.Namespace != "old" || b.User != "other" || b.Key != "b3RoZXI=" {
		t.Errorf("got %+v, namespace %q (%v), want the key of its own directory", b, b.Namespace, err)
	}
	if got, err := files.IDs(); err != nil || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %v (%v), want a and b", got, err)
	}
	for _, id := range []string{"", "c"} {
		_, err := files.Read(id)
		volumetest.WantKind(t, err, volume.KindInvalid, "a, b", files.Config)
	}
}

func TestOnlyClusterNeedsNoID(t *testing.T) {
	files := writeFiles(t, map[string]string{"config.json": `[{"clusterID": "a", "monitors": ["10.0.0.1"]}]`})
	if c, err := files.Read(""); err != nil || c.ID != "a" || c.Key != "" {
		t.Errorf("got %v (%v), want cluster a without a key", c, err)
	}
}

func TestChangedFilesAreReadAgain(t *testing.T) {
	files := writeFiles(t, map[string]string{
		"config.json": `[{"clusterID": "a", "monitors": ["10.0.0.1"]}]`, "keys/userID": "csi", "keys/userKey": testKey,
	})
	if _, err := files.Read("a"); err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{
		files.Config:                             `[{"clusterID": "a", "monitors": ["10.0.0.9"]}]`,
		filepath.Join(files.Keys, secretUserKey): "bmV3",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if c, err := files.Read("a"); err != nil || c.MonHost() != "10.0.0.9" || c.Key != "bmV3" {
		t.Errorf("got %v (%v), want the new monitor and the new key", c, err)
	}
}

func TestWrongFiles(t *testing.T) {
	for reason, content := range map[string]string{
		"invalid character": `clusterID: a`,
		"cannot unmarshal":  `{"clusterID": "a"}`,
		"no cluster":        `[]`,
		"no clusterID":      `[{"monitors": ["10.0.0.1"]}]`,
		"twice":             `[{"clusterID": "a", "monitors": ["10.0.0.1"]}, {"clusterID": "a", "monitors": ["10.0.0.1"]}]`,
		"without slashes":   `[{"clusterID": "a/b", "monitors": ["10.0.0.1"]}]`,
		`".." is not`:       `[{"clusterID": "..", "monitors": ["10.0.0.1"]}]`,
		"no monitors":       `[{"clusterID": "a"}]`,
		"an empty one":      `[{"clusterID": "a", "monitors": [""]}]`,
	} {
		files := writeFiles(t, map[string]string{"config.json": content})
		_, err := files.Read("a")
		volumetest.WantKind(t, err, volume.KindInternal, reason, files.Config)
	}
	_, err := Files{Config: filepath.Join(t.TempDir(), "missing")}.Read("a")
	volumetest.WantKind(t, err, volume.KindInternal)
	half := writeFiles(t, map[string]string{
		"config.json": `[{"clusterID": "a", "monitors": ["10.0.0.1"]}]`, "keys/userKey": testKey,
	})
	_, err = half.Read("a")
	volumetest.WantKind(t, err, volume.KindInternal)
	if err == nil || strings.Contains(err.Error(), testKey) {
		t.Errorf("got %v, want an error without the key", err)
	}
}

// rookConfig is what Rook writes into ceph-csi's ConfigMap.
const rookConfig = `[{"clusterID":"rook-ceph","monitors":["10.96.11.92:6789"],` +
	`"cephFS":{"netNamespaceFilePath":"","subvolumeGroup":"","radosNamespace":"fs",` +
	`"kernelMountOptions":"","fuseMountOptions":""},` +
	`"rbd":{"netNamespaceFilePath":"","radosNamespace":"","mirrorDaemonCount":0},"nfs":{"netNamespaceFilePath":""},` +
	`"readAffinity":{"enabled":false,"crushLocationLabels":null},"namespace":"rook-ceph"}]`

func TestReadConfigurationOfRook(t *testing.T) {
	files := writeFiles(t, map[string]string{"config.json": rookConfig})
	c, err := files.Read("rook-ceph")
	if err != nil || c.MonHost() != "10.96.11.92:6789" || c.Namespace != "" {
		t.Errorf("got %+v, namespace %q (%v)", c, c.Namespace, err)
	}
}

func TestClusterOfAnotherSiteIsNamed(t *testing.T) {
	files := writeFiles(t, map[string]string{
		"config.json":          rookConfig,
		"cluster-mapping.json": `[{"clusterIDMapping": {"site1": "rook-ceph"}, "RBDPoolIDMapping": [{"1": "2"}]}]`,
	})
	_, err := files.Read("site1")
	volumetest.WantKind(t, err, volume.KindInvalid, "cluster-mapping.json names it", "Retain")
	_, err = files.Read("site")
	volumetest.WantKind(t, err, volume.KindInvalid, "add the cluster to the file")
}
