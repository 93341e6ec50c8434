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

// gofiles calls do with every Go file below a directory of the module.
func gofiles(t *testing.T, below string, do func(path string)) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(root(t), below), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, ".go") {
			do(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// verb is what literals have in place of a formatting verb, or of what is added
// to them.
const verb = "\x00"

// literals are the strings in the program's own code; those that are added to
// one another are one.
func literals(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, dir := range []string{"pkg", "cmd"} {
		gofiles(t, dir, func(path string) {
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
				text := joined(expr)
				if strings.Trim(text, verb) == "" {
					return true
				}
				all = append(all, text)
				return false
			})
		})
	}
	return all
}

// joined is the text of a literal or of a sum; "" or a verb: it is neither.
func joined(expr ast.Expr) string {
	switch e := expr.(type) {
	case *ast.BasicLit:
		if text, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
			return regexp.MustCompile(`%[-+#0-9.]*[a-zA-Z]`).ReplaceAllString(text, verb)
		}
	case *ast.BinaryExpr:
		if left, right := joined(e.X), joined(e.Y); e.Op == token.ADD && strings.Trim(left+right, verb) != "" {
			return left + right
		}
	}
	return verb
}

// Messages that the guide explains are those of the code.
func TestMessagesInTheGuide(t *testing.T) {
	guide := string(content(t, filepath.Join(root(t), "docs/how-to/resize-is-stuck.md")))
	all, n := literals(t), 0
	for _, row := range regexp.MustCompile("(?m)^\\| `[A-Z][A-Za-z]+`(?:, `[A-Za-z]+`)* \\|([^|]*)\\|[^|]*\\|[^|]*\\|$").FindAllStringSubmatch(guide, -1) {
		for i, message := range strings.Split(row[1], "`") {
			if i%2 == 0 || !strings.Contains(message, " ") {
				continue // prose, or a state of Cinder
			}
			for part := range strings.SplitSeq(message, "…") {
				if part = strings.TrimSpace(part); part == "" {
					continue
				}
				n++
				// The last word may be what a verb stands for.
				cut := part[:max(strings.LastIndex(part, " "), 0)] + " " + verb
				if !slices.ContainsFunc(all, func(l string) bool { return strings.Contains(l, part) || strings.Contains(l, cut) }) {
					t.Errorf("no message has %q", part)
				}
			}
		}
	}
	if n < 20 {
		t.Errorf("only %d messages were found", n)
	}
}

// Parameters in the reference are in the code.
func TestParametersInTheReference(t *testing.T) {
	reference := string(content(t, filepath.Join(root(t), "docs/reference.md")))
	_, section, _ := strings.Cut(reference, "\n## Parameters\n")
	section, _, _ = strings.Cut(section, "\n## ")
	all, n := literals(t), 0
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*) \\|").FindAllStringSubmatch(section, -1) {
		for i, name := range strings.Split(row[1], "`") {
			if i%2 == 0 || strings.HasPrefix(name, "csi.storage.k8s.io/") { // which the provisioner takes out
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
		t.Errorf("only %d parameters were found", n)
	}
}

// Reasons of health in the reference are in the code.
func TestReasonsOfHealthInTheReference(t *testing.T) {
	reference := string(content(t, filepath.Join(root(t), "docs/reference.md")))
	_, section, _ := strings.Cut(reference, "\n## Health\n")
	section, _, _ = strings.Cut(section, "\n## ")
	all, n := literals(t), 0
	for _, m := range regexp.MustCompile("`([A-Z][a-z]+(?:[A-Z][a-z]+)*)`").FindAllStringSubmatch(section, -1) {
		if n++; !slices.Contains(all, m[1]) {
			t.Errorf("the code has no reason %s", m[1])
		}
	}
	if n < 8 {
		t.Errorf("only %d reasons were found", n)
	}
}

// The reference has the metrics of the code, each with its labels; other pages
// and the dashboard name those.
func TestMetricsInTheDocumentation(t *testing.T) {
	inCode := map[string]string{}
	made := regexp.MustCompile(`(?s)Name:\s+"(growvol_\w+)".*?\[\]string\{([^}]*)\}`)
	gofiles(t, "pkg", func(path string) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		for _, m := range made.FindAllStringSubmatch(string(content(t, path)), -1) {
			inCode[m[1]] = strings.NewReplacer(`"`, "", " ", "").Replace(m[2])
		}
	})
	inReference := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(growvol_[a-z_]+)\\{([a-z,]+)\\}`").FindAllStringSubmatch(string(content(t, filepath.Join(root(t), "docs/reference.md"))), -1) {
		inReference[m[1]] = m[2]
	}
	if !maps.Equal(inCode, inReference) || len(inCode) < 8 {
		t.Errorf("code %v\nreference %v", inCode, inReference)
	}
	suffix := regexp.MustCompile(`_(count|sum|bucket)$`)
	for _, page := range append(documents(t), document{dashboardFile, string(content(t, filepath.Join(root(t), dashboardFile)))}) {
		for _, name := range regexp.MustCompile(`\bgrowvol_[a-z_]+`).FindAllString(page.text, -1) {
			if inCode[name] == "" && inCode[suffix.ReplaceAllString(name, "")] == "" {
				t.Errorf("%s: there is no metric %s", page.path, name)
			}
		}
	}
}

// Tests that pages name as proof are there, with the part that is named.
func TestTestsInTheDocumentation(t *testing.T) {
	var all strings.Builder
	for _, dir := range []string{"pkg", "cmd", "tests"} {
		gofiles(t, dir, func(path string) {
			if strings.HasSuffix(path, "_test.go") {
				all.Write(content(t, path))
			}
		})
	}
	sources, n := all.String(), 0
	for _, page := range documents(t) {
		for _, m := range regexp.MustCompile("`(Test[A-Z][A-Za-z]+)(?:/([^`]+))?`").FindAllStringSubmatch(page.text, -1) {
			n++
			if !strings.Contains(sources, "\nfunc "+m[1]+"(") || m[2] != "" && !strings.Contains(sources, `t.Run("`+m[2]+`"`) {
				t.Errorf("%s: there is no test %s", page.path, m[0])
			}
		}
	}
	if n < 15 {
		t.Errorf("only %d tests were found", n)
	}
}
