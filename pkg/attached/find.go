package attached

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

const (
	minPollInterval = 20 * time.Millisecond
	maxPollInterval = time.Second
	// settleGrace is how long two disks with one serial are taken for a volume
	// that was plugged in anew before its old disk had gone.
	settleGrace = 3 * time.Second
	// serialTimeout bounds the reading of one serial. On virtio-blk it is a
	// request to the device, which a hung one never answers.
	serialTimeout = 2 * time.Second
)

// errNoSize: the disk is there but has no size, as at the moment when it is
// plugged in or out.
var errNoSize = errors.New("the disk has no size yet, or any more")

// errNoAnswer: a disk does not tell its serial in time.
var errNoAnswer = errors.New("the disk does not answer")

// findResult is what one reading of all disks gave.
type findResult struct {
	disk       blockdev.Device // of the volume, if match
	isFound    bool
	notReady   error             // why the disk cannot be used yet; nil: it can
	seen       []string          // all disks with their serials, for a message
	unanswered []blockdev.Device // disks that do not answer: any of them may be the volume
}

// isPluggable tells whether the device is of a sort that a hypervisor plugs in.
func isPluggable(d blockdev.Device) bool {
	switch d.Kind {
	case blockdev.KindVirtioBlk, blockdev.KindSCSI, blockdev.KindNVMe:
		return true
	default:
		return false
	}
}

// findSettled is find, except that it waits while several disks show the id: a
// volume that is plugged in anew can be there before its old disk has gone. The
// error is of kind Precondition when they are still there after the time for
// settling, and Deadline (or Canceled) when ctx ends before.
func (c *Connector) findSettled(ctx context.Context, id string) (findResult, error) {
	var several error
	var since time.Time
	for pause := minPollInterval; ; pause = min(2*pause, maxPollInterval) {
		found, err := c.find(ctx, id)
		if several != nil && ctx.Err() != nil {
			return found, unsettledError(several, ctx.Err())
		}
		if err == nil && several != nil && len(found.unanswered) > 0 {
			err = several // a rival that does not answer has not gone
		}
		switch {
		case !volume.IsKind(err, volume.KindPrecondition):
			return found, err
		case several == nil:
			since = time.Now()
		case time.Since(since) >= settleGrace:
			return found, err
		}
		several = err
		if err := operation.Sleep(ctx, pause); err != nil {
			return found, unsettledError(several, err)
		}
	}
}

// unsettledError is the error for several disks of one serial when the call ends
// before the one that is pulled out must have gone.
func unsettledError(several, cause error) error {
	text := several.Error()
	if e := (*volume.Error)(nil); errors.As(several, &e) {
		text = e.Msg
	}
	return volume.Errorf(volume.KindOf(cause), "%s; one of them may still go, which can take %s: %w", text, settleGrace, cause).
		WithRemedy("Kubernetes retries this automatically")
}

// find looks once for the disk that shows this id as its serial. The error is
// of kind Precondition when several do: a guess could destroy data.
func (c *Connector) find(ctx context.Context, id string) (findResult, error) {
	disks, err := operation.AwaitCall(ctx, c.opts.Devices.Disks)
	if err != nil {
		return findResult{}, err
	}
	disks = slices.DeleteFunc(disks, func(d blockdev.Device) bool { return !isPluggable(d) })
	serials := c.readSerials(ctx, disks)
	var s findResult
	var matches []blockdev.Device
	for i, d := range disks {
		serial, err := serials[i].text, serials[i].err
		if err != nil {
			if errors.Is(err, errNoAnswer) {
				s.unanswered = append(s.unanswered, d)
			}
			s.seen = append(s.seen, fmt.Sprintf("%s (%s, serial unreadable: %v)", d.Path, d.Kind, err))
			continue
		}
		s.seen = append(s.seen, fmt.Sprintf("%s (%s, serial %q)", d.Path, d.Kind, serial))
		if blockdev.SerialMatches(serial, id) {
			matches = append(matches, d)
		}
	}
	err = c.choose(ctx, &s, matches)
	return s, err
}

// checkComplete makes sure that "no such disk" is a reading: a disk that does not
// answer may be the one.
func (s findResult) checkComplete() error {
	if s.isFound || len(s.unanswered) == 0 {
		return nil
	}
	return volume.Errorf(volume.KindDeadline, "whether the volume is plugged in cannot be told: of the disks that could be it, some do not answer: %s", joinDevices(s.unanswered)).
		WithRemedy("Kubernetes retries this automatically; if it lasts, check the kernel log of this node for I/O that hangs")
}

