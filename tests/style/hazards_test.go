package style_test

import (
	"regexp"
	"strings"
	"testing"
)

// This file checks the page that names a test for each measured fact about Ceph.

const hazardsPage = "tests/ceph/hazards.md"

// Each line of the table names at least one test, and every test that it names exists.
func TestHazardsHaveTests(t *testing.T) {
	all := readTree(t, func(path string) bool { return path == hazardsPage || strings.HasSuffix(path, "_test.go") })
	rows := 0
	for _, page := range all {
		if page.path != hazardsPage {
			continue
		}
		for _, row := range hazardRow.FindAllStringSubmatch(page.text, -1) {
			if rows++; rows == 1 {
				continue // the header
			}
			for _, problem := range checkHazard(row[2], all) {
				t.Errorf("%s: %s: %s", hazardsPage, row[1], problem)
			}
		}
	}
	if rows < 21 {
		t.Errorf("found %d rows in %s, want the header and at least 20 facts", rows, hazardsPage)
	}
}

func TestCheckHazardFindsMissingTests(t *testing.T) {
	all := []file{
		{"tests/ceph/a_test.go", `func x() { t.Run("healthy", f); t.Run("full pool", g); t.Run(delay.String(), h) }`},
		{"tests/ceph/a.go", "func TestInNoTestFile(t *testing.T) {}"},
		{"pkg/b/b_test.go", "func TestB(t *testing.T) { t.Run(\"elsewhere\", f) }"},
	}
	for text, want := range map[string]string{
		"`healthy/full pool`, `TestB` in `pkg/b`": "",
		"`full pool`: why":                        "",
		"`healthy/empty pool`":                    "tests/ceph has no subtest healthy/empty pool",
		"`elsewhere`":                             "tests/ceph has no subtest elsewhere",
		"`TestBee`":                               "there is no TestBee",
		"`TestInNoTestFile`":                      "there is no TestInNoTestFile",
		"the same: `pkg/b`":                       "names no test",
		"the same":                                "names no test",
	} {
		if got := strings.Join(checkHazard(text, all), "; "); got != want {
			t.Errorf("checkHazard(%q) = %q, want %q", text, got, want)
		}
	}
}

// hazardRow matches a row of the table, also the header: a fact, and its tests.
var hazardRow = regexp.MustCompile(`(?m)^\| ([^|]+) \| ([^|]+) \|$`)

// checkHazard returns what is wrong with the tests that a row names in code spans.
func checkHazard(text string, all []file) (problems []string) {
	names := 0
	for _, span := range codeSpan.FindAllString(text, -1) {
		name := strings.Trim(span, "`")
		if strings.HasPrefix(name, "pkg/") { // a directory; TestNamesInPages checks it
			continue
		}
		names++
		if strings.HasPrefix(name, "Test") {
			if !anyMatches(all, "", `(?m)^func `+regexp.QuoteMeta(name)+`\(`) {
				problems = append(problems, "there is no "+name)
			}
			continue
		}
		for part := range strings.SplitSeq(name, "/") {
			if !anyMatches(all, "tests/ceph/", `\bt\.Run\("`+regexp.QuoteMeta(part)+`"`) {
				problems = append(problems, "tests/ceph has no subtest "+name)
				break
			}
		}
	}
	if names == 0 {
		problems = append(problems, "names no test")
	}
	return problems
}

// anyMatches reports whether a file with tests in the directory matches the expression.
func anyMatches(all []file, dir, expression string) bool {
	pattern := regexp.MustCompile(expression)
	for _, f := range all {
		if strings.HasPrefix(f.path, dir) && strings.HasSuffix(f.path, "_test.go") && pattern.MatchString(f.text) {
			return true
		}
	}
	return false
}
