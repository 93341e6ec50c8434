// Package stagerecord keeps what the node plugin must still know of its staged volumes after a
// restart: kubelet does not stage a staged volume again. Each volume has one small JSON file in the
// state directory of the plugin, from before it is mounted until it is unstaged.
//
// Store reads and writes the records; package node decides what they say.
package stagerecord

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/growvol/growvol/pkg/statefile"
	"github.com/growvol/growvol/pkg/volume"
)

// Record is what is known of one staged volume. The JSON names must not change: files with them are
// on the disks of nodes.
type Record struct {
	ID        string `json:"volume"`
	Staging   string `json:"stagingPath"`
	Block     bool   `json:"block,omitempty"`
	ReadOnly  bool   `json:"readOnly,omitempty"`
	Encrypted bool   `json:"encrypted,omitempty"` // the volume's LUKS2 mapping is mounted or published
	// Size and PublishedSize are those of volume.Connection at stage; zero if unknown.
	Size          volume.Size `json:"sizeBytes,omitempty"`
	PublishedSize volume.Size `json:"attachedBytes,omitempty"`
	Granularity   volume.Size `json:"granuleBytes,omitempty"` // of volume.Connection
	MaxOverhead   volume.Size `json:"hiddenBytes,omitempty"`  // of volume.Connection
	// Major and Minor are the number of the volume's disk at stage. Another disk can have the number
	// after a reboot: it is a reason to read the volume's state, and no proof of identity.
	Major uint32 `json:"major"`
	Minor uint32 `json:"minor"`
}

// Complete returns the connection that Locate has found, completed by the record: a connector can
// learn size and encryption only at Connect.
func (r Record) Complete(located volume.Connection) volume.Connection {
	if r.ID == "" {
		return located
	}
	located.Size = max(located.Size, r.Size)
	located.MaxOverhead = r.MaxOverhead
	return located
}

// Store is the state directory of a node plugin.
type Store struct {
	Dir string // on the node's own disk; made when it is first needed
	Log *slog.Logger
}

const (
	prefix = "staged-"
	suffix = ".json"
)

// maxNameLength is the maximum length in bytes of an escaped id in a file name; the hash of the id
// replaces a longer one. The kernel allows names of 255 bytes (NAME_MAX of <linux/limits.h>).
const maxNameLength = 200

// Path returns the path of the volume's file with this prefix in the directory.
func (s Store) Path(prefix, id string) string {
	name := url.PathEscape(id)
	if len(name) > maxNameLength {
		name = fmt.Sprintf("sha256-%x", sha256.Sum256([]byte(id)))
	}
	return filepath.Join(s.Dir, prefix+name)
}

func (s Store) recordPath(id string) string { return s.Path(prefix, id) + suffix }

// Write writes the record of r.ID, in place of the one that is there.
func (s Store) Write(r Record) error {
	err := os.MkdirAll(s.Dir, 0o700)
	if err == nil {
		err = statefile.Write(s.recordPath(r.ID), r)
	}
	return storeError(err)
}

// Read returns the record of a volume, or the zero Record when there is none: another driver or an
// older version has staged the volume.
func (s Store) Read(id string) (Record, error) {
	var r Record
	exists, err := statefile.Read(s.recordPath(id), &r)
	if err != nil || !exists || r.ID != id {
		return Record{}, storeError(err)
	}
	return r, nil
}

// Remove removes the record of a volume, if there is one.
func (s Store) Remove(id string) error {
	return storeError(statefile.Remove(s.recordPath(id)))
}

// List returns the records of all staged volumes. A record that cannot be read is logged and left
// out.
func (s Store) List(ctx context.Context) ([]Record, error) {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, storeError(err)
	}
	var all []Record
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) || !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		var r Record
		path := filepath.Join(s.Dir, e.Name())
		exists, err := statefile.Read(path, &r)
		switch {
		case err != nil:
			s.Log.WarnContext(ctx, "the record of a staged volume cannot be read", "file", path, "error", err)
		case exists && s.recordPath(r.ID) == path:
			all = append(all, r)
		}
	}
	return all, nil
}

// IDs returns the ids of all volumes that are staged on this node, or whose staging has begun. It
// returns none when the directory cannot be read.
func (s Store) IDs(ctx context.Context) []string {
	records, _ := s.List(ctx)
	var ids []string
	for _, r := range records {
		ids = append(ids, r.ID)
	}
	return ids
}

func storeError(err error) error {
	if err == nil {
		return nil
	}
	return volume.Errorf(volume.KindInternal, "cannot access the record of a staged volume: %w", err).
		WithRemedy("check the state directory of the node plugin on this node (--state-dir; Helm value node.stateDir): " +
			"it must be writable and have space")
}