// choose decides which of the disks with the volume's serial it is.
func (c *Connector) choose(ctx context.Context, s *findResult, matches []blockdev.Device) error {
	var usable []blockdev.Device
	for _, d := range matches {
		size, err := operation.AwaitCall(ctx, func() (volume.Size, error) { return c.opts.Devices.Size(d) })
		if err == nil && size == 0 {
			err = errNoSize
		}
		// One without a size is on its way out or in. It is no rival for one
		// that has a size.
		if !errors.Is(err, errNoSize) {
			usable = append(usable, d)
		}
		if !s.isFound || !errors.Is(err, errNoSize) {
			s.disk, s.isFound, s.notReady = d, true, err
		}
	}
	if len(usable) > 1 {
		return volume.Errorf(volume.KindPrecondition, "several disks show the volume's id as their serial: %s", joinDevices(usable)).
			WithRemedy("find out which of them is the volume: on virtio-blk and NVMe the first 20 characters of an id show, so another volume may share them; " +
				"multipath disks are not supported. Detach the other one")
	}
	return nil
}

// serialResult is what reading a serial gave.
type serialResult struct {
	text string
	err  error
}

// readSerials reads the serials of all disks side by side, so that several silent
// ones take no longer than one.
func (c *Connector) readSerials(ctx context.Context, disks []blockdev.Device) []serialResult {
	readings := make([]serialResult, len(disks))
	var running sync.WaitGroup
	for i, d := range disks {
		running.Go(func() { readings[i].text, readings[i].err = c.readSerial(ctx, d) })
	}
	running.Wait()
	return readings
}

// readSerial reads the serial of a disk, but not for long. A reading that hangs
// is joined by the next, so that a hung disk costs one thread and not one per
// look; and it keeps nobody from the other disks. What was joined may be about
// a disk that had the number before: Verify reads anew.
func (c *Connector) readSerial(ctx context.Context, d blockdev.Device) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, serialTimeout)
	defer cancel()
	read := c.serialReads.DoChan(d.Number().String(), func() (any, error) { return c.opts.Devices.Serial(d) })
	select {
	case r := <-read:
		serial, _ := r.Val.(string) // the function above returns no other
		return serial, r.Err
	case <-ctx.Done():
		return "", fmt.Errorf("%w: %w", errNoAnswer, ctx.Err())
	}
}

// awaitDisk waits until the volume's disk is there and can be opened.
func (c *Connector) awaitDisk(ctx context.Context, id string) (blockdev.Device, error) {
	w := diskWait{id: id, started: time.Now()}
	for pause := minPollInterval; ; pause = min(2*pause, maxPollInterval) {
		found, err := c.findSettled(ctx, id)
		switch {
		case errors.As(err, new(*volume.Error)): // it says what was found
			return blockdev.Device{}, err
		case ctx.Err() != nil:
			return blockdev.Device{}, w.timeoutError(ctx.Err())
		case found.isFound && found.notReady == nil:
			return found.disk, nil
		}
		w.last = found
		if time.Since(w.started) >= firstScanDelay && c.scanner.startScan(ctx) {
			w.scans++
		}
		if err := operation.Sleep(ctx, pause); err != nil {
			return blockdev.Device{}, w.timeoutError(err)
		}
	}
}

// diskWait is what to tell of a wait that was in vain.
type diskWait struct {
	id      string
	started time.Time
	last    findResult
	scans   int
}

// timeoutError is the error for a disk that did not come in time.
func (w diskWait) timeoutError(cause error) error {
	kind := volume.KindDeadline
	if errors.Is(cause, context.Canceled) {
		kind = volume.KindCanceled
	}
	waited := time.Since(w.started).Round(time.Millisecond)
	if w.last.isFound {
		err := volume.Errorf(kind, "the disk %s shows the volume's id, but cannot be used after %s: %w", w.last.disk, waited, errors.Join(w.last.notReady, cause))
		var reason *volume.Error
		if errors.As(w.last.notReady, &reason) && reason.Remedy != "" {
			return err // its remedy is part of the text
		}
		return err.WithRemedy("Kubernetes retries this automatically; if it lasts, detach the volume from this server and attach it again")
	}
	scanned := ""
	if w.scans > 0 {
		scanned = fmt.Sprintf("; the SCSI hosts were asked to look for new disks %d times", w.scans)
	}
	return volume.Errorf(kind, "no disk of this machine has shown the serial %s in %s%s; disks seen: %s: %w", describeSerial(w.id), waited, scanned, w.last.describeDisks(), cause).
		WithRemedy("check that the VolumeAttachment is attached, and to this very server; if it is, and the disks show no serials, the hypervisor hides them")
}

// describeDisks names the disks that were seen, but not endlessly.
func (s findResult) describeDisks() string {
	const many = 16
	switch n := len(s.seen); {
	case n == 0:
		return "none"
	case n > many:
		return strings.Join(s.seen[:many], ", ") + fmt.Sprintf(" and %d more", n-many)
	}
	return strings.Join(s.seen, ", ")
}

// describeSerial is what to look for, as a message puts it.
func describeSerial(id string) string {
	const visible = 20 // see blockdev.SerialMatches
	if len(id) <= visible {
		return fmt.Sprintf("%q", id)
	}
	return fmt.Sprintf("%q (on virtio-blk and NVMe %q)", id, id[:visible])
}

func joinDevices(disks []blockdev.Device) string {
	names := make([]string, len(disks))
	for i, d := range disks {
		names[i] = d.String()
	}
	return strings.Join(names, ", ")
}
