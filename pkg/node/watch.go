package node

import (
	"context"
	"sync"
	"time"

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
	w := &sizeWatch{Server: s, sizes: map[string]volume.Size{}, running: map[string]bool{}}
	defer w.work.Wait()
	events := make(chan blockdev.SizeEvent)
	w.work.Go(func() { w.listen(ctx, events) })
	ticker := time.NewTicker(sizeReadInterval)
	defer ticker.Stop()
	all := blockdev.SizeEvent{All: true}
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

// sizeWatch is one run of GrowOnDeviceChange.
type sizeWatch struct {
	*Server
	work sync.WaitGroup

	mu      sync.Mutex
	sizes   map[string]volume.Size // by volume id: device size that needs no further growth
	running map[string]bool        // volumes under way; true: announced again meanwhile
}

// listen passes the kernel's announcements on until ctx ends. Without them the
// sizes are still read at the interval.
func (w *sizeWatch) listen(ctx context.Context, events chan<- blockdev.SizeEvent) {
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
func (w *sizeWatch) checkAll(ctx context.Context, e blockdev.SizeEvent) {
	records, err := w.records(ctx)
	if err != nil {
		w.log.WarnContext(ctx, "the records of staged volumes cannot be read, so their devices are not watched", "error", err)
		return
	}
	for _, r := range records {
		if r.ReadOnly || !e.All && (r.Major != e.Major || r.Minor != e.Minor) {
			continue
		}
		w.start(ctx, r, !e.All)
	}
}

// start checks a volume on a goroutine of its own, one at a time: a device
// that hangs holds up no other volume.
func (w *sizeWatch) start(ctx context.Context, r record, announced bool) {
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
func (w *sizeWatch) check(ctx context.Context, r record, announced bool) {
	size, err := w.recordedSize(ctx, r)
	if err != nil {
		return // the disk is gone; the volume's next call reports that
	}
	w.mu.Lock()
	known := w.sizes[r.ID]
	w.mu.Unlock()
	if size == known && !announced {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, deviceGrowthTimeout)
	defer cancel()
	err = w.growToDevice(ctx, r.ID)
	if err != nil {
		w.log.WarnContext(ctx, "a staged volume could not be grown to its device", "volume", r.ID, "device_size", size.String(),
			"next_try", nextTry(err), "error", err)
	}
	if err == nil || !passes(err) {
		w.mu.Lock()
		w.sizes[r.ID] = size
		w.mu.Unlock()
	}
}

// nextTry says when a failed growth is tried again, for the log.
func nextTry(err error) string {
	if passes(err) {
		return "within " + sizeReadInterval.String()
	}
	return "when the device changes, or the volume is staged or expanded"
}

// recordedSize reads the size of the disk that the volume had at stage. A disk
// that does not answer keeps neither the watch from ending nor other volumes.
func (w *sizeWatch) recordedSize(ctx context.Context, r record) (volume.Size, error) {
	disk, err := w.opts.Devices.ByNumber(r.Major, r.Minor)
	if err != nil {
		return 0, err
	}
	return volume.Bounded(ctx, func() (volume.Size, error) { return w.opts.Devices.Size(disk) })
}

// growToDevice grows the mapping and the filesystem of a staged volume to its
// device. A volume that is not staged for writing here any more is left alone.
func (s *Server) growToDevice(ctx context.Context, id string) error {
	lock, err := s.lockVolume(ctx, id)
	if err != nil {
		return err
	}
	l := s.lease(id, lock.unlock)
	defer l.Release()
	r, err := s.readRecord(id)
	if err != nil || r.ID == "" || r.ReadOnly {
		return err
	}
	conn, connected, err := s.opts.Connector.Locate(ctx, id)
	if err != nil || !connected {
		return err
	}
	if r.Block {
		return s.growRaw(ctx, r, conn, l)
	}
	m, mounted, err := s.findMount(ctx, l, r.Staging)
	if err != nil || !mounted {
		return err
	}
	dev, err := s.deviceOfMount(m)
	if err != nil {
		return err
	}
	o, err := s.open(ctx, id, dev, l)
	if err != nil {
		return err
	}
	return s.grow(ctx, growth{vol: o, occasion: OccasionDevice, mountPoint: r.Staging}, l)
}

// growRaw grows the mapping of a raw volume to its disk; without encryption
// the disk is all that a raw volume has.
func (s *Server) growRaw(ctx context.Context, r record, conn volume.Connection, l *volume.Lease) error {
	if !r.Encrypted {
		return nil
	}
	disk, err := s.opts.Devices.ByPath(conn.Path)
	if err != nil {
		return err
	}
	m, mapped, err := s.findMapping(ctx, r.ID, disk)
	if err != nil || !mapped {
		return err
	}
	o, err := s.open(ctx, r.ID, m.Device, l)
	if err != nil {
		return err
	}
	return s.grow(ctx, growth{vol: o, occasion: OccasionDevice}, l)
}
