package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/statefile"
	"github.com/growvol/growvol/pkg/volume"
)

// record is what the plugin must still know of a staged volume after a
// restart: kubelet does not stage again what is staged already. It lies in
// the state directory from before the volume is mounted until it is unstaged.
type record struct {
	ID       string `json:"volume"`
	Staging  string `json:"stagingPath"`
	Block    bool   `json:"block,omitempty"`
	ReadOnly bool   `json:"readOnly,omitempty"`
	// Encrypted: what is mounted or published is the volume's LUKS2 mapping.
	Encrypted bool `json:"encrypted,omitempty"`
	// Size of the volume when it was staged, and what the controller read when it
	// attached the volume. Bytes; zero: unknown.
	Size     volume.Size `json:"sizeBytes,omitempty"`
	Attached volume.Size `json:"attachedBytes,omitempty"`
	// Granule and Hidden are those of volume.Connection.
	Granule volume.Size `json:"granuleBytes,omitempty"`
	Hidden  volume.Size `json:"hiddenBytes,omitempty"`
	// Major and Minor are the number of the volume's disk at stage. Another
	// disk may have it after a reboot: it is a reason to look, never evidence.
	Major uint32 `json:"major"`
	Minor uint32 `json:"minor"`
}

const (
	recordPrefix = "staged-"
	recordSuffix = ".json"
)

func isRecordName(name string) bool {
	return strings.HasPrefix(name, recordPrefix) && strings.HasSuffix(name, recordSuffix)
}

// maxFileName is the length up to which an escaped id is part of a file's name.
// The kernel allows 255 bytes (NAME_MAX of <linux/limits.h>).
const maxFileName = 200

// fileName is a volume id as a part of the name of a file.
func fileName(id string) string {
	name := url.PathEscape(id)
	if len(name) <= maxFileName {
		return name
	}
	return fmt.Sprintf("sha256-%x", sha256.Sum256([]byte(id)))
}

func (s *Server) recordPath(id string) string {
	return filepath.Join(s.opts.StateDir, recordPrefix+fileName(id)+recordSuffix)
}

// connection returns what the record knows beside what the connector has
// located: a connector may learn size and encryption only at Connect.
func (r record) connection(located volume.Connection) volume.Connection {
	if r.ID == "" {
		return located
	}
	located.Size = max(located.Size, r.Size)
	located.MaxOverhead = r.Hidden
	return located
}

// writeRecord notes that the volume is staged, or is about to be.
func (st *stageCall) writeRecord(disk blockdev.Device, conn volume.Connection) error {
	st.previousRecord, _ = st.readRecord(st.id) // one that is damaged is replaced
	st.isRecorded = true
	return st.saveRecord(record{
		ID: st.id, Staging: st.path, Block: st.access.Block, ReadOnly: st.readOnly(), Encrypted: st.encrypted,
		Size: conn.Size, Attached: conn.PublishedSize, Granule: conn.Granularity, Hidden: conn.MaxOverhead,
		Major: disk.Major, Minor: disk.Minor,
	})
}

// restoreRecord takes writeRecord back after a failure, where this call has
// mounted nothing: the volume is staged as it was before this call, or not at
// all. What was mounted already, as this call asks for, is recorded rightly; and
// a first record is of use for the retry of what can pass.
func (st *stageCall) restoreRecord(cause error) error {
	switch {
	case !st.isRecorded, st.wasMounted:
		return nil
	case st.previousRecord.ID != "":
		return st.saveRecord(st.previousRecord)
	case isTransient(cause):
		return nil
	}
	return st.removeRecord(st.id)
}

func (s *Server) saveRecord(r record) error {
	err := os.MkdirAll(s.opts.StateDir, 0o700)
	if err == nil {
		err = statefile.Write(s.recordPath(r.ID), r)
	}
	return recordError(err)
}

// readRecord returns the record of a volume, and the zero record when there is
// none: it was staged by another driver or an older version.
func (s *Server) readRecord(id string) (record, error) {
	var r record
	exists, err := statefile.Read(s.recordPath(id), &r)
	if err != nil || !exists || r.ID != id {
		return record{}, recordError(err)
	}
	return r, nil
}

func (s *Server) removeRecord(id string) error {
	return recordError(statefile.Remove(s.recordPath(id)))
}

// records returns those of all staged volumes. One that cannot be read is
// logged and left out.
func (s *Server) records(ctx context.Context) ([]record, error) {
	entries, err := os.ReadDir(s.opts.StateDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, recordError(err)
	}
	var all []record
	for _, e := range entries {
		if !isRecordName(e.Name()) {
			continue
		}
		var r record
		path := filepath.Join(s.opts.StateDir, e.Name())
		exists, err := statefile.Read(path, &r)
		switch {
		case err != nil:
			s.log.WarnContext(ctx, "the record of a staged volume cannot be read", "file", path, "error", err)
		case exists && s.recordPath(r.ID) == path:
			all = append(all, r)
		}
	}
	return all, nil
}

func recordError(err error) error {
	if err == nil {
		return nil
	}
	return volume.Errorf(volume.KindInternal, "keep the record of a staged volume: %w", err).
		WithRemedy("check the state directory of the node plugin on this node (--state-dir): it must be writable and have space")
}
