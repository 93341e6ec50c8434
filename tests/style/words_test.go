package style_test

import (
	_ "embed"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

//go:embed words.yaml
var wordList []byte

// Code and docs use ordinary words: none of words.yaml.
func TestWords(t *testing.T) {
	words := readWords(t)
	files := readTree(t, func(name string) bool {
		return name != "tests/style/words.yaml" && name != "tests/style/words_test.go" && name != "LICENSE" &&
			!isManifest(name) && !isRecording(name) && !slices.Contains([]string{".mod", ".sum"}, path.Ext(name))
	})
	if len(files) < 100 {
		t.Errorf("found %d files, want at least 100", len(files))
	}
	for _, f := range files {
		findings, err := words.check(f)
		if err != nil {
			t.Error(err)
		}
		for _, finding := range findings {
			t.Error(finding)
		}
	}
}

// isManifest reports whether `make manifests` writes the file.
func isManifest(name string) bool {
	return path.Dir(path.Dir(name)) == "deploy/kubernetes" && path.Base(name) == "growvol.yaml"
}

// isRecording reports whether the file holds answers of a real OpenStack.
func isRecording(name string) bool {
	return path.Base(path.Dir(name)) == "testdata" && path.Ext(name) == ".json"
}

func TestCheckFindsWords(t *testing.T) {
	words := readWords(t)
	const head = "// Package a is a package.\npackage a\n\n"
	for _, test := range []struct{ name, path, text, want string }{
		{"part of a function", "a.go", head + "func readLimbo() {}\n", "a.go:4: readLimbo"},
		{"part of a field", "a.go", head + "type t struct {\n\tid int\n\tLookedUp bool\n}\n", "a.go:6: LookedUp"},
		{"part after an abbreviation", "a.go", head + "func readIDLimbo() {}\n", "a.go:4: readIDLimbo"},
		{"part of a variable", "a.go", head + "func f() {\n\tfor lookIDs := range 3 {\n\t}\n}\n", "a.go:5: lookIDs"},
		{"name of a function", "a.go", head + "func no() bool { return false }\n", "a.go:4: no"},
		{"name of a constant", "a.go", head + "const mostReads = 3\n", "a.go:4: mostReads"},
		{"name of a receiver", "a.go", head + "type t int\n\nfunc (few t) f() {}\n", "a.go:6: few"},
		{"comment", "a.go", head + "// f tells whether it ends.\nfunc f() {}\n", "a.go:4: tells whether"},
		{"wrapped comment", "a.go", head + "\n// f tells\n// whether it is.\nfunc f() {}\n", "a.go:5: tells whether"},
		{"string", "a.go", head + "const text = `a\nvolume in limbo`\n", "a.go:5: limbo"},
		{"contraction", "a.go", head + "// f isn't.\nfunc f() {}\n", "a.go:4: isn't"},
		{"quoted contraction", "a.go", head + "const text = \"isn't\"\n", ""},
		{"page", "a.md", "# A\n\nThe volume is\nlooked at.\n", "a.md:3: is looked at"},
		{"script", "a/up", "#!/bin/sh\n# Waits anew.\n", "a/up:2: anew"},
		{"message of a script", "a.sh", "echo 'it will be retried'\n", "a.sh:1: it will be retried"},
		{"contraction in a comment", "a.yaml", "a: \"doesn't\" # it\n# doesn't\n", "a.yaml:2: doesn't"},
		{"comment at the end of a line", "a.yaml", "a: 1 # it isn't\n", "a.yaml:1: isn't"},
		{"YAML", "a.yaml", "a: 1 # in\n# some limbo\n", "a.yaml:2: limbo"},
		{"file", "pkg/a/few.go", head, "pkg/a/few.go:1: few"},
		{"part of a file", "pkg/a/retry_looks_test.go", head, "pkg/a/retry_looks_test.go:1: retry_looks"},
		{"directory", "tests/road/a.txt", "", "tests/road/a.txt:1: road"},
		{"ordinary words", "a.md", "No pod waits; a few do, most of them here. It tells the name.\n", ""},
		{"code in a page", "a.md", "Run `limbo`:\n\n    limbo\n\n```\nlimbo\n```\n", ""},
		{"name of another package", "a.go", head + "import \"os/exec\"\n\nvar path, _ = exec.LookPath(\"a\")\n", ""},
		{"one part", "a.go", head + "func lookup(outlet, lookUpIn int) {}\n", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			findings, err := words.check(file{test.path, test.text})
			if err != nil {
				t.Fatal(err)
			}
			found := strings.Join(findings, "\n")
			if test.want == "" && found != "" || test.want != "" && !strings.HasPrefix(found, test.want+": write ") {
				t.Errorf("findings %q, want %q", found, test.want)
			}
		})
	}
}

