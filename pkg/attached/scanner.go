package attached

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Times of the search for new disks on the SCSI hosts.
const (
	firstScanDelay = 2 * time.Second // most disks appear long before without a scan
	scanInterval   = 10 * time.Second
)

// scanner asks the SCSI hosts to look for new disks. Most hypervisors announce a disk, but a guest
// may miss it: virtio-scsi drops announcements when its short event queue is full, and some hosts
// (VMware's) announce nothing. A scan is work for every host, so all waits of this node share one
// scan every scanInterval.
type scanner struct {
	devices Devices
	log     *slog.Logger

	mu        sync.Mutex
	ended     time.Time // of the last scan
	isRunning bool
}

// startScan starts a scan if none is running and the interval has passed. It reports whether it
// did. Nothing waits for the end: a host may hang, and what the scan finds appears in sysfs.
func (s *scanner) startScan(ctx context.Context) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isRunning || time.Since(s.ended) < scanInterval {
		return false
	}
	s.isRunning = true
	go func() {
		// A scan cannot be interrupted, and it serves other calls too.
		hosts, err := s.devices.ScanSCSI(context.WithoutCancel(ctx))
		if err != nil {
			s.log.WarnContext(ctx, "cannot scan the SCSI hosts for new disks", "hosts", hosts, "error", err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.isRunning, s.ended = false, time.Now()
	}()
	return true
}
