package attached

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// The waits of a search for the disk of a volume.
const (
	minPollInterval = 20 * time.Millisecond
	maxPollInterval = time.Second
	// settleGrace is how long two disks with one serial may be a volume that was plugged in again
	// before its old disk had gone.
	settleGrace = 3 * time.Second
	// serialTimeout bounds the reading of one serial. On virtio-blk it is a request to the device,
	// which a device that hangs never answers.
	serialTimeout = 2 * time.Second
)

// errNoSize is the error for a disk that exists but has no size, as while it is plugged in or
// pulled out. This file finds the disk of a volume among the disks of this machine.
var errNoSize = errors.New("the disk has no size yet, or no longer")

// errNoAnswer is the error for a disk whose serial could not be read in time.
var errNoAnswer = errors.New("the disk does not answer")

// findResult is the result of one reading of all disks.
type findResult struct {
	disk       blockdev.Device // of the volume, if isFound
	isFound    bool
	notReady   error             // why the disk cannot be used yet; nil: it can be used
	seen       []string          // descriptions of all disks with their serials, for a message
	unanswered []blockdev.Device // disks that did not answer: any of them may be the volume's
}

// isUnplugged reports whether the disk is not there, or is being plugged in or pulled out.
func (r findResult) isUnplugged() bool { return !r.isFound || errors.Is(r.notReady, errNoSize) }

// findKnown is findSettled, with an error of kind Deadline when it found no disk but some disks do
// not answer: one of them may be the volume's.
func (c *Connector) findKnown(ctx context.Context, id string) (findResult, error) {
	found, err := c.findSettled(ctx, id)
	if err != nil || found.isFound || len(found.unanswered) == 0 {
		return found, err
	}
	return found, volume.Errorf(volume.KindDeadline, "cannot determine whether the volume is attached to this node: "+
		"disks that may be the volume's do not answer: %s", joinDevices(found.unanswered)).
		WithRemedy(hangRemedy)
}

// findSettled is find, but it waits while several disks show the id: a volume that is plugged in
// again can be there before its old disk has gone. The error has kind Precondition when several
// disks are there after settleGrace, and Deadline (or Canceled) when ctx ends before.
func (c *Connector) findSettled(ctx context.Context, id string) (findResult, error) {
	var ambiguityErr error
	var since time.Time
	for interval := minPollInterval; ; interval = min(2*interval, maxPollInterval) {
		found, err := c.find(ctx, id)
		if ambiguityErr != nil && ctx.Err() != nil {
			return found, unsettledError(ambiguityErr, ctx.Err())
		}
		if err == nil && ambiguityErr != nil && len(found.unanswered) > 0 {
			err = ambiguityErr // the other disk may still be there without answering
		}
		switch {
		case !volume.IsKind(err, volume.KindPrecondition):
			return found, err
		case ambiguityErr == nil:
			since = time.Now()
		case time.Since(since) >= settleGrace:
			return found, err
		}
		ambiguityErr = err
		if err := operation.Sleep(ctx, interval); err != nil {
			return found, unsettledError(ambiguityErr, err)
		}
	}
}

// unsettledError is the error for several disks with one serial when the call ends within
// settleGrace.
func unsettledError(ambiguityErr, cause error) error {
	text := ambiguityErr.Error()
	if e, ok := errors.AsType[*volume.Error](ambiguityErr); ok {
		text = e.Msg
	}
	return volume.Errorf(volume.KindOf(cause),
		"%s; one of them may be about to be unplugged, which can take %s: %w", text, settleGrace, cause).
		WithRemedy(retryRemedy)
}

// find reads the serials of all disks once and returns the disk that shows this id. The error has
// kind Precondition when several disks do: a guess could destroy data.
func (c *Connector) find(ctx context.Context, id string) (findResult, error) {
	disks, err := operation.AwaitCall(ctx, c.opts.Devices.Disks)
	if err != nil {
		return findResult{}, err
	}
	disks = slices.DeleteFunc(disks, func(d blockdev.Device) bool { return !d.Kind.IsPluggable() })
	var r findResult
	var matches []blockdev.Device
	for i, serial := range c.readSerials(ctx, disks) {
		d := disks[i]
		if serial.err != nil {
			if errors.Is(serial.err, errNoAnswer) {
				r.unanswered = append(r.unanswered, d)
			}
			r.seen = append(r.seen, fmt.Sprintf("%s (%s, serial unreadable: %v)", d.Path, d.Kind, serial.err))
			continue
		}
		r.seen = append(r.seen, fmt.Sprintf("%s (%s, serial %q)", d.Path, d.Kind, serial.text))
		if blockdev.SerialMatches(serial.text, id) {
			matches = append(matches, d)
		}
	}
	err = c.chooseDisk(ctx, &r, matches)
	return r, err
}

