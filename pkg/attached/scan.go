package attached

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	firstScanDelay = 2 * time.Second // most disks announce themselves long before
	scanInterval   = 10 * time.Second
)

// scanner asks the SCSI hosts to look for new disks. Most hypervisors announce
// a disk, but a guest may miss it: virtio-scsi drops announcements when its
// short event queue is full, and some hosts (VMware's) make none. A scan is work
// for every host, so that all waits of this node share one every ten seconds.
type scanner struct {
	devices Devices
	log     *slog.Logger

	mu      sync.Mutex
	last    time.Time
	running bool
}

// startScan starts a scan if it is time for one, and tells whether it did. Nobody
// waits for its end: a host may hang in it, and what is found shows in sysfs.
func (s *scanner) startScan(ctx context.Context) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running || !s.last.IsZero() && time.Since(s.last) < scanInterval {
		return false
	}
	s.running = true
	go func() {
		// It cannot be interrupted, and is no part of the call that began it.
		hosts, err := s.devices.ScanSCSI(context.WithoutCancel(ctx))
		if err != nil {
			s.log.WarnContext(ctx, "asking the SCSI hosts for new disks failed", "hosts", hosts, "error", err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.running, s.last = false, time.Now()
	}()
	return true
}
