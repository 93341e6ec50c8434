package deploy_test

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/kubectlplugin"
	"github.com/growvol/growvol/pkg/rbdcsi"
)

// document is a page of the documentation.
type document struct{ path, text string }

// readDocuments returns all pages for users.
func readDocuments(t *testing.T) []document {
	t.Helper()
	var all []document
	for _, pattern := range []string{"README.md", "docs/*.md", "docs/*/*.md", "examples/README.md"} {
		files, err := filepath.Glob(filepath.Join(moduleRoot(t), pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("no file matches %s (%v)", pattern, err)
		}
		for _, file := range files {
			all = append(all, document{file, readText(t, file)})
		}
	}
	return all
}

// code returns the code in the page: each span, and each line of a block.
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

// TestOptionsInTheDocumentation checks that every option in a page exists: in a plugin, in a
// sidecar as the chart runs it, or in the program that the code calls. The reference must have all
// options of the plugins.
func TestOptionsInTheDocumentation(t *testing.T) {
	known := map[string]bool{
		"--help":                             true,
		"--retry-interval-max":               true, // of external-resizer, by default
		"--register-with-taints":             true, // of kubelet
		"--wait":                             true, // of Helm, where the text explains it
		"--reuse-values":                     true, // of Helm, where the text explains it
		"--force":                            true, // of kubectl, where the text explains it
		"--target":                           true, // of docker build
		"--strict-topology":                  true, // of csi-provisioner
		"--enable-csi-node-aware-scheduling": true, // of the cluster autoscaler
		"--feature-gates":                    true, // of csi-snapshotter and the snapshot controller
		"--instanceid":                       true, // of ceph-csi
	}
	// The options of cinder-csi-plugin are in the table of their replacements.
	for option := range strings.FieldsSeq(`--cloud-name --cluster --nodeid --rescan-on-resize
		--provide-controller-service --provide-node-service --node-service-no-os-client --pvc-annotations --user-agent
		--master --kubeconfig --kube-api-qps --kube-api-burst --min-resync-period --v`) {
		known[option] = true
	}
	option := regexp.MustCompile(`(?m)^  -([a-z0-9-]+)`)
	reference := readText(t, "docs/reference.md")
	for program, help := range helpOfPlugins(t) {
		for _, m := range option.FindAllStringSubmatch(help, -1) {
			known["--"+m[1]] = true
			if !regexp.MustCompile("`--" + m[1] + "[`=]").MatchString(reference) {
				t.Errorf("the reference does not have the option --%s of %s", m[1], program)
			}
		}
	}
	for _, command := range []string{"status", "expand", "doctor", "support-bundle"} {
		var help bytes.Buffer
		streams := genericiooptions.IOStreams{In: strings.NewReader(""), Out: &help, ErrOut: &help}
		if code := kubectlplugin.Run(t.Context(), []string{command, "--help"}, streams); code != 0 {
			t.Fatalf("kubectl growvol %s --help: exit code %d\n%s", command, code, help.String())
		}
		for _, m := range regexp.MustCompile(`(?m)^ +(?:-[a-z], )?(--[a-z-]+)`).FindAllStringSubmatch(help.String(), -1) {
			known[m[1]] = true
		}
	}
	for _, command := range []string{"build", "push"} {
		run := exec.CommandContext(t.Context(), "go", "run", "./deploy/release", command, "--help")
		run.Dir = moduleRoot(t)
		help, err := run.CombinedOutput()
		if err != nil {
			t.Fatalf("release %s --help: %v\n%s", command, err, help)
		}
		for _, m := range option.FindAllStringSubmatch(string(help), -1) {
			known["--"+m[1]] = true
		}
	}
	otherPrograms := regexp.MustCompile(
		`^(k|kubectl|curl|helm|ginkgo|docker|diff|make|sed|sha256sum|openstack|rbd|tests/|-f|--from-file)\b|: \d`)
	optionInCode, n := regexp.MustCompile(`(?:^|[\s\[(])(--[a-z][a-z0-9-]+)`), 0
	for _, page := range readDocuments(t) {
		for _, code := range page.code() {
			if otherPrograms.MatchString(code) || strings.Contains(code, "kubectl ") {
				continue
			}
			for _, m := range optionInCode.FindAllStringSubmatch(code, -1) {
				if n++; !known[m[1]] {
					t.Errorf("%s: no program has the option %s: %s", page.path, m[1], code)
				}
			}
		}
	}
	if n < 50 {
		t.Errorf("found %d options, want at least 50", n)
	}
}

// TestValuesInTheDocumentation checks that every value in a page is a value of the chart, and that
// the chart accepts every values.yaml in a page.
func TestValuesInTheDocumentation(t *testing.T) {
	var values map[string]any
	if err := yaml.Unmarshal(readFile(t, "deploy/charts/growvol/values.yaml"), &values); err != nil {
		t.Fatal(err)
	}
	h, n := newHelm(t), 0
	valuesFile := regexp.MustCompile(`(?m)^    # values\.yaml\n((?:    .*\n)+)`)
	dotted := regexp.MustCompile(`^([a-z][A-Za-z]*)((?:\.[A-Za-z*]+)+)(: .*)?$`)
	for _, page := range readDocuments(t) {
		for _, code := range page.code() {
			m := dotted.FindStringSubmatch(code)
			isDriver := strings.HasPrefix(code, cindercsi.DriverName) || strings.HasPrefix(code, rbdcsi.DriverName)
			if m == nil || values[m[1]] == nil || isDriver {
				continue
			}
			if n++; !hasValue(values, strings.Split(m[1]+m[2], ".")) {
				t.Errorf("%s: the chart has no value %s", page.path, m[1]+m[2])
			}
		}
		for _, shown := range valuesFile.FindAllStringSubmatch(page.text, -1) {
			n++
			if _, err := h.template(t, shown[1], "--set=cinder.existingSecret=clouds"); err != nil {
				t.Errorf("%s: %s", page.path, errorOutput(err))
			}
		}
	}
	if n < 20 {
		t.Errorf("found %d values, want at least 20", n)
	}
}

// hasValue reports whether there is a value at the path; * matches every key.
func hasValue(value any, path []string) bool {
	if len(path) == 0 {
		return true
	}
	keys, _ := value.(map[string]any)
	if path[0] == "*" {
		for _, v := range keys {
			if hasValue(v, path[1:]) {
				return true
			}
		}
		return false
	}
	below, found := keys[path[0]]
	return found && hasValue(below, path[1:])
}

// sectionOf returns the text below a heading of the second level.
func sectionOf(page, heading string) string {
	_, section, _ := strings.Cut(page, "\n## "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	return section
}
