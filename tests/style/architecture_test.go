package style_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	architecturePage = "docs/explanation/architecture.md"
	module           = "github.com/growvol/growvol/"
	cinderInternal   = "pkg/cinder/internal/"
)

var update = flag.Bool("update", false, "draw the pictures in "+architecturePage+" from the imports")

// The pictures show the imports of the programs' packages: an arrow for each that no other
// arrows imply. The first shows pkg/cinder as one package, the second its parts. The table
// has a row for each package.
func TestArchitecture(t *testing.T) {
	imports := readImports(t)
	if len(imports) < 10 {
		t.Fatalf("found %d packages, want at least 10", len(imports))
	}
	page := filepath.Join("..", "..", architecturePage)
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	text := string(content)
	pictures := []string{
		drawImports(foldImports(imports, cinderInternal, "pkg/cinder")),
		drawImports(selectImports(imports, cinderInternal)),
	}
	drawn := mermaidBlock.FindAllStringSubmatch(text, -1)
	if len(drawn) != len(pictures) {
		t.Fatalf("%s has %d mermaid blocks, want %d", architecturePage, len(drawn), len(pictures))
	}
	for i, want := range pictures {
		if *update {
			text = strings.Replace(text, drawn[i][0], "```mermaid\n"+want+"```", 1)
			continue
		}
		for _, problem := range compareLines(drawn[i][1], want) {
			t.Errorf("%s: %s (draw it from the imports: go test ./tests/style -run Architecture -update)",
				architecturePage, problem)
		}
	}
	if *update {
		if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var rows []string
	for _, match := range packageRow.FindAllStringSubmatch(text, -1) {
		rows = append(rows, match[1])
	}
	slices.Sort(rows)
	for _, problem := range compareLines(strings.Join(rows, "\n"), strings.Join(slices.Sorted(maps.Keys(imports)), "\n")) {
		t.Errorf("%s: table of packages: %s", architecturePage, problem)
	}
}

// The controller links nothing of the node, and the node nothing of a storage system's API.
func TestProgramsLinkTheirHalf(t *testing.T) {
	imports := readImports(t)
	for program, forbidden := range map[string][]string{
		"cmd/growvol-controller": {
			"pkg/attached", "pkg/blockdev", "pkg/cgroup", "pkg/filesystem", "pkg/instance", "pkg/loop/loopdev", "pkg/luks",
			"pkg/node", "pkg/rbd/krbd", "pkg/startuptaint", "pkg/statefile",
		},
		"cmd/growvol-operator": {
			"pkg/cinder", "pkg/controller", "pkg/csiserver", "pkg/filesystem", "pkg/kubectlplugin", "pkg/loop", "pkg/node",
			"pkg/rbd",
		},
		"cmd/growvol-node": {"pkg/cinder", "pkg/controller", "pkg/loop", "pkg/rbd", "pkg/rbd/internal/ceph"},
	} {
		for _, name := range forbidden {
			if _, exists := imports[name]; !exists {
				t.Errorf("there is no package %s", name)
			}
			if reaches(imports, program, name) {
				t.Errorf("%s links %s", program, name)
			}
		}
	}
}

// The plugins run on every node and hold what they need only: no client library of Kubernetes.
func TestPluginsLinkNoKubernetesClient(t *testing.T) {
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "./cmd/growvol-controller", "./cmd/growvol-node")
	list.Dir = filepath.Join("..", "..")
	output, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	packages := strings.Fields(string(output))
	if len(packages) < 100 {
		t.Errorf("found %d packages, want at least 100", len(packages))
	}
	for _, name := range packages {
		for _, forbidden := range []string{
			"k8s.io/client-go", "k8s.io/api/", "k8s.io/apimachinery", "k8s.io/cli-runtime", "github.com/spf13/cobra",
			"sigs.k8s.io/controller-runtime", module + "pkg/claim", module + "pkg/kubectlplugin", module + "pkg/operator",
		} {
			if strings.HasPrefix(name, forbidden) {
				t.Errorf("a plugin links %s", name)
			}
		}
	}
}

func TestFoldImports(t *testing.T) {
	imports := map[string][]string{
		"cmd/a":            {"pkg/b", "pkg/c"},
		"pkg/b":            {"pkg/b/internal/d", "pkg/c"},
		"pkg/b/internal/d": {"pkg/b/internal/e", "pkg/f"},
		"pkg/b/internal/e": nil,
		"pkg/c":            nil,
		"pkg/f":            nil,
	}
	folded := foldImports(imports, "pkg/b/internal/", "pkg/b")
	if got, want := fmt.Sprint(folded), "map[cmd/a:[pkg/b pkg/c] pkg/b:[pkg/c pkg/f] pkg/c:[] pkg/f:[]]"; got != want {
		t.Errorf("foldImports = %s, want %s", got, want)
	}
	selected := selectImports(imports, "pkg/b/internal/")
	if got, want := fmt.Sprint(selected), "map[pkg/b/internal/d:[pkg/b/internal/e] pkg/b/internal/e:[]]"; got != want {
		t.Errorf("selectImports = %s, want %s", got, want)
	}
}

