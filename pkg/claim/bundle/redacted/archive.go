// Package redacted writes archives whose contents are redacted. Archive alone has the writer of the
// archive: a caller has no way to store a text or an object with its secrets.
//
// archive.go has the archive, object.go the rules for objects of Kubernetes, text.go those for
// texts, and names.go says which names stand before a secret.
package redacted

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// Archive is a compressed tar archive. It is for one goroutine.
type Archive struct {
	directory string
	writtenAt time.Time
	gzip      *gzip.Writer
	tar       *tar.Writer
	redactor  *redactor
	files     []File
}

// File is a file of an archive.
type File struct {
	Name       string
	Bytes      int
	Redactions int // the number of places where something was removed
}

// New returns an archive that is written to w. All files are in the directory and have the time
// writtenAt, so that the same contents make the same archive.
func New(w io.Writer, directory string, writtenAt time.Time) *Archive {
	compressor := gzip.NewWriter(w)
	return &Archive{
		directory: directory, writtenAt: writtenAt, gzip: compressor, tar: tar.NewWriter(compressor), redactor: newRedactor(),
	}
}

// AddText adds a file with the text, without its secrets.
func (a *Archive) AddText(name, text string) error {
	return a.add(name, text)
}

// AddObject adds a file with the object, without its secrets: as JSON if the name ends with .json,
// otherwise as YAML. The object is what encoding/json can marshal. A Secret or a ConfigMap is an
// error.
func (a *Archive) AddObject(name string, object any) error {
	raw, err := json.Marshal(object)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber() // sizes are above what a float64 can hold
	var tree any
	if err := decoder.Decode(&tree); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if tree, err = a.redactor.object(tree); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if raw, err = json.MarshalIndent(tree, "", "  "); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if path.Ext(name) != ".json" {
		if raw, err = yaml.JSONToYAML(raw); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return a.add(name, strings.TrimSpace(string(raw))+"\n")
}

// add adds a file with the text, without its secrets. It is the only function that writes to the
// archive.
func (a *Archive) add(name, text string) error {
	text = a.redactor.text(text)
	redactions := a.redactor.count
	a.redactor.count = 0
	header := &tar.Header{
		Name: path.Join(a.directory, name), Mode: 0o600, Size: int64(len(text)), ModTime: a.writtenAt,
		Format: tar.FormatPAX, Typeflag: tar.TypeReg,
	}
	if err := a.tar.WriteHeader(header); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if _, err := io.WriteString(a.tar, text); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	a.files = append(a.files, File{Name: name, Bytes: len(text), Redactions: redactions})
	return nil
}

// Files returns the files that were added, in their order.
func (a *Archive) Files() []File { return a.files }

// Close writes the end of the archive. It does not close the writer below.
func (a *Archive) Close() error {
	if err := a.tar.Close(); err != nil {
		return err
	}
	return a.gzip.Close()
}

// Verify reads an archive to its end and returns an error unless it has the files, with the same
// sizes and in the same order.
func Verify(archive io.Reader, directory string, files []File) error {
	compressed, err := gzip.NewReader(archive)
	if err != nil {
		return err
	}
	reader := tar.NewReader(compressed)
	for _, want := range files {
		header, err := reader.Next()
		if err != nil {
			return fmt.Errorf("%s: %w", want.Name, err)
		}
		size, err := io.Copy(io.Discard, reader)
		if err != nil {
			return fmt.Errorf("%s: %w", want.Name, err)
		}
		if name := path.Join(directory, want.Name); header.Name != name || size != int64(want.Bytes) {
			return fmt.Errorf("the archive has %s with %d bytes instead of %s with %d bytes",
				header.Name, size, name, want.Bytes)
		}
	}
	if header, err := reader.Next(); err == nil {
		return fmt.Errorf("the archive has one file more: %s", header.Name)
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
