// Package charts has what programs read of growvol's Helm chart. The chart itself is in the
// directory growvol.
package charts

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"strings"

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

//go:embed growvol/templates/controller/deployment.yaml
var controllerTemplate string

//go:embed growvol/templates/controller/rbac.yaml
var rolesTemplate string

// SidecarOptions returns the options that the chart gives each sidecar of the controller whatever
// the values are, such as "--handle-volume-inuse-error=false", by the name of the container.
func SidecarOptions() (map[string][]string, error) {
	options := map[string][]string{}
	lists := regexp.MustCompile(`\{\{- \$(provisioner|attacher|resizer|snapshotter) := list (.*?)\}\}`)
	for _, list := range lists.FindAllStringSubmatch(controllerTemplate, -1) {
		name := "csi-" + list[1]
		options[name] = nil
		for _, option := range regexp.MustCompile(`"(--[^"]+)"`).FindAllStringSubmatch(list[2], -1) {
			if !strings.Contains(option[1], "%") { // a format: the value is one of the chart's values
				options[name] = append(options[name], option[1])
			}
		}
	}
	if len(options) != 4 {
		return nil, fmt.Errorf("the template of the controller: got the options of %d sidecars, want 4", len(options))
	}
	return options, nil
}

// Rule is a rule of a role.
type Rule struct {
	APIGroups []string `json:"apiGroups"`
	Resources []string `json:"resources"`
	Verbs     []string `json:"verbs"`
}

// SidecarRules returns what each sidecar of the controller may do in the whole cluster, by the name
// of the container. Rules that depend on values are left out.
func SidecarRules() (map[string][]Rule, error) {
	_, text, _ := strings.Cut(rolesTemplate, "\nrules:\n")
	text, _, _ = strings.Cut(text, "\n{{- end }}\n{{- end }}\n")
	sections := regexp.MustCompile(`\{\{- (?:(?:if|else if) eq \$sidecar "(\w+)"|else) \}\}\n`)
	rules := map[string][]Rule{}
	starts := sections.FindAllStringSubmatchIndex(text, -1)
	for i, start := range starts {
		name, end := "csi-snapshotter", len(text) // the last section
		if start[2] >= 0 {
			name = "csi-" + text[start[2]:start[3]]
		}
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		section, _, _ := strings.Cut(text[start[1]:end], "{{-")
		var own []Rule
		if err := yaml.UnmarshalStrict([]byte(section), &own); err != nil {
			return nil, fmt.Errorf("the template of the roles: %s: %w", name, err)
		}
		rules[name] = own
	}
	if len(rules) != 4 {
		return nil, fmt.Errorf("the template of the roles: got the rules of %d sidecars, want 4", len(rules))
	}
	return rules, nil
}
