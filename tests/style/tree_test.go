// Package style_test checks how the tree reads: its words, the links between its pages,
// and what its pages say about packages and files. It needs no network and no
// privileges. `make lint` runs it.
package style_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// file is a file of the tree; path is relative to its root.
type file struct{ path, text string }

// readTree returns the files for which want returns true. It leaves out what git does
// not have (bin, dist) or does not show (.git).
func readTree(t *testing.T, want func(path string) bool) []file {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var files []file
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if entry.IsDir() && (name == ".git" || name == "bin" || name == "dist") {
			return filepath.SkipDir
		}
		if !entry.Type().IsRegular() || !want(name) {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files = append(files, file{name, string(content)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// readPages returns the Markdown files of the tree.
func readPages(t *testing.T) []file {
	t.Helper()
	return readTree(t, func(path string) bool { return strings.HasSuffix(path, ".md") })
}
