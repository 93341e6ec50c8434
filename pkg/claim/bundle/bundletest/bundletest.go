// Package bundletest reads support bundles in tests.
package bundletest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"testing"
)

// Unpack returns the contents of the archive's files by name, without the directory that all are
// in, and the headers of the files. It fails the test if others may read a file.
func Unpack(tb testing.TB, archive []byte) (files map[string]string, headers []*tar.Header) {
	tb.Helper()
	compressed, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		tb.Fatal(err)
	}
	files = map[string]string{}
	reader := tar.NewReader(compressed)
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return files, headers
		}
		if err != nil {
			tb.Fatal(err)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			tb.Fatal(err)
		}
		if header.Mode != 0o600 {
			tb.Errorf("%s: got the mode %o, want 600", header.Name, header.Mode)
		}
		_, name, _ := strings.Cut(header.Name, "/")
		files[name], headers = string(content), append(headers, header)
	}
}
