// Package charts has what programs read of growvol's Helm chart. The chart itself is in the
// directory growvol.
package charts

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"path"

	"sigs.k8s.io/yaml"
)

//go:embed growvol/values.yaml
var values []byte

// Sidecars returns the tags of the sidecars' images that the chart installs, by the last part of
// the image's repository, such as "csi-resizer".
func Sidecars() (map[string]string, error) {
	var v struct {
		Sidecars map[string]json.RawMessage `json:"sidecars"`
	}
	if err := yaml.Unmarshal(values, &v); err != nil {
		return nil, fmt.Errorf("the chart's values: %w", err)
	}
	tags := map[string]string{}
	for _, raw := range v.Sidecars {
		var sidecar struct {
			Image struct{ Repository, Tag string } `json:"image"`
		}
		if json.Unmarshal(raw, &sidecar) != nil || sidecar.Image.Repository == "" {
			continue // a setting of all sidecars, such as logLevel
		}
		tags[path.Base(sidecar.Image.Repository)] = sidecar.Image.Tag
	}
	return tags, nil
}
