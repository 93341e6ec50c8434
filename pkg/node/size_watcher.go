package node

import (
	"context"
	"sync"
	"time"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/node/internal/inspect"
	"github.com/growvol/growvol/pkg/node/stagerecord"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

const (
	// sizeReadInterval is how often the sizes of staged devices are read: some kernels and drivers
	// announce no change, and a growth can have failed for a transient reason.
	sizeReadInterval = 30 * time.Second
	// deviceGrowthTimeout bounds one growth that no call waits for.
	deviceGrowthTimeout = 2 * time.Minute
)

// GrowOnDeviceChange grows each volume that is staged here for writing after its device has become
// larger, without waiting for NodeExpandVolume: when the kernel announces the new size, and every
// sizeReadInterval. It returns when ctx has ended and the running growths have ended or are
// detached.
//
// It grows what NodeExpandVolume grows, under the volume's lock, on a device whose identity was
// verified. A growth that failed for a reason that needs a person is not repeated until the device
// changes again.
func (s *Server) GrowOnDeviceChange(ctx context.Context) {
	w := &sizeWatcher{Server: s, volumes: map[string]*watchedVolume{}}
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

// sizeWatcher is one call of GrowOnDeviceChange.
type sizeWatcher struct {
	*Server
	work sync.WaitGroup

	mu      sync.Mutex // guards volumes and what they point to
	volumes map[string]*watchedVolume
}

// watchedVolume is the state of one volume of a sizeWatcher.
type watchedVolume struct {
	settledSize volume.Size // of the device, that needs no further growth
	lastError   string      // text of the last failure, empty after a success
	isRunning   bool        // a check is running
	isAnnounced bool        // the device was announced while the check was running
}

// receiveEvents passes the kernel's announcements to events until ctx ends. Without announcements
// the sizes are still read at the interval.
func (w *sizeWatcher) receiveEvents(ctx context.Context, events chan<- blockdev.SizeEvent) {
	err := w.opts.Devices.WatchSizes(ctx, func(e blockdev.SizeEvent) {
		select {
		case events <- e:
		case <-ctx.Done():
		}
	})
	if err != nil && ctx.Err() == nil {
		w.log.WarnContext(ctx, "cannot receive the kernel's announcements of device sizes: "+
			"sizes are read at the interval only", "interval", sizeReadInterval.String(), "error", err)
	}
}

// checkAll starts a check of the staged volumes that e announces. It leaves out the volumes that
// are staged read-only.
func (w *sizeWatcher) checkAll(ctx context.Context, e blockdev.SizeEvent) {
	records, err := w.records.List(ctx)
	if err != nil {
		w.log.WarnContext(ctx, "cannot read the records of staged volumes: their devices are not checked for a new size",
			"error", err)
		return
	}
	for _, r := range records {
		if !r.ReadOnly && (e.AnyDevice || r.Major == e.Major && r.Minor == e.Minor) {
			w.startCheck(ctx, r, !e.AnyDevice)
		}
	}
}

// startCheck checks a volume on a goroutine of its own, so that a device that hangs delays no other
// volume. At most one check of each volume runs; an announcement during a check repeats it.
func (w *sizeWatcher) startCheck(ctx context.Context, r stagerecord.Record, isAnnounced bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v := w.volumes[r.ID]
	if v == nil {
		v = &watchedVolume{}
		w.volumes[r.ID] = v
	}
	if v.isRunning {
		v.isAnnounced = v.isAnnounced || isAnnounced
		return
	}
	v.isRunning = true
	w.work.Go(func() {
		for again := true; again; {
			w.check(ctx, r, v, isAnnounced)
			w.mu.Lock()
			again = v.isAnnounced && ctx.Err() == nil
			isAnnounced, v.isRunning, v.isAnnounced = true, again, false
			w.mu.Unlock()
		}
	})
}

// check grows the volume if its device was announced, or has another size than the settled one.
func (w *sizeWatcher) check(ctx context.Context, r stagerecord.Record, v *watchedVolume, isAnnounced bool) {
	size, err := w.readRecordedSize(ctx, r)
	if err != nil {
		return // the disk is gone or does not answer; the volume's next call reports that
	}
	w.mu.Lock()
	settled := v.settledSize
	w.mu.Unlock()
	if size == settled && !isAnnounced {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, deviceGrowthTimeout)
	defer cancel()
	isTried, err := w.growToDevice(ctx, r.ID)
	w.mu.Lock()
	defer w.mu.Unlock()
	text := ""
	if err != nil {
		text = err.Error()
	}
	if err != nil && text != v.lastError { // the same failure may repeat for days
		w.log.WarnContext(ctx, "cannot grow a staged volume to its device",
			"volume", r.ID, "device_size", size.String(), "error", err)
	}
	v.lastError = text
	if err == nil || isTried && !isTransient(err) {
		v.settledSize = size
	}
}

// readRecordedSize reads the size of the disk that has the recorded number. A disk that does not
// answer delays it until ctx ends.
func (w *sizeWatcher) readRecordedSize(ctx context.Context, r stagerecord.Record) (volume.Size, error) {
	disk, err := w.opts.Devices.ByNumber(r.Major, r.Minor)
	if err != nil {
		return 0, err
	}
	return operation.AwaitCall(ctx, func() (volume.Size, error) { return w.opts.Devices.Size(disk) })
}

// growToDevice grows the mapping and the filesystem of a volume to its device, unless the volume is
// no longer staged here for writing. isTried is false when the growth did not begin: the reason is
// not a state of the filesystem, and may be gone the next time.
func (s *Server) growToDevice(ctx context.Context, id string) (isTried bool, err error) {
	lease, err := s.lockVolume(ctx, id)
	if err != nil {
		return false, err
	}
	defer lease.Release()
	r, err := s.records.Read(id)
	if err != nil || r.ID == "" || r.ReadOnly {
		return false, err
	}
	conn, connected, err := s.opts.Connector.Locate(ctx, id)
	if err != nil || !connected {
		return false, err
	}
	vol, err := s.openGrowable(ctx, r, conn, lease)
	if err != nil || vol == nil {
		return false, err
	}
	g := growth{vol: vol, occasion: occasionDevice}
	if !r.Block {
		g.mountPoint = r.Staging
	}
	return true, s.growVolume(ctx, g, lease)
}

// openGrowable opens what grows with the disk of a staged volume: the device of the mounted
// filesystem, or the mapping of an encrypted raw volume. It returns nil when there is neither.
func (s *Server) openGrowable(
	ctx context.Context, r stagerecord.Record, conn volume.Connection, lease *operation.Lease,
) (*inspect.Volume, error) {
	if !r.Block {
		m, mounted, err := s.inspector.FindMount(ctx, lease, r.Staging)
		if err != nil || !mounted {
			return nil, err
		}
		return s.inspector.OpenMount(ctx, r.ID, m, lease)
	}
	if !r.Encrypted {
		return nil, nil //nolint:nilnil // documented
	}
	disk, err := s.opts.Devices.ByPath(conn.Path)
	if err != nil {
		return nil, err
	}
	m, mapped, err := s.inspector.FindMapping(ctx, r.ID, disk)
	if err != nil || !mapped {
		return nil, err
	}
	return s.inspector.Open(ctx, r.ID, m.Device, lease)
}
