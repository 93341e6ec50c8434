package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/growvol/growvol/pkg/volume"
)

// This file reads the mounted files. Every call reads them: they are small, and a ConfigMap or
// Secret that changes is replaced as a whole.

// Files are the paths of the mounted files.
type Files struct {
	// Config is a JSON file in the form of ceph-csi's config.json:
	// [{"clusterID": "a", "monitors": ["10.0.0.1:6789"], "rbd": {"radosNamespace": "tenant"}}].
	Config string
	// Keys is a directory with the files userID and userKey for all clusters, and in
	// subdirectories that are named after a cluster's id for that cluster. Empty: the secrets of
	// each request have them.
	Keys string
}

// entry is a cluster in the file. ceph-csi's other fields do not concern this driver.
type entry struct {
	ClusterID string   `json:"clusterID"`
	Monitors  []string `json:"monitors"`
	RBD       struct {
		RadosNamespace string `json:"radosNamespace"`
	} `json:"rbd"`
	RadosNamespace string `json:"radosNamespace"` // of old versions of ceph-csi
}

// Read returns the cluster of that id; if id is empty, the only cluster. The user and the key are
// empty if Keys has none: Cluster.WithSecrets reports that. Errors by kind: Invalid if there is no
// cluster of that id; Internal if a file cannot be read or is wrong.
func (f Files) Read(id string) (Cluster, error) {
	entries, err := f.entries()
	if err != nil {
		return Cluster{}, err
	}
	index := slices.IndexFunc(entries, func(e entry) bool { return e.ClusterID == id })
	switch {
	case id == "" && len(entries) == 1:
		index = 0
	case id == "":
		return Cluster{}, volume.Errorf(volume.KindInvalid, "no Ceph cluster is named, and %s has several: %s",
			f.Config, joinIDs(entries)).WithRemedy("set the parameter clusterID to one of them")
	case index < 0:
		return Cluster{}, f.missingError(id, entries)
	}
	found := entries[index]
	c := Cluster{ID: found.ClusterID, Monitors: found.Monitors, Namespace: found.RBD.RadosNamespace}
	if c.Namespace == "" {
		c.Namespace = found.RadosNamespace
	}
	c.User, c.Key, err = f.readKey(c.ID)
	return c, err
}

// mappingFile is beside Config in ceph-csi's ConfigMap. It says by which clusters and pools those
// of another site are replaced after a failover (ceph-csi, internal/util/cluster_mapping.go).
const mappingFile = "cluster-mapping.json"

// missingError is the error for a cluster that the file does not have.
func (f Files) missingError(id string, entries []entry) error {
	err := volume.Errorf(volume.KindInvalid, "Ceph cluster %q is not in %s, which has: %s", id, f.Config, joinIDs(entries))
	path := filepath.Join(filepath.Dir(f.Config), mappingFile)
	content, readErr := os.ReadFile(path)
	if readErr != nil || !strings.Contains(string(content), strconv.Quote(id)) {
		return err.WithRemedy("correct the parameter clusterID, or add the cluster to the file")
	}
	return volume.Errorf(volume.KindInvalid, "%w; %s names it, but this driver does not read that file", err, path).
		WithRemedy("create the PersistentVolumes again with handles of the present cluster, clusterID/pool/image, after " +
			"setting their persistentVolumeReclaimPolicy to Retain")
}

// IDs returns the ids of all clusters in the order of the file. Errors by kind: Internal.
func (f Files) IDs() ([]string, error) {
	entries, err := f.entries()
	if err != nil {
		return nil, err
	}
	return ids(entries), nil
}

// entries reads and validates the file.
func (f Files) entries() ([]entry, error) {
	content, err := os.ReadFile(f.Config)
	if err != nil {
		return nil, volume.Errorf(volume.KindInternal, "cannot read the Ceph clusters: %w", err).
			WithRemedy("mount a file in the form of ceph-csi's config.json there")
	}
	var entries []entry
	if err := json.Unmarshal(content, &entries); err != nil {
		return nil, f.invalid("it is not a JSON list of clusters: %w", err)
	}
	if len(entries) == 0 {
		return nil, f.invalid("it has no cluster")
	}
	seen := map[string]bool{}
	for i, e := range entries {
		switch {
		case e.ClusterID == "":
			return nil, f.invalid("entry %d has no clusterID", i+1)
		case strings.Contains(e.ClusterID, "/") || !filepath.IsLocal(e.ClusterID):
			return nil, f.invalid("clusterID %q is not possible: it must be a name without slashes", e.ClusterID)
		case seen[e.ClusterID]:
			return nil, f.invalid("cluster %s is in it twice", e.ClusterID)
		case len(e.Monitors) == 0 || slices.Contains(e.Monitors, ""):
			return nil, f.invalid("cluster %s has no monitors, or an empty one", e.ClusterID)
		}
		seen[e.ClusterID] = true
	}
	return entries, nil
}

func (f Files) invalid(format string, args ...any) error {
	return volume.Errorf(volume.KindInternal, "the file with the Ceph clusters, %s, is wrong: %w",
		f.Config, fmt.Errorf(format, args...)).
		WithRemedy(`correct it: [{"clusterID": "a", "monitors": ["10.0.0.1:6789"]}]`)
}

// readKey returns the user and the key of the cluster: those in its own directory if that exists.
func (f Files) readKey(id string) (user, key string, err error) {
	if f.Keys == "" {
		return "", "", nil
	}
	dir := f.Keys
	if info, err := os.Stat(filepath.Join(f.Keys, id)); err == nil && info.IsDir() {
		dir = filepath.Join(f.Keys, id)
	}
	if user, err = readSecret(filepath.Join(dir, secretUserID)); err != nil {
		return "", "", err
	}
	if key, err = readSecret(filepath.Join(dir, secretUserKey)); err != nil {
		return "", "", err
	}
	if (user == "") != (key == "") {
		return "", "", volume.Errorf(volume.KindInternal, "%s has only one of %s and %s for Ceph cluster %s",
			dir, secretUserID, secretUserKey, id).WithRemedy("set both in the secret that is mounted there")
	}
	return cleanUser(user), key, nil
}

// readSecret returns the content of a file without the white space around it; empty if there is no
// such file.
func readSecret(path string) (string, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", volume.Errorf(volume.KindInternal, "cannot read the user or key of Ceph: %w", err)
	}
	return strings.TrimSpace(string(content)), nil
}

func ids(entries []entry) []string {
	all := make([]string, 0, len(entries))
	for _, e := range entries {
		all = append(all, e.ClusterID)
	}
	return all
}

func joinIDs(entries []entry) string { return strings.Join(ids(entries), ", ") }
