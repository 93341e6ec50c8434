// Package bundle collects what a maintainer needs to help a user: the objects of the driver and of
// claims, logs, metrics, and what the other commands of kubectl growvol print. It reads no Secret
// and no ConfigMap.
//
// bundle.go collects, sources.go lists everything that is read, read.go reads it, driver.go and
// claims.go select what concerns the driver and the claims, and manifest.go has the list of the
// contents. The only way into the archive is package redacted, which removes secrets.
package bundle

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/growvol/growvol/pkg/claim/bundle/redacted"
	"github.com/growvol/growvol/pkg/volume"
)

// Selection selects the claims of a bundle.
type Selection struct {
	Namespace string   // empty: all namespaces
	Names     []string // empty: all claims of the namespace
}

// Has reports whether a claim of the namespace is selected.
func (s Selection) Has(name string) bool { return len(s.Names) == 0 || slices.Contains(s.Names, name) }

// Logs bounds the logs.
type Logs struct {
	Since time.Duration // how old a line may be
	Bytes volume.Size   // of each container, the last ones
}

// Document is a file that is not read by this package.
type Document struct {
	File string // in the archive
	What string // such as "the output of kubectl growvol doctor"
	// Read returns a text, or an object that encoding/json can marshal.
	Read func(ctx context.Context) (any, error)
}

// Collector collects a bundle.
type Collector struct {
	API       API
	Claims    Selection
	Logs      Logs
	Documents []Document
	MadeAt    time.Time
	// Progress is called before something is read.
	Progress func(text string)
}

// run is the collection of one bundle.
type run struct {
	*Collector
	archive  *redacted.Archive
	unread   []Unread
	logBytes int // of all logs up to now
}

// Unread is something that could not be read.
type Unread struct {
	What   string // the file that is missing, or the part of it
	Reason string // with the missing right, if it is one
	// IsAbsent reports that the cluster does not have it: not an error.
	IsAbsent bool
}

// Collect reads everything and adds it to the archive. What cannot be read is in the manifest,
// which is the last file, and in the result. The error is one of the archive or of ctx; or the API
// server does not answer.
func (c *Collector) Collect(ctx context.Context, archive *redacted.Archive) ([]Unread, error) {
	r := &run{Collector: c, archive: archive}
	for _, step := range []func(context.Context) error{
		r.addVersion, r.addCluster, r.addDriver, r.addClaims, r.addDocuments,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return r.unread, archive.AddText("MANIFEST.txt", r.manifest())
}

// addVersion adds the version of the API server. If the server does not answer, there is no bundle.
func (r *run) addVersion(ctx context.Context) error {
	r.Progress("the version of Kubernetes")
	s := versionSource()
	raw, err := r.get(ctx, s, nil)
	if err != nil {
		if volume.KindOf(err) != volume.KindDenied {
			return fmt.Errorf("cannot read the version of Kubernetes: %w", err)
		}
		r.notRead(s.file, err)
		return nil
	}
	return r.archive.AddText(s.file, string(raw))
}

// addCluster adds the objects that concern the whole cluster.
func (r *run) addCluster(ctx context.Context) error {
	for _, s := range clusterSources() {
		r.Progress(s.resource)
		list, err := r.list(ctx, s, nil)
		if err != nil {
			r.notRead(s.file, err)
			continue
		}
		for i := range list.Items {
			removeField(&list.Items[i], "status", "images") // of nodes: large, and of no use
		}
		if err := r.archive.AddObject(s.file, list.UnstructuredContent()); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) addDocuments(ctx context.Context) error {
	for _, d := range r.Documents {
		r.Progress(d.What)
		content, err := d.Read(ctx)
		if err != nil {
			r.notRead(d.File, err)
			continue
		}
		if text, isText := content.(string); isText {
			err = r.archive.AddText(d.File, text)
		} else {
			err = r.archive.AddObject(d.File, content)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// notRead records that something could not be read.
func (r *run) notRead(what string, err error) {
	r.unread = append(r.unread, Unread{
		What: what, Reason: err.Error(), IsAbsent: volume.KindOf(err) == volume.KindNotFound,
	})
}
