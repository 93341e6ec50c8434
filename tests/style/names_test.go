package style_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What pages say about the tree exists: files and directories in code spans,
// functions ("`name` in `file.go`") and targets of the Makefile.
func TestNamesInPages(t *testing.T) {
	pages := slices.DeleteFunc(readPages(t), func(page file) bool { return page.path == "CHANGELOG.md" })
	all := readTree(t, func(string) bool { return true })
	found := 0
	for _, page := range pages {
		problems, names := checkNames(page.text, all)
		found += names
		for _, problem := range problems {
			t.Errorf("%s: %s", page.path, problem)
		}
	}
	if found < 40 {
		t.Errorf("found %d names in %d pages, want at least 40", found, len(pages))
	}
}

func TestCheckNamesFindsMissingOnes(t *testing.T) {
	all := []file{
		{"pkg/a/b.go", "package a\n\nfunc (s *server) expand() {}\n\nfunc Grow[T any]() {}\n"},
		{"Makefile", "lint: lint-go ## all\n"},
	}
	for text, want := range map[string]string{
		"`expand` in `pkg/a/b.go`, `Grow` in `pkg/a/b.go`, `make lint`, `pkg/a`, `pkg/a/`, `go test ./pkg/a`": "",
		"`shrink` in `pkg/a/b.go`": "pkg/a/b.go has no function shrink",
		"`exp` in\n`pkg/a/b.go`":   "pkg/a/b.go has no function exp",
		"see `pkg/a/c.go`":         "there is no pkg/a/c.go",
		"`cat tests/nothing`":      "there is no tests/nothing",
		"`go test ./pkg/c -run X`": "there is no pkg/c",
		"    make test-everything": "the Makefile has no target test-everything",
	} {
		problems, _ := checkNames(text, all)
		if got := strings.Join(problems, "; "); got != want {
			t.Errorf("checkNames(%q) = %q, want %q", text, got, want)
		}
	}
}

const topDirs = `cmd|pkg|release|deploy|examples|tests|docs|\.ci|\.tools`

var (
	functionInFile = regexp.MustCompile("`([A-Za-z]\\w*)` in\\s+`([^`]+\\.go)`")
	pathInCode     = regexp.MustCompile(`(?:^|[\s=(]|\./)((?:` + topDirs + `)/[A-Za-z0-9_./-]*)`)
	makeTarget     = regexp.MustCompile(`\bmake ([a-z][a-z-]*)`)
)

// checkNames returns what a page names that is not there, and how many names it
// checked.
func checkNames(text string, all []file) (problems []string, names int) {
	for _, match := range functionInFile.FindAllStringSubmatch(text, -1) {
		names++
		declaration := regexp.MustCompile(`(?m)^func (?:\([^)]*\) )?` + match[1] + `[(\[]`)
		isDeclaration := func(f file) bool { return f.path == match[2] && declaration.MatchString(f.text) }
		if !slices.ContainsFunc(all, isDeclaration) {
			problems = append(problems, match[2]+" has no function "+match[1])
		}
	}
	for _, code := range codeOf(text) {
		for _, match := range pathInCode.FindAllStringSubmatch(code, -1) {
			name := strings.TrimRight(strings.TrimSuffix(match[1], "..."), "/.")
			if name == "deploy/growvol-controller" { // to kubectl, a Deployment
				continue
			}
			names++
			exists := func(f file) bool { return f.path == name || strings.HasPrefix(f.path, name+"/") }
			if !slices.ContainsFunc(all, exists) {
				problems = append(problems, "there is no "+name)
			}
		}
		for _, match := range makeTarget.FindAllStringSubmatch(code, -1) {
			names++
			rule := regexp.MustCompile(`(?m)^` + match[1] + `:`)
			isRule := func(f file) bool { return f.path == "Makefile" && rule.MatchString(f.text) }
			if !slices.ContainsFunc(all, isRule) {
				problems = append(problems, "the Makefile has no target "+match[1])
			}
		}
	}
	return problems, names
}

// codeOf returns the code of a page: its blocks and spans.
func codeOf(text string) []string {
	code := codeBlock.FindAllString(text, -1)
	text = codeBlock.ReplaceAllString(text, "")
	code = append(code, indentedBlock.FindAllString("\n"+text, -1)...)
	return append(code, codeSpan.FindAllString(strings.ReplaceAll(text, "`", " ` "), -1)...)
}