// word is an entry of words.yaml.
type word struct {
	Find  string `yaml:"find"`
	Write string `yaml:"write"`

	pattern *regexp.Regexp
}

// words is the content of words.yaml, which explains the fields.
type words struct {
	Words   []word `yaml:"words"`
	Parts   []word `yaml:"parts"`
	Names   []word `yaml:"names"`
	Phrases []word `yaml:"phrases"`
	Prose   []word `yaml:"prose"`
}

func (w *words) forStrings() []word { return slices.Concat(w.Words, w.Phrases) }

func (w *words) forProse() []word { return slices.Concat(w.Words, w.Phrases, w.Prose) }

// readWords returns the word list, its patterns compiled: words match between word
// boundaries, parts and names as a whole.
func readWords(t *testing.T) *words {
	t.Helper()
	w := &words{}
	if err := yaml.Unmarshal(wordList, w); err != nil {
		t.Fatal(err)
	}
	for _, list := range []struct {
		entries []word
		format  string
	}{
		{w.Words, `(?i)\b(?:%s)\b`},
		{w.Parts, `(?i)^(?:%s)$`},
		{w.Names, `(?i)^(?:%s)$`},
		{w.Phrases, `(?i)(?:%s)`},
		{w.Prose, `(?i)(?:%s)`},
	} {
		if len(list.entries) == 0 {
			t.Fatal("words.yaml: a list is empty")
		}
		for i := range list.entries {
			entry := &list.entries[i]
			if entry.Write == "" {
				t.Errorf("words.yaml: %q has no replacement", entry.Find)
			}
			entry.pattern = regexp.MustCompile(fmt.Sprintf(list.format, strings.ReplaceAll(entry.Find, " ", `\s+`)))
		}
	}
	return w
}

// check returns the findings in a file as "path:line: text: write replacement".
func (w *words) check(f file) ([]string, error) {
	found := map[int][]string{}
	report := func(line int, text string, entry word) {
		found[line] = append(found[line], fmt.Sprintf("%s:%d: %s: write %s", f.path, line, text, entry.Write))
	}
	w.checkPath(f.path, report)
	switch {
	case path.Ext(f.path) == ".go":
		if err := w.checkGo(f, report); err != nil {
			return nil, err
		}
	case path.Ext(f.path) == ".md":
		checkText(withoutCode(f.text), 1, w.forProse(), report)
	default:
		checkText(commentSign.ReplaceAllString(f.text, ""), 1, w.forStrings(), report)
		checkText(commentsOf(f.text), 1, w.Prose, report)
	}
	var findings []string
	for _, line := range slices.Sorted(maps.Keys(found)) {
		findings = append(findings, found[line]...)
	}
	return findings, nil
}

type reportFunc func(line int, text string, entry word)

// checkPath judges file and directory names, without extension, and their words.
func (w *words) checkPath(name string, report reportFunc) {
	for segment := range strings.SplitSeq(name, "/") {
		segment, _, _ = strings.Cut(strings.TrimPrefix(segment, "."), ".")
		segment = strings.TrimSuffix(segment, "_test")
		w.checkName(segment, strings.FieldsFunc(segment, func(r rune) bool { return r == '_' || r == '-' }), 1, report)
	}
}

// checkName judges a name and the words that it consists of.
func (w *words) checkName(name string, parts []string, line int, report reportFunc) {
	for _, entry := range w.Names {
		if entry.pattern.MatchString(name) {
			report(line, name, entry)
		}
	}
	for _, entry := range slices.Concat(w.Words, w.Parts) {
		if slices.ContainsFunc(parts, func(part string) bool { return matchesAll(entry.pattern, part) }) {
			report(line, name, entry)
		}
	}
}

func matchesAll(pattern *regexp.Regexp, text string) bool { return pattern.FindString(text) == text }

