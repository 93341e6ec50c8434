package node

import (
	"context"
	"sync"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

const (
	// sizeReadInterval is how often the sizes of staged devices are read, for
	// kernels and drivers that announce no change, and for growths that failed
	// for a passing reason.
	sizeReadInterval = 30 * time.Second
	// deviceGrowthTimeout bounds one growth that nobody waits for.
	deviceGrowthTimeout = 2 * time.Minute
)

// GrowOnDeviceChange grows each volume that is staged here for writing when
// its device has become larger, without waiting for NodeExpandVolume: when the
// kernel announces the new size, and every sizeReadInterval. It returns when
// ctx has ended and the growths under way have answered.
//
// What it grows is what NodeExpandVolume would grow, under the volume's lock,
// on a device whose identity was verified, with the same guards. A growth that
// failed for a reason that needs a person is not tried again until the device
// changes once more.
func (s *Server) GrowOnDeviceChange(ctx context.Context) {
	w := &sizeWatcher{Server: s, settledSizes: map[string]volume.Size{}, running: map[string]bool{}, lastFailures: map[string]string{}}
	defer w.work.Wait()
	events := make(chan blockdev.SizeEvent)
	w.work.Go(func() { w.receiveEvents(ctx, events) })
	ticker := time.NewTicker(sizeReadInterval)
	defer ticker.Stop()
	all := blockdev.SizeEvent{AnyDevice: true}
	w.checkAll(ctx, all)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			w.checkAll(ctx, all)
		case e := <-events:
			w.checkAll(ctx, e)
		}
	}
}

// sizeWatcher is one run of GrowOnDeviceChange.
type sizeWatcher struct {
	*Server
	work sync.WaitGroup

	mu           sync.Mutex
	settledSizes map[string]volume.Size // by volume id: device size that needs no further growth
	running      map[string]bool        // volumes under way; true: announced again meanwhile
	// lastFailures is the text of the last failure, empty after a success.
	lastFailures map[string]string
}

// receiveEvents passes the kernel's announcements on until ctx ends. Without them the
// sizes are still read at the interval.
func (w *sizeWatcher) receiveEvents(ctx context.Context, events chan<- blockdev.SizeEvent) {
	err := w.opts.Devices.WatchSizes(ctx, func(e blockdev.SizeEvent) {
		select {
		case events <- e:
		case <-ctx.Done():
		}
	})
	if err != nil && ctx.Err() == nil {
		w.log.WarnContext(ctx, "the kernel's announcements of device sizes cannot be received: sizes are only read at the interval",
			"interval", sizeReadInterval.String(), "error", err)
	}
}

// checkAll starts a check of each staged volume, or of that on the device that
// was announced.
func (w *sizeWatcher) checkAll(ctx context.Context, e blockdev.SizeEvent) {
	records, err := w.records(ctx)
	if err != nil {
		w.log.WarnContext(ctx, "the records of staged volumes cannot be read, so their devices are not watched", "error", err)
		return
	}
	for _, r := range records {
		if r.ReadOnly || !e.AnyDevice && (r.Major != e.Major || r.Minor != e.Minor) {
			continue
		}
		w.startCheck(ctx, r, !e.AnyDevice)
	}
}

// startCheck checks a volume on a goroutine of its own, one at a time: a device
// that hangs holds up no other volume.
func (w *sizeWatcher) startCheck(ctx context.Context, r record, announced bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, running := w.running[r.ID]; running {
		w.running[r.ID] = w.running[r.ID] || announced
		return
	}
	w.running[r.ID] = false
	w.work.Go(func() {
		for again := announced; ; {
			w.check(ctx, r, again)
			w.mu.Lock()
			again = w.running[r.ID]
			if !again || ctx.Err() != nil {
				delete(w.running, r.ID)
				w.mu.Unlock()
				return
			}
			w.running[r.ID] = false
			w.mu.Unlock()
		}
	})
}

// check grows the volume if its device has another size than at the last
// growth, or was announced.
func (w *sizeWatcher) check(ctx context.Context, r record, announced bool) {
	size, err := w.readRecordedSize(ctx, r)
	if err != nil {
		return // the disk is gone; the volume's next call reports that
	}
	w.mu.Lock()
	known := w.settledSizes[r.ID]
	w.mu.Unlock()
	if size == known && !announced {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, deviceGrowthTimeout)
	defer cancel()
	tried, err := w.growToDevice(ctx, r.ID)
	w.logFailure(ctx, r, size, err)
	if err == nil || tried && !isTransient(err) {
		w.mu.Lock()
		w.settledSizes[r.ID] = size
		w.mu.Unlock()
	}
}

// logFailure logs a growth that failed, once for each cause: it may be tried again
// for days.
func (w *sizeWatcher) logFailure(ctx context.Context, r record, size volume.Size, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	w.mu.Lock()
	known := w.lastFailures[r.ID] == text
	w.lastFailures[r.ID] = text
	w.mu.Unlock()
	if err == nil || known {
		return
	}
	w.log.WarnContext(ctx, "a staged volume could not be grown to its device", "volume", r.ID, "device_size", size.String(), "error", err)
}

// readRecordedSize reads the size of the disk that the volume had at stage. A disk
// that does not answer keeps neither the watch from ending nor other volumes.
func (w *sizeWatcher) readRecordedSize(ctx context.Context, r record) (volume.Size, error) {
	disk, err := w.opts.Devices.ByNumber(r.Major, r.Minor)
	if err != nil {
		return 0, err
	}
	return operation.AwaitCall(ctx, func() (volume.Size, error) { return w.opts.Devices.Size(disk) })
}

// growToDevice grows the mapping and the filesystem of a staged volume to its
// device. A volume that is not staged for writing here any more is left alone.
// tried is false when the growth was not begun: what kept it is no state of
// the filesystem, and may be gone the next time.
func (s *Server) growToDevice(ctx context.Context, id string) (tried bool, err error) {
	lock, err := s.lockVolume(ctx, id)
	if err != nil {
		return false, err
	}
	l := s.lease(id, lock.unlock)
	defer l.Release()
	r, err := s.readRecord(id)
	if err != nil || r.ID == "" || r.ReadOnly {
		return false, err
	}
	conn, connected, err := s.opts.Connector.Locate(ctx, id)
	if err != nil || !connected {
		return false, err
	}
	vol, err := s.openGrowable(ctx, r, conn, l)
	if err != nil || vol == nil {
		return false, err
	}
	g := growth{vol: vol, occasion: OccasionDevice}
	if !r.Block {
		g.mountPoint = r.Staging
	}
	return true, s.growVolume(ctx, g, l)
}

// openGrowable opens what grows with the disk of a staged volume: the device of
// the mounted filesystem, or the mapping of an encrypted raw volume. It returns
// nil when nothing does.
func (s *Server) openGrowable(ctx context.Context, r record, conn volume.Connection, l *operation.Lease) (*openVolume, error) {
	if r.Block {
		if !r.Encrypted {
			return nil, nil //nolint:nilnil // documented
		}
		disk, err := s.opts.Devices.ByPath(conn.Path)
		if err != nil {
			return nil, err
		}
		m, mapped, err := s.findMapping(ctx, r.ID, disk)
		if err != nil || !mapped {
			return nil, err
		}
		return s.openVerified(ctx, r.ID, m.Device, l)
	}
	m, mounted, err := s.findMount(ctx, l, r.Staging)
	if err != nil || !mounted {
		return nil, err
	}
	dev, err := s.deviceOfMount(m)
	if err != nil {
		return nil, err
	}
	return s.openVerified(ctx, r.ID, dev, l)
}