func TestDrawImports(t *testing.T) {
	imports := map[string][]string{
		"cmd/a": {"pkg/b", "pkg/c", "pkg/d"}, // pkg/b implies pkg/c, and pkg/c implies pkg/d
		"pkg/b": {"pkg/c"},
		"pkg/c": {"pkg/d"},
		"pkg/d": nil,
	}
	got := drawImports(imports)
	want := strings.Join([]string{
		"flowchart TD",
		`    cmd_a(["cmd/a"])`,
		`    pkg_b["b"]`,
		`    pkg_c["c"]`,
		`    pkg_d["d"]`,
		"    cmd_a --> pkg_b",
		"    pkg_b --> pkg_c",
		"    pkg_c --> pkg_d",
		"",
	}, "\n")
	if got != want {
		t.Errorf("drawImports:\n%s\nwant\n%s", got, want)
	}
	planted := strings.Replace(want, "pkg_b --> pkg_c", "pkg_c --> pkg_b", 1)
	if problems := compareLines(planted, want); len(problems) != 2 {
		t.Errorf("compareLines = %q, want one line too many and one missing", problems)
	}
}

var (
	mermaidBlock = regexp.MustCompile("(?s)```mermaid\n(.*?)```")
	packageRow   = regexp.MustCompile("(?m)^\\| `((?:cmd|deploy|pkg)/[^`]*)` \\| [^|]+ \\|")
)

// readImports returns the packages of this module that the programs consist of,
// each with those that it imports.
func readImports(t *testing.T) map[string][]string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-deps",
		"-f", `{{if not .Standard}}{{.ImportPath}} {{join .Imports " "}}{{end}}`, "./cmd/...")
	list.Dir = filepath.Join("..", "..")
	output, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	imports := map[string][]string{}
	for line := range strings.Lines(string(output)) {
		var packages []string
		for _, path := range strings.Fields(line) {
			if name, ok := strings.CutPrefix(path, module); ok {
				packages = append(packages, name)
			}
		}
		if strings.HasPrefix(line, module) {
			imports[packages[0]] = packages[1:]
		}
	}
	return imports
}

// foldImports returns the imports with all packages below prefix as one package.
func foldImports(imports map[string][]string, prefix, name string) map[string][]string {
	fold := func(path string) string {
		if strings.HasPrefix(path, prefix) {
			return name
		}
		return path
	}
	folded := map[string][]string{}
	for _, from := range slices.Sorted(maps.Keys(imports)) {
		folded[fold(from)] = append(folded[fold(from)], []string{}...)
		for _, to := range imports[from] {
			if fold(to) != fold(from) && !slices.Contains(folded[fold(from)], fold(to)) {
				folded[fold(from)] = append(folded[fold(from)], fold(to))
			}
		}
	}
	return folded
}

// selectImports returns the imports among the packages below prefix.
func selectImports(imports map[string][]string, prefix string) map[string][]string {
	selected := map[string][]string{}
	for from, packages := range imports {
		if strings.HasPrefix(from, prefix) {
			isOutside := func(to string) bool { return !strings.HasPrefix(to, prefix) }
			selected[from] = slices.DeleteFunc(slices.Clone(packages), isOutside)
		}
	}
	return selected
}

// drawImports returns the imports as a Mermaid flowchart, without those that the others
// imply.
func drawImports(imports map[string][]string) string {
	var nodes, arrows strings.Builder
	for _, from := range slices.Sorted(maps.Keys(imports)) {
		shape := `["` + strings.TrimPrefix(strings.TrimPrefix(from, cinderInternal), "pkg/") + `"]`
		if strings.HasPrefix(from, "cmd/") {
			shape = "(" + strings.Replace(shape, "]", "])", 1)
		}
		fmt.Fprintf(&nodes, "    %s%s\n", nodeID(from), shape)
		for _, to := range imports[from] {
			implied := slices.ContainsFunc(imports[from], func(via string) bool {
				return via != to && reaches(imports, via, to)
			})
			if !implied {
				fmt.Fprintf(&arrows, "    %s --> %s\n", nodeID(from), nodeID(to))
			}
		}
	}
	return "flowchart TD\n" + nodes.String() + arrows.String()
}

func nodeID(name string) string {
	return strings.NewReplacer("growvol-", "", "/", "_", "-", "_").Replace(name)
}

// reaches reports whether from imports to, directly or through others.
func reaches(imports map[string][]string, from, to string) bool {
	return slices.ContainsFunc(imports[from], func(next string) bool {
		return next == to || reaches(imports, next, to)
	})
}

// compareLines returns a sentence for each line that only one of the texts has.
func compareLines(got, want string) []string {
	var problems []string
	gotLines, wantLines := strings.Split(got, "\n"), strings.Split(want, "\n")
	for _, line := range gotLines {
		if !slices.Contains(wantLines, line) {
			problems = append(problems, fmt.Sprintf("%q is not in the code", strings.TrimSpace(line)))
		}
	}
	for _, line := range wantLines {
		if !slices.Contains(gotLines, line) {
			problems = append(problems, fmt.Sprintf("%q is missing", strings.TrimSpace(line)))
		}
	}
	return problems
}