// checkText judges a text that begins in the given line.
func checkText(text string, line int, entries []word, report reportFunc) {
	for _, entry := range entries {
		for _, match := range entry.pattern.FindAllStringIndex(text, -1) {
			found := strings.Join(strings.Fields(text[match[0]:match[1]]), " ")
			report(line+strings.Count(text[:match[0]], "\n"), found, entry)
		}
	}
}

// checkGo judges the names that a Go file declares, its comments and strings.
func (w *words) checkGo(f file, report reportFunc) error {
	positions := token.NewFileSet()
	parsed, err := parser.ParseFile(positions, f.path, f.text, parser.ParseComments)
	if err != nil {
		return err
	}
	lineOf := func(node ast.Node) int { return positions.Position(node.Pos()).Line }
	for _, group := range parsed.Comments {
		var lines []string
		for _, comment := range group.List {
			lines = append(lines, commentSign.ReplaceAllString(comment.Text, ""))
		}
		checkText(strings.Join(lines, "\n"), lineOf(group), w.forProse(), report)
	}
	ast.Inspect(parsed, func(node ast.Node) bool {
		if literal, ok := node.(*ast.BasicLit); ok && literal.Kind == token.STRING {
			checkText(literal.Value, lineOf(literal), w.forStrings(), report)
		}
		for _, name := range declaredNames(node) {
			w.checkName(name.Name, splitName(name.Name), lineOf(name), report)
		}
		return true
	})
	return nil
}

// declaredNames returns the names that a node declares by itself.
func declaredNames(node ast.Node) []*ast.Ident {
	var names []*ast.Ident
	add := func(expressions ...ast.Expr) {
		for _, expression := range expressions {
			if name, ok := expression.(*ast.Ident); ok {
				names = append(names, name)
			}
		}
	}
	switch node := node.(type) {
	case *ast.FuncDecl:
		return []*ast.Ident{node.Name}
	case *ast.TypeSpec:
		return []*ast.Ident{node.Name}
	case *ast.LabeledStmt:
		return []*ast.Ident{node.Label}
	case *ast.ImportSpec:
		if node.Name != nil {
			return []*ast.Ident{node.Name}
		}
	case *ast.ValueSpec:
		return node.Names
	case *ast.Field:
		return node.Names
	case *ast.AssignStmt:
		if node.Tok == token.DEFINE {
			add(node.Lhs...)
		}
	case *ast.RangeStmt:
		if node.Tok == token.DEFINE {
			add(node.Key, node.Value)
		}
	}
	return names
}

var (
	// commentSign is what begins or ends a comment in a line, of any language.
	commentSign     = regexp.MustCompile(`(?m)^[ \t]*(?://|#)|/\*|\*/`)
	wordEnd         = regexp.MustCompile(`([a-z0-9])([A-Z])`)
	abbreviationEnd = regexp.MustCompile(`([A-Z])([A-Z][a-z])`)
	indentedBlock   = regexp.MustCompile(`(?m)(?:^[ \t]*\n)(?:(?: {4}|\t).*\n?)+`)
)

// commentsOf returns the comments of a script or YAML file, line for line.
func commentsOf(text string) string {
	var comments strings.Builder
	for line := range strings.Lines(text) {
		if i := strings.Index(" "+line, " #"); i >= 0 {
			comments.WriteString(strings.TrimSuffix(line[i+1:], "\n"))
		}
		comments.WriteString("\n")
	}
	return comments.String()
}

// splitName returns the words of a name: readIDList is read, ID, List. To look up is one word.
func splitName(name string) []string {
	name = strings.NewReplacer("lookUp", "lookup", "LookUp", "Lookup").Replace(name)
	name = abbreviationEnd.ReplaceAllString(name, "$1 $2")
	return strings.FieldsFunc(wordEnd.ReplaceAllString(name, "$1 $2"), func(r rune) bool { return r == ' ' || r == '_' })
}

// withoutCode returns a page with its code blanked, line for line.
func withoutCode(text string) string {
	for _, code := range []*regexp.Regexp{codeBlock, indentedBlock, codeSpan} {
		text = code.ReplaceAllStringFunc(text, func(block string) string {
			return strings.Repeat("\n", strings.Count(block, "\n"))
		})
	}
	return text
}
