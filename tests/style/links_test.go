package style_test

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Relative links of every page lead to a file of the tree, and those with an anchor to
// a heading of it.
func TestLinks(t *testing.T) {
	pages, links := readPages(t), 0
	all := readTree(t, func(string) bool { return true })
	for _, page := range pages {
		for _, target := range findLinks(page.text) {
			links++
			if problem := checkLink(page, target, all); problem != "" {
				t.Errorf("%s: link %s: %s", page.path, target, problem)
			}
		}
	}
	if links < 30 {
		t.Errorf("found %d links in %d pages, want at least 30", links, len(pages))
	}
}

func TestCheckLinkFindsBrokenLinks(t *testing.T) {
	page := file{"docs/a.md", "# A title: `code` and more\n"}
	all := []file{page, {"docs/deep/b.md", "## Twice\n```\n# no heading\n```\n## Twice\n"}, {"LICENSE", ""}}
	for target, works := range map[string]bool{
		"../LICENSE":             true,
		"../docs":                true,
		"deep/b.md#twice":        true,
		"deep/b.md#twice-1":      true,
		"#a-title-code-and-more": true,
		"LICENSE":                false,
		"../../LICENSE":          false,
		"deep/b.md#thrice":       false,
		"deep/b.md#no-heading":   false,
		"#twice":                 false,
	} {
		if problem := checkLink(page, target, all); (problem == "") != works {
			t.Errorf("checkLink(%s) = %q, want works = %t", target, problem, works)
		}
	}
	text := "[a](b.md) ![c](d.png \"title\") `[e](f)` [g](https://example.org)\n[h]: i.md#j\n" +
		"<img src=\"k.svg\">\n```\n[k](l)\n```\n"
	if got, want := findLinks(text), []string{"b.md", "d.png", "i.md#j", "k.svg"}; !slices.Equal(got, want) {
		t.Errorf("findLinks = %v, want %v", got, want)
	}
}

var (
	inlineLink  = regexp.MustCompile(`\]\(<?([^)>\s]*)>?(?:\s+"[^"]*")?\)`)
	linkLabel   = regexp.MustCompile(`(?m)^ {0,3}\[[^\]]+\]:\s*(\S+)`)
	htmlLink    = regexp.MustCompile(`(?:href|src|srcset)="([^"]+)"`)
	codeBlock   = regexp.MustCompile("(?ms)^\\s*```.*?^\\s*```\\s*$")
	codeSpan    = regexp.MustCompile("`[^`\n]*`")
	heading     = regexp.MustCompile(`(?m)^#{1,6} +(.*?) *#*$`)
	notInAnchor = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
	outsideTree = regexp.MustCompile(`^[a-z]+:`)
)

// findLinks returns the targets of a page's links within the tree.
func findLinks(text string) []string {
	text = codeSpan.ReplaceAllString(codeBlock.ReplaceAllString(text, ""), "")
	var targets []string
	for _, pattern := range []*regexp.Regexp{inlineLink, linkLabel, htmlLink} {
		for _, match := range pattern.FindAllStringSubmatch(text, -1) {
			if !outsideTree.MatchString(match[1]) {
				targets = append(targets, match[1])
			}
		}
	}
	return targets
}

// checkLink returns what is wrong with a link from page to target, or "".
func checkLink(page file, target string, all []file) string {
	name, anchor, hasAnchor := strings.Cut(target, "#")
	found := page
	if name != "" {
		name = path.Join(path.Dir(page.path), name)
		i := slices.IndexFunc(all, func(f file) bool { return f.path == name })
		if i < 0 {
			isDir := slices.ContainsFunc(all, func(f file) bool { return strings.HasPrefix(f.path, name+"/") })
			if isDir && !hasAnchor {
				return ""
			}
			return fmt.Sprintf("there is no file %s", name)
		}
		found = all[i]
	}
	if hasAnchor && !slices.Contains(anchors(found.text), anchor) {
		return fmt.Sprintf("%s has no heading with the anchor %s", found.path, anchor)
	}
	return ""
}

// anchors returns the anchors that GitHub gives the headings of a page: lower case,
// without punctuation, with a number from the second of a name on.
func anchors(text string) []string {
	var all []string
	seen := map[string]int{}
	for _, match := range heading.FindAllStringSubmatch(codeBlock.ReplaceAllString(text, ""), -1) {
		anchor := strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(match[1]), ""), " ", "-")
		if n := seen[anchor]; n > 0 {
			all = append(all, fmt.Sprintf("%s-%d", anchor, n))
		} else {
			all = append(all, anchor)
		}
		seen[anchor]++
	}
	return all
}
