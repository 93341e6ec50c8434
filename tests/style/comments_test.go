package style_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

const maxCommentColumns = 100

// Comments of Go files that have lines of their own fit into maxCommentColumns, a tab counted as
// one column. Directives, addresses and the output of examples may be longer.
func TestCommentWidth(t *testing.T) {
	for _, f := range readTree(t, func(name string) bool { return path.Ext(name) == ".go" }) {
		line, isOutput := 0, false
		for text := range strings.Lines(f.text) {
			line++
			isOutput = outputComment.MatchString(text) || isOutput && ownComment.MatchString(text)
			columns := utf8.RuneCountInString(strings.TrimRight(text, "\n"))
			if columns > maxCommentColumns && !isOutput && ownComment.MatchString(text) {
				t.Errorf("%s:%d: the comment has %d columns, want at most %d", f.path, line, columns, maxCommentColumns)
			}
		}
	}
}

var (
	// ownComment matches a line that is a comment, unless it contains an address.
	ownComment    = regexp.MustCompile(`^\s*// (?:[^:]|:[^/]|:/[^/])*$`)
	outputComment = regexp.MustCompile(`^\s*// (?:Unordered output|Output):`)
)

// The first declaration of every Go file has a comment, so that a reader who opens the file
// learns what it is for. Tests say it with their names.
func TestFilesBeginWithComment(t *testing.T) {
	isCode := func(name string) bool { return path.Ext(name) == ".go" && !strings.HasSuffix(name, "_test.go") }
	for _, f := range readTree(t, isCode) {
		parsed, err := parser.ParseFile(token.NewFileSet(), f.path, f.text, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if !beginsWithComment(parsed) {
			t.Errorf("%s: the first declaration has no comment: write what the file is for", f.path)
		}
	}
}

func TestBeginsWithComment(t *testing.T) {
	for text, want := range map[string]bool{
		"package a\n": true,
		"// Package a is one.\npackage a\n\nfunc f() {}\n":                             true,
		"package a\n\nimport \"os\"\n\n// f is one.\nfunc f() {}\n\nvar v = os.Args\n": true,
		"package a\n\nconst (\n\t// c is one.\n\tc = 1\n)\n":                           true,
		"package a\n\nfunc f() {}\n\n// g is one.\nfunc g() {}\n":                      false,
		"package a\n\ntype t int\n":                                                    false,
	} {
		parsed, err := parser.ParseFile(token.NewFileSet(), "a.go", text, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if got := beginsWithComment(parsed); got != want {
			t.Errorf("beginsWithComment(%q) = %t, want %t", text, got, want)
		}
	}
}

// beginsWithComment reports whether a file has a package comment, or a comment on its first
// declaration or on the first member of that.
func beginsWithComment(f *ast.File) bool {
	if f.Doc != nil {
		return true
	}
	for _, declaration := range f.Decls {
		switch d := declaration.(type) {
		case *ast.FuncDecl:
			return d.Doc != nil
		case *ast.GenDecl:
			if d.Tok == token.IMPORT {
				continue
			}
			switch first := d.Specs[0].(type) {
			case *ast.TypeSpec:
				return d.Doc != nil || first.Doc != nil
			case *ast.ValueSpec:
				return d.Doc != nil || first.Doc != nil
			}
		}
	}
	return true
}
