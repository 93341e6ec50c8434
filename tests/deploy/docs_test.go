package deploy_test

import (
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// document is a page of the documentation.
type document struct{ path, text string }

// documents are all pages that users read.
func documents(t *testing.T) []document {
	t.Helper()
	var all []document
	for _, pattern := range []string{"README.md", "docs/*.md", "docs/*/*.md", "examples/README.md"} {
		files, err := filepath.Glob(filepath.Join(root(t), pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no file, %v", pattern, err)
		}
		for _, file := range files {
			all = append(all, document{file, string(content(t, file))})
		}
	}
	return all
}

// code returns what is code in the page: spans, and the lines of blocks.
func (d document) code() []string {
	var all []string
	for line := range strings.SplitSeq(d.text, "\n") {
		if block, found := strings.CutPrefix(line, "    "); found {
			all = append(all, strings.TrimSpace(block))
			continue
		}
		for i, span := range strings.Split(line, "`") {
			if i%2 == 1 {
				all = append(all, span)
			}
		}
	}
	return all
}

// Options that pages name are those of the plugins, of a sidecar as the chart
// runs it, or of the program that the code calls; and the reference names all
// that the plugins have.
func TestOptionsInTheDocumentation(t *testing.T) {
	known := map[string]bool{
		"--help":       true,
		"--cloud-name": true, "--cluster": true, "--nodeid": true, "--rescan-on-resize": true, // of cinder-csi-plugin, in the table of what becomes of them
		"--provide-controller-service": true, "--provide-node-service": true, "--node-service-no-os-client": true, "--pvc-annotations": true, "--user-agent": true,
		"--master": true, "--kubeconfig": true, "--kube-api-qps": true, "--kube-api-burst": true, "--min-resync-period": true, "--v": true,
		"--retry-interval-max":               true, // of external-resizer, by default
		"--register-with-taints":             true, // of kubelet
		"--wait":                             true, // of Helm, where the text explains it
		"--force":                            true, // of kubectl, likewise
		"--target":                           true, // of docker build
		"--strict-topology":                  true, // of csi-provisioner
		"--enable-csi-node-aware-scheduling": true, // of the cluster autoscaler
	}
	option := regexp.MustCompile(`(?m)^  -([a-z0-9-]+)`)
	reference := string(content(t, filepath.Join(root(t), "docs/reference.md")))
	for program, help := range helpOfPlugins(t) {
		for _, m := range option.FindAllStringSubmatch(help, -1) {
			known["--"+m[1]] = true
			if !regexp.MustCompile("`--" + m[1] + "[`=]").MatchString(reference) {
				t.Errorf("the reference lacks --%s of %s", m[1], program)
			}
		}
	}
	theirs := regexp.MustCompile(`^(k|kubectl|helm|ginkgo|docker|diff|make|sed|openstack|tests/|-f|--from-file)\b|: \d`)
	named, n := regexp.MustCompile(`(?:^|[\s\[(])(--[a-z][a-z0-9-]+)`), 0
	for _, page := range documents(t) {
		for _, code := range page.code() {
			if theirs.MatchString(code) || strings.Contains(code, "kubectl ") {
				continue
			}
			for _, m := range named.FindAllStringSubmatch(code, -1) {
				if n++; !known[m[1]] {
					t.Errorf("%s: nobody has the option %s: %s", page.path, m[1], code)
				}
			}
		}
	}
	if n < 50 {
		t.Errorf("only %d options were found", n)
	}
}

// Values that pages name are the chart's, and what they show as values.yaml is
// taken by it.
func TestValuesInTheDocumentation(t *testing.T) {
	var values map[string]any
	if err := yaml.Unmarshal(content(t, filepath.Join(root(t), "deploy/charts/growvol/values.yaml")), &values); err != nil {
		t.Fatal(err)
	}
	h, n := newHelm(t), 0
	dotted := regexp.MustCompile(`^([a-z][A-Za-z]*)((?:\.[A-Za-z*]+)+)(: .*)?$`)
	for _, page := range documents(t) {
		for _, code := range page.code() {
			m := dotted.FindStringSubmatch(code)
			if m == nil || values[m[1]] == nil || strings.HasPrefix(code, "cinder.csi.openstack.org") {
				continue
			}
			if n++; !has(values, strings.Split(m[1]+m[2], ".")) {
				t.Errorf("%s: the chart has no value %s", page.path, m[1]+m[2])
			}
		}
		for _, shown := range regexp.MustCompile(`(?m)^    # values\.yaml\n((?:    .*\n)+)`).FindAllStringSubmatch(page.text, -1) {
			n++
			if _, err := h.run(t, shown[1], "template", "growvol", "deploy/charts/growvol", kubeVersion, "--set=cinder.existingSecret=clouds", "--values=-"); err != nil {
				t.Errorf("%s: %s", page.path, stderrOf(err))
			}
		}
	}
	if n < 20 {
		t.Errorf("only %d values were found", n)
	}
}

// has tells whether there is a value at the path; * is any key.
func has(value any, path []string) bool {
	if len(path) == 0 {
		return true
	}
	keys, _ := value.(map[string]any)
	if path[0] == "*" {
		return slices.ContainsFunc(slices.Collect(maps.Values(keys)), func(v any) bool { return has(v, path[1:]) })
	}
	below, found := keys[path[0]]
	return found && has(below, path[1:])
}
