package node

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/growvol/growvol/pkg/node/stagerecord"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/readings"
	"github.com/growvol/growvol/pkg/volume"
)

const (
	// volumeReadTimeout bounds the reading of one volume: a frozen filesystem, or a device that is
	// gone, delays an answer by no more.
	volumeReadTimeout = 2 * time.Second
	// maxReadingsAtOnce bounds the volumes that are read at the same time.
	maxReadingsAtOnce = 16
)

// ReadVolumes returns the sizes and the usage of the volumes that are staged here, ordered by id:
// of ids, or of all if ids is empty. What cannot be read in volumeReadTimeout has the value of the
// last reading and a Problem. At most one reading of each volume hangs.
//
// It returns an error of kind Internal if the records of the staged volumes cannot be read.
func (s *Server) ReadVolumes(ctx context.Context, ids []string) ([]readings.Volume, error) {
	records, err := s.records.List(ctx)
	if err != nil {
		return nil, err
	}
	s.forgetReadings(records)
	if len(ids) > 0 {
		records = slices.DeleteFunc(records, func(r stagerecord.Record) bool { return !slices.Contains(ids, r.ID) })
	}
	slices.SortFunc(records, func(a, b stagerecord.Record) int { return strings.Compare(a.ID, b.ID) })
	volumes := make([]readings.Volume, len(records))
	var group errgroup.Group
	group.SetLimit(maxReadingsAtOnce)
	for i, r := range records {
		group.Go(func() error {
			volumes[i] = s.readVolume(ctx, r)
			return nil
		})
	}
	_ = group.Wait() // each error is the Problem of its volume
	return volumes, nil
}

// forgetReadings forgets the readings of volumes that are no longer staged.
func (s *Server) forgetReadings(records []stagerecord.Record) {
	staged := map[string]bool{}
	for _, r := range records {
		staged[r.ID] = true
	}
	s.lastReadings.values.Range(func(id, _ any) bool {
		if text, ok := id.(string); ok && !staged[text] {
			s.lastReadings.forget(text)
		}
		return true
	})
}

// readVolume reads one volume in volumeReadTimeout.
func (s *Server) readVolume(ctx context.Context, r stagerecord.Record) readings.Volume {
	last := s.lastReadings.getOrSet(r.ID, &volumeReading{volume: readings.Volume{ID: r.ID}})
	if since := last.runsSince(); !since.IsZero() && time.Since(since) > volumeReadTimeout {
		return last.result(fmt.Errorf("the reading that began at %s has not ended", since.UTC().Format(time.RFC3339)))
	}
	ctx, cancel := context.WithTimeout(ctx, volumeReadTimeout)
	defer cancel()
	lease, err := s.lockReading(ctx, r.ID)
	if err != nil {
		return last.result(err)
	}
	defer lease.Release()
	_, err = operation.RunDetached(ctx, lease, "reading the volume", func() (_ struct{}, err error) {
		last.start(r.Staging)
		defer last.end()
		defer func() {
			if p := recover(); p != nil { // RunDetached would end the process with it
				s.log.ErrorContext(ctx, "reading a volume panicked", "volume", r.ID, "panic", p, "stack", string(debug.Stack()))
				err = volume.Errorf(volume.KindInternal, "reading the volume has panicked").
					WithRemedy("read the log of the node plugin")
			}
		}()
		return struct{}{}, s.readLayers(ctx, r, last)
	})
	return last.result(err)
}

