package cinder

import (
	"context"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// maxMetadata is how many characters Cinder allows in a key or a value.
const maxMetadata = 255

// isOfCluster reports whether metadata are those that a cluster gives to its
// volumes, snapshots and backups.
func isOfCluster(metadata map[string]string, clusterID string) bool {
	cluster, ok := metadata[metaCluster]
	return ok && cluster == clusterID
}

// addOwnMetadata adds this cluster's metadata, and the class parameters of the given
// keys that have a value, to metadata, which may be nil. It returns the map.
func (b *Backend) addOwnMetadata(metadata, class map[string]string, keys []string) map[string]string {
	if metadata == nil {
		metadata = make(map[string]string)
	}
	metadata[metaCluster] = b.opts.ClusterID
	for _, key := range keys {
		if value := class[key]; value != "" {
			metadata[key] = value
		}
	}
	return metadata
}

// parseMetadata reads the parameter appendVolumeMetadata: a JSON object of strings, or
// nothing. Kind Invalid: it is something else, Cinder would not take it, or it has a
// key of this driver. Values are not quoted in errors.
func parseMetadata(text string) (map[string]string, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	var object map[string]*string
	if err := json.Unmarshal([]byte(text), &object); err != nil || object == nil {
		return nil, badMetadata("is not a JSON object of strings")
	}
	metadata := make(map[string]string, len(object))
	for _, key := range slices.Sorted(maps.Keys(object)) {
		value := object[key]
		switch {
		case value == nil:
			return nil, badMetadata("has no string for the key " + strconv.Quote(key))
		case !regexp.MustCompile(`^[a-zA-Z0-9_:. /-]+$`).MatchString(key) || len(key) > maxMetadata:
			return nil, badMetadata("has the key " + strconv.Quote(key) + ", and Cinder takes 1 to 255 letters, digits, blanks, and - _ : . /")
		case utf8.RuneCountInString(*value) > maxMetadata:
			return nil, badMetadata("has a value of more than 255 characters for the key " + strconv.Quote(key))
		case isReserved(key):
			return nil, badMetadata("has the key " + strconv.Quote(key) + ", which this driver or Cinder sets")
		}
		metadata[key] = *value
	}
	return metadata, nil
}

func badMetadata(what string) error {
	return volume.Errorf(volume.KindInvalid, "the parameter %s %s", paramMetadata, what).
		WithRemedy(`correct the class: ` + paramMetadata + `: '{"key": "value"}'`)
}

// isReserved reports whether a metadata key is one by which volumes are recognized, or
// one that Cinder shows with a value of its own. Databases compare keys without their
// case.
func isReserved(key string) bool {
	key = strings.ToLower(key)
	for _, prefix := range []string{reservedPrefix, ownPrefix, sidecarPrefix} {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return slices.Contains([]string{metaBackup, metaReadOnly, metaAttachedMode}, key)
}

// addMetadata sets metadata of a volume and reads them back; other keys stay as they
// are. There is nothing to do for a volume that has them.
func (b *Backend) addMetadata(ctx context.Context, c *cloud.Cloud, v cloud.Volume, metadata map[string]string) error {
	if len(missingMetadata(v, metadata)) == 0 {
		return nil
	}
	errSet := c.SetVolumeMetadata(ctx, v.ID, metadata)
	now, err := c.Volume(ctx, v.ID)
	if err == nil && len(missingMetadata(now, metadata)) == 0 {
		return nil
	}
	if errSet != nil {
		return errSet
	}
	if err != nil {
		return err
	}
	return volume.Errorf(volume.KindUnavailable, "Cinder accepted the metadata of the volume, and it still lacks %s", few(missingMetadata(now, metadata))).
		WithRemedy("Kubernetes retries this automatically; if it lasts, ask the cloud operator whether metadata are restricted")
}

// missingMetadata returns the keys of metadata that a volume lacks or has with another
// value.
func missingMetadata(v cloud.Volume, metadata map[string]string) []string {
	var keys []string
	for _, key := range slices.Sorted(maps.Keys(metadata)) {
		if value, found := v.Metadata[key]; !found || value != metadata[key] {
			keys = append(keys, key)
		}
	}
	return keys
}
