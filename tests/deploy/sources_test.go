package deploy_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// walkGoFiles calls do with the path of every Go file below a directory of the module.
func walkGoFiles(t *testing.T, below string, do func(path string)) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(moduleRoot(t), below), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, ".go") {
			do(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// placeholder stands in a literal for a formatting verb or for an operand that is no literal.
const placeholder = "\x00"

// stringLiterals returns the string literals in the code of pkg and cmd; a sum of literals is one
// literal.
func stringLiterals(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, dir := range []string{"pkg", "cmd"} {
		walkGoFiles(t, dir, func(path string) {
			if strings.HasSuffix(path, "_test.go") {
				return
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				expr, ok := n.(ast.Expr)
				if !ok {
					return true
				}
				text := constantText(expr)
				if strings.Trim(text, placeholder) == "" {
					return true
				}
				all = append(all, text)
				return false
			})
		})
	}
	return all
}

// constantText returns the text of a literal or of a sum with a literal; for any other expression
// it returns the placeholder.
func constantText(expr ast.Expr) string {
	switch e := expr.(type) {
	case *ast.BasicLit:
		if text, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
			return regexp.MustCompile(`%[-+#0-9.]*[a-zA-Z]`).ReplaceAllString(text, placeholder)
		}
	case *ast.BinaryExpr:
		if left, right := constantText(e.X), constantText(e.Y); e.Op == token.ADD &&
			strings.Trim(left+right, placeholder) != "" {
			return left + right
		}
	}
	return placeholder
}

// TestMessagesInTheGuide checks that the messages in the guide are those of the code.
func TestMessagesInTheGuide(t *testing.T) {
	guide := readText(t, "docs/how-to/resize-is-stuck.md")
	all, n := stringLiterals(t), 0
	rows := regexp.MustCompile("(?m)^\\| `[A-Z][A-Za-z]+`(?:, `[A-Za-z]+`)* \\|([^|]*)\\|[^|]*\\|[^|]*\\|$")
	for _, row := range rows.FindAllStringSubmatch(guide, -1) {
		for i, message := range strings.Split(row[1], "`") {
			if i%2 == 0 || !strings.Contains(message, " ") {
				continue // prose, or a state of Cinder
			}
			for part := range strings.SplitSeq(message, "…") {
				if part = strings.TrimSpace(part); part == "" {
					continue
				}
				n++
				// The code may have a placeholder for the last word.
				cut := part[:max(strings.LastIndex(part, " "), 0)] + " " + placeholder
				hasMessage := func(l string) bool { return strings.Contains(l, part) || strings.Contains(l, cut) }
				if !slices.ContainsFunc(all, hasMessage) {
					t.Errorf("the code has no message with %q", part)
				}
			}
		}
	}
	if n < 20 {
		t.Errorf("found %d messages, want at least 20", n)
	}
}

// TestParametersInTheReference checks that the code knows the parameters in the reference.
func TestParametersInTheReference(t *testing.T) {
	section := sectionOf(readText(t, "docs/reference.md"), "Parameters")
	all, n := stringLiterals(t), 0
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*) \\|").FindAllStringSubmatch(section, -1) {
		for i, name := range strings.Split(row[1], "`") {
			if i%2 == 0 || strings.HasPrefix(name, "csi.storage.k8s.io/") { // the provisioner removes these
				continue
			}
			if n++; !slices.ContainsFunc(all, func(l string) bool {
				return l == name || strings.HasPrefix(name, "…") && strings.HasSuffix(l, strings.TrimPrefix(name, "…"))
			}) {
				t.Errorf("the code does not know the parameter %s", name)
			}
		}
	}
	if n < 15 {
		t.Errorf("found %d parameters, want at least 15", n)
	}
}

// TestReasonsOfHealthInTheReference checks that the code has the reasons in the reference.
func TestReasonsOfHealthInTheReference(t *testing.T) {
	section := sectionOf(readText(t, "docs/reference.md"), "Health")
	all, n := stringLiterals(t), 0
	for _, m := range regexp.MustCompile("`([A-Z][a-z]+(?:[A-Z][a-z]+)*)`").FindAllStringSubmatch(section, -1) {
		if n++; !slices.Contains(all, m[1]) {
			t.Errorf("the code has no reason %s", m[1])
		}
	}
	if n < 8 {
		t.Errorf("found %d reasons, want at least 8", n)
	}
}

// metricsInReference returns the labels of each metric in the reference, separated by commas.
func metricsInReference(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	row := regexp.MustCompile("(?m)^\\| `(growvol_[a-z_]+)(?:\\{([a-z_,]+)\\})?`")
	for _, m := range row.FindAllStringSubmatch(readText(t, "docs/reference.md"), -1) {
		all[m[1]] = m[2]
	}
	return all
}

// TestMetricsInTheDocumentation checks that the reference has the metrics of the code with their
// labels, and that other pages and the dashboard name only these metrics.
func TestMetricsInTheDocumentation(t *testing.T) {
	inCode := map[string]string{}
	definition := regexp.MustCompile(`(?:Name:\s+|NewDesc\()"(growvol_\w+)"`)
	labels := regexp.MustCompile(`\[\]string\{([^}]*)\}`)
	walkGoFiles(t, "pkg", func(path string) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		source := string(readFile(t, path))
		all := definition.FindAllStringSubmatchIndex(source, -1)
		for i, m := range all {
			end := len(source)
			if i+1 < len(all) {
				end = all[i+1][0]
			}
			inCode[source[m[2]:m[3]]] = ""
			if l := labels.FindStringSubmatch(source[m[3]:end]); l != nil {
				inCode[source[m[2]:m[3]]] = strings.NewReplacer(`"`, "", " ", "").Replace(l[1])
			}
		}
	})
	inReference := metricsInReference(t)
	if !maps.Equal(inCode, inReference) || len(inCode) < 8 {
		t.Errorf("the code has the metrics\n%v\nbut the reference has\n%v", inCode, inReference)
	}
	suffix := regexp.MustCompile(`_(count|sum|bucket)$`)
	for _, page := range append(readDocuments(t), document{dashboardFile, readText(t, dashboardFile)}) {
		for _, name := range regexp.MustCompile(`\bgrowvol_[a-z_]+`).FindAllString(page.text, -1) {
			_, isMetric := inCode[name]
			if _, isPart := inCode[suffix.ReplaceAllString(name, "")]; !isMetric && !isPart {
				t.Errorf("%s: the code has no metric %s", page.path, name)
			}
		}
	}
}

// TestTestsInTheDocumentation checks that the tests and subtests in the pages exist.
func TestTestsInTheDocumentation(t *testing.T) {
	var all strings.Builder
	for _, dir := range []string{"pkg", "cmd", "tests"} {
		walkGoFiles(t, dir, func(path string) {
			if strings.HasSuffix(path, "_test.go") {
				all.Write(readFile(t, path))
			}
		})
	}
	sources, n := all.String(), 0
	for _, page := range readDocuments(t) {
		for _, m := range regexp.MustCompile("`(Test[A-Z][A-Za-z]+)(?:/([^`]+))?`").FindAllStringSubmatch(page.text, -1) {
			n++
			hasTest := strings.Contains(sources, "\nfunc "+m[1]+"(")
			hasSubtest := m[2] == "" || strings.Contains(sources, `t.Run("`+m[2]+`"`)
			if !hasTest || !hasSubtest {
				t.Errorf("%s: the code has no test %s", page.path, m[0])
			}
		}
	}
	if n < 15 {
		t.Errorf("found %d tests, want at least 15", n)
	}
}