// readLayers reads device, mapping and filesystem of a volume, as far as it can, and sets in last
// what it has read.
func (s *Server) readLayers(ctx context.Context, r stagerecord.Record, last *volumeReading) error {
	conn, connected, err := s.opts.Connector.Locate(ctx, r.ID)
	if err != nil {
		return err
	}
	if !connected {
		return volume.Errorf(volume.KindPrecondition, "the volume is staged on this node, but its device is gone").
			WithRemedy("delete the pods that use the volume, so that it is attached and staged again")
	}
	disk, err := s.opts.Devices.ByPath(conn.Path)
	if err != nil {
		return err
	}
	began := time.Now()
	size, err := s.opts.Devices.Size(disk)
	if err != nil {
		return err
	}
	last.set(readings.Layer{Name: readings.LayerDevice, Size: size, Detail: disk.Path, ReadAt: began})
	began = time.Now()
	m, mapped, err := s.inspector.FindMapping(ctx, r.ID, disk)
	switch {
	case err != nil: // the filesystem can be read without it
	case mapped:
		last.set(readings.Layer{Name: readings.LayerMapping, Size: m.Size, Detail: m.Device.Path, ReadAt: began})
	default:
		last.remove(readings.LayerMapping)
	}
	if r.Block {
		return err
	}
	return volume.Join(err, s.readFilesystem(ctx, r, last))
}

// readFilesystem reads size and usage of the filesystem that is mounted at the staging path.
func (s *Server) readFilesystem(ctx context.Context, r stagerecord.Record, last *volumeReading) error {
	path := filepath.Clean(r.Staging)
	m, mounted, err := s.opts.Filesystems.FindMount(path)
	if err != nil {
		return err
	}
	if !mounted {
		return volume.Errorf(volume.KindPrecondition, "no filesystem is mounted at %s", path)
	}
	opened := operation.NewLease(func() {})
	defer opened.Release()
	vol, err := s.inspector.OpenMount(ctx, r.ID, m, opened)
	if err != nil {
		return err
	}
	began := time.Now()
	f, err := s.opts.Filesystems.Measure(ctx, vol, m.MountPoint)
	if err != nil {
		return err
	}
	if f.IsShutDown { // its size is unknown
		return cmp.Or(f.Failure, error(volume.Errorf(volume.KindPrecondition, "the %s at %s has failed", f.Type, path)))
	}
	last.set(readings.Layer{Name: readings.LayerFilesystem, Size: f.Size, Detail: string(f.Type), ReadAt: began})
	began = time.Now()
	usage, err := s.opts.Filesystems.ReadUsage(m)
	if err != nil {
		return err
	}
	last.setUsage(readings.Usage{
		Filesystem: string(f.Type), Total: usage.Total, Available: usage.Available, Used: usage.Used,
		Inodes: usage.Inodes, InodesAvailable: usage.InodesAvailable, ReadAt: began,
	})
	return nil
}

// volumeReading is what was last read of a volume.
type volumeReading struct {
	mu     sync.Mutex
	volume readings.Volume
	since  time.Time // when the reading that runs has begun; zero: none runs
}

func (v *volumeReading) start(staged string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.volume.Staged, v.since = staged, time.Now()
}

func (v *volumeReading) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.since = time.Time{}
}

func (v *volumeReading) runsSince() time.Time {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.since
}

// set sets a layer in its place among the others.
func (v *volumeReading) set(l readings.Layer) {
	v.mu.Lock()
	defer v.mu.Unlock()
	order := []readings.LayerName{readings.LayerDevice, readings.LayerMapping, readings.LayerFilesystem}
	if known := v.volume.Layer(l.Name); known != nil {
		*known = l
		return
	}
	v.volume.Layers = append(v.volume.Layers, l)
	slices.SortFunc(v.volume.Layers, func(a, b readings.Layer) int {
		return slices.Index(order, a.Name) - slices.Index(order, b.Name)
	})
}

func (v *volumeReading) remove(name readings.LayerName) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.volume.Layers = slices.DeleteFunc(v.volume.Layers, func(l readings.Layer) bool { return l.Name == name })
}

func (v *volumeReading) setUsage(u readings.Usage) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.volume.Usage = &u
}

// result returns a copy of the readings, with err as the Problem.
func (v *volumeReading) result(err error) readings.Volume {
	v.mu.Lock()
	defer v.mu.Unlock()
	copied := v.volume
	copied.Layers = slices.Clone(copied.Layers)
	if err != nil {
		copied.Problem = err.Error()
	}
	return copied
}