// chooseDisk sets the volume's disk in r. A disk without a size does not count beside a disk with
// one: it is being plugged in or pulled out.
func (c *Connector) chooseDisk(ctx context.Context, r *findResult, matches []blockdev.Device) error {
	var usable []blockdev.Device
	for _, d := range matches {
		size, err := operation.AwaitCall(ctx, func() (volume.Size, error) { return c.opts.Devices.Size(d) })
		if err == nil && size == 0 {
			err = errNoSize
		}
		hasSize := !errors.Is(err, errNoSize)
		if hasSize {
			usable = append(usable, d)
		}
		if hasSize || !r.isFound {
			r.disk, r.isFound, r.notReady = d, true, err
		}
	}
	if len(usable) > 1 {
		return volume.Errorf(volume.KindPrecondition,
			"several disks show the volume's id as their serial: %s", joinDevices(usable)).
			WithRemedy("find the volumes of this server with: openstack server volume list SERVER; then detach the other one: " +
				"virtio-blk and NVMe show only the first 20 characters of an id, which two volumes may share; " +
				"multipath disks are not supported")
	}
	return nil
}

// serialResult is the result of reading one serial.
type serialResult struct {
	text string
	err  error
}

// readSerials reads the serials of all disks concurrently, so that many disks that do not answer
// take no longer than one.
func (c *Connector) readSerials(ctx context.Context, disks []blockdev.Device) []serialResult {
	results := make([]serialResult, len(disks))
	var running sync.WaitGroup
	for i, d := range disks {
		running.Go(func() { results[i].text, results[i].err = c.readSerial(ctx, d) })
	}
	running.Wait()
	return results
}

// readSerial reads the serial of a disk within serialTimeout. It joins a reading that still hangs,
// so that a disk that hangs costs one thread. The joined reading may be of a disk that had the
// number before: Verify starts a reading of its own.
func (c *Connector) readSerial(ctx context.Context, d blockdev.Device) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, serialTimeout)
	defer cancel()
	read := c.serialReads.DoChan(d.Number().String(), func() (any, error) { return c.opts.Devices.Serial(d) })
	select {
	case r := <-read:
		serial, _ := r.Val.(string) // the function above returns no other type
		return serial, r.Err
	case <-ctx.Done():
		return "", fmt.Errorf("%w: %w", errNoAnswer, ctx.Err())
	}
}

// awaitDisk waits until the volume's disk is there and can be opened.
func (c *Connector) awaitDisk(ctx context.Context, id string) (blockdev.Device, error) {
	w := diskWait{id: id, started: time.Now()}
	for interval := minPollInterval; ; interval = min(2*interval, maxPollInterval) {
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
		if err := operation.Sleep(ctx, interval); err != nil {
			return blockdev.Device{}, w.timeoutError(err)
		}
	}
}

// diskWait is one call of awaitDisk.
type diskWait struct {
	id      string
	started time.Time
	last    findResult
	scans   int // that this wait has started
}

// timeoutError is the error for a disk that was not usable before the call ended.
func (w diskWait) timeoutError(cause error) error {
	kind := volume.KindOf(cause)
	waited := time.Since(w.started).Round(time.Millisecond)
	if w.last.isFound {
		err := volume.Errorf(kind, "the disk %s shows the volume's id, but could not be used within %s: %w",
			w.last.disk, waited, fmt.Errorf("%w; %w", w.last.notReady, cause))
		if reason, ok := errors.AsType[*volume.Error](w.last.notReady); ok && reason.Remedy != "" {
			return err // its remedy is part of the text
		}
		return err.WithRemedy(ifErrorPersists + reattachRemedy)
	}
	scanned := ""
	if w.scans > 0 {
		scanned = fmt.Sprintf("; the SCSI hosts were scanned for new disks %d times", w.scans)
	}
	return volume.Errorf(kind, "no disk of this machine has shown the serial %s within %s%s; disks seen: %s: %w",
		describeSerial(w.id), waited, scanned, w.last.describeDisks(), cause).
		WithRemedy("check that the VolumeAttachment is attached (kubectl get volumeattachments), " +
			"and the volume to this server (openstack server volume list SERVER); " +
			"if both are, but the disks show no serials, the hypervisor hides the serials")
}

// describeDisks returns the disks that were found as text, up to a limit.
func (r findResult) describeDisks() string {
	const maxDisks = 16
	switch n := len(r.seen); {
	case n == 0:
		return "none"
	case n > maxDisks:
		return strings.Join(r.seen[:maxDisks], ", ") + fmt.Sprintf(" and %d more", n-maxDisks)
	}
	return strings.Join(r.seen, ", ")
}

// describeSerial returns the serial of a volume's disk for a message.
func describeSerial(id string) string {
	if len(id) <= blockdev.MaxShownSerial {
		return fmt.Sprintf("%q", id)
	}
	return fmt.Sprintf("%q (on virtio-blk and NVMe %q)", id, id[:blockdev.MaxShownSerial])
}

func joinDevices(disks []blockdev.Device) string {
	names := make([]string, len(disks))
	for i, d := range disks {
		names[i] = d.String()
	}
	return strings.Join(names, ", ")
}
