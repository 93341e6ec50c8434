package style_test

import (
	"path"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

const maxCommentColumns = 100

// Comments of Go files that have lines of their own fit into maxCommentColumns,
// a tab counted as one column. Directives and addresses may be longer.
func TestCommentWidth(t *testing.T) {
	for _, f := range readTree(t, func(name string) bool { return path.Ext(name) == ".go" }) {
		line := 0
		for text := range strings.Lines(f.text) {
			line++
			columns := utf8.RuneCountInString(strings.TrimRight(text, "\n"))
			if columns > maxCommentColumns && ownComment.MatchString(text) {
				t.Errorf("%s:%d: the comment has %d columns, want at most %d", f.path, line, columns, maxCommentColumns)
			}
		}
	}
}

// ownComment matches a line that is a comment, unless it contains an address.
var ownComment = regexp.MustCompile(`^\s*// (?:[^:]|:[^/]|:/[^/])*$`)
