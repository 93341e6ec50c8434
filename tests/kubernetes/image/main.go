// Command image packs a directory into a container image for `ctr images import`: an OCI
// image layout in a tar file, with one layer. Equal content gives an equal image.
//
//	image -out FILE -name NAME:TAG [-user UID:GID] [-entrypoint PROGRAM] DIRECTORY
//
// It prints the digest of the image's configuration.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run() error {
	out := flag.String("out", "", "the file to write")
	name := flag.String("name", "", "NAME:TAG of the image")
	user := flag.String("user", "", "UID:GID of its processes")
	entrypoint := flag.String("entrypoint", "", "program that it runs")
	flag.Parse()
	if *out == "" || *name == "" || flag.NArg() != 1 {
		return errors.New("usage: image -out FILE -name NAME:TAG [-user UID:GID] [-entrypoint PROGRAM] DIRECTORY")
	}
	const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	settings := config{User: *user, Env: []string{path}, WorkingDir: "/"}
	if *entrypoint != "" {
		settings.Entrypoint = strings.Fields(*entrypoint)
	}
	layer, err := packDirectory(flag.Arg(0))
	if err != nil {
		return err
	}
	file, err := os.Create(*out)
	if err != nil {
		return err
	}
	id, err := writeImage(file, *name, settings, layer)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	_, err = fmt.Println(id)
	return err
}

// packDirectory returns a tar file with everything below dir. Root owns all files, and
// they have no times.
func packDirectory(dir string) ([]byte, error) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		return addFile(w, dir, path, entry)
	})
	return layer.Bytes(), errors.Join(err, w.Close())
}

// addFile adds a file, directory or link to the layer.
func addFile(w *tar.Writer, dir, path string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	var target string
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	from, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	name, err := filepath.Rel(dir, path)
	if err != nil {
		return err
	}
	header := &tar.Header{
		Typeflag: from.Typeflag, Name: name, Linkname: target, Size: from.Size, Mode: from.Mode, Format: tar.FormatPAX,
	}
	if err := w.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, file)
	return errors.Join(err, file.Close())
}

// The used parts of the types of the OCI image specification, v1.1.

type config struct {
	User       string   `json:"User,omitempty"`
	Env        []string `json:"Env"`
	Entrypoint []string `json:"Entrypoint,omitempty"`
	WorkingDir string   `json:"WorkingDir"`
}

type image struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Config       config `json:"config"`
	RootFS       rootFS `json:"rootfs"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	Manifests     []descriptor `json:"manifests"`
}

// layout writes an OCI image layout to a tar file.
type layout struct {
	tar *tar.Writer
}

// addFile adds a file to the layout.
func (l layout) addFile(name string, content []byte) error {
	if err := l.tar.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: 0o644}); err != nil {
		return err
	}
	_, err := l.tar.Write(content)
	return err
}

// addBlob adds content by its hash and returns its descriptor.
func (l layout) addBlob(mediaType string, content []byte) (descriptor, error) {
	sum := fmt.Sprintf("%x", sha256.Sum256(content))
	d := descriptor{MediaType: mediaType, Digest: "sha256:" + sum, Size: len(content)}
	return d, l.addFile("blobs/sha256/"+sum, content)
}

// addObject adds a JSON object as a blob.
func (l layout) addObject(mediaType string, object any) (descriptor, error) {
	content, err := json.Marshal(object)
	if err != nil {
		return descriptor{}, err
	}
	return l.addBlob(mediaType, content)
}

// writeImage writes the image and returns the digest of its configuration.
func writeImage(to io.Writer, name string, settings config, layer []byte) (string, error) {
	const kind = "application/vnd.oci.image."
	l := layout{tar.NewWriter(to)}
	content, err := l.addBlob(kind+"layer.v1.tar", layer)
	if err != nil {
		return "", err
	}
	configuration, err := l.addObject(kind+"config.v1+json", image{
		Architecture: runtime.GOARCH, OS: "linux", Config: settings,
		RootFS: rootFS{Type: "layers", DiffIDs: []string{content.Digest}},
	})
	if err != nil {
		return "", err
	}
	described, err := l.addObject(kind+"manifest.v1+json", manifest{
		SchemaVersion: 2, MediaType: kind + "manifest.v1+json", Config: configuration, Layers: []descriptor{content},
	})
	if err != nil {
		return "", err
	}
	described.Annotations = map[string]string{"io.containerd.image.name": name}
	all, err := json.Marshal(index{SchemaVersion: 2, Manifests: []descriptor{described}})
	if err != nil {
		return "", err
	}
	return configuration.Digest, errors.Join(
		l.addFile("oci-layout", []byte(`{"imageLayoutVersion": "1.0.0"}`)),
		l.addFile("index.json", all),
		l.tar.Close(),
	)
}
