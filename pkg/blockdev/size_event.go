package blockdev

import (
	"bytes"
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// SizeEvent reports that the size of a block device has changed.
type SizeEvent struct {
	// Major and Minor are the number of the device; zero when AnyDevice is set.
	Major, Minor uint32
	// AnyDevice reports that events were missed: any device may have a new size.
	AnyDevice bool
}

const (
	// kernelGroup is the multicast group of the messages that the kernel itself sends.
	// udev sends its own in group 2, and only where udev runs.
	kernelGroup = 1
	// eventBufferSize holds some thousand messages, in bytes: enough for a node on which
	// many disks and network interfaces come and go at once.
	eventBufferSize = 4 << 20
	// maxEventSize is more than the longest message of the kernel, in bytes
	// (UEVENT_BUFFER_SIZE of <linux/kobject.h> and the path of the device).
	maxEventSize = 16 << 10
)

// WatchSizes calls notify for each block device that announces a new size, milliseconds
// after the kernel has learned it, until ctx ends. An event is a reason to read the size
// of the device; it does not contain the size. The first event comes as soon as
// WatchSizes listens and has AnyDevice set, as does the event after each loss of events:
// the caller then reads the sizes of all devices of interest.
//
// WatchSizes makes one call of notify at a time. During the call the kernel buffers new
// events, and drops them when the buffer is full.
//
// It receives the events of all devices in every network namespace of the initial user
// namespace, so in every container without a user namespace. Kernels before 5.10
// announce the sizes of fewer kinds of device.
//
// It returns the error of ctx, or an error of kind Internal when it cannot listen.
func (s *System) WatchSizes(ctx context.Context, notify func(SizeEvent)) error {
	events, err := openEventSocket(eventBufferSize)
	if err != nil {
		return volume.Errorf(volume.KindInternal, "cannot listen to the kernel's device events: %w", err).
			WithRemedy("allow this process to open netlink sockets (AF_NETLINK, NETLINK_KOBJECT_UEVENT)")
	}
	defer events.Close() //nolint:errcheck // only read from
	notify(SizeEvent{AnyDevice: true})
	return forwardSizeEvents(ctx, events, notify)
}

// openEventSocket opens a netlink socket that receives the kernel's device events. buffer is
// the size of its buffer in bytes.
func openEventSocket(buffer int) (*os.File, error) {
	const flags = unix.SOCK_DGRAM | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	fd, err := unix.Socket(unix.AF_NETLINK, flags, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "kernel device events")
	// SO_RCVBUFFORCE needs CAP_NET_ADMIN; SO_RCVBUF is limited to net.core.rmem_max.
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer)
	if err != nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer)
	}
	if err != nil {
		return nil, volume.Join(os.NewSyscallError("setsockopt", err), f.Close())
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		return nil, volume.Join(os.NewSyscallError("bind", err), f.Close())
	}
	return f, nil
}

// forwardSizeEvents calls notify for each size event of the socket until ctx ends.
func forwardSizeEvents(ctx context.Context, events *os.File, notify func(SizeEvent)) error {
	raw, err := events.SyscallConn()
	if err != nil {
		return volume.Errorf(volume.KindInternal, "read the kernel's device events: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = events.SetReadDeadline(time.Unix(1, 0)) }) // fails on a closed file only
	defer stop()
	buf := make([]byte, maxEventSize)
	for {
		event, ok, err := receiveSizeEvent(raw, buf)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return volume.Errorf(volume.KindInternal, "read the kernel's device events: %w", err)
		case ok:
			notify(event)
		}
	}
}

// receiveSizeEvent waits for one message. It reports false for a message about anything
// else than the size of a block device, and for one that the kernel did not send.
func receiveSizeEvent(raw syscall.RawConn, buf []byte) (event SizeEvent, ok bool, err error) {
	var n, flags int
	var from unix.Sockaddr
	var recvErr error
	err = raw.Read(func(fd uintptr) bool {
		n, _, flags, from, recvErr = unix.Recvmsg(int(fd), buf, nil, 0)
		return !errors.Is(recvErr, unix.EAGAIN)
	})
	switch {
	case err != nil:
		return SizeEvent{}, false, err
	case errors.Is(recvErr, unix.EINTR):
		return SizeEvent{}, false, nil
	case errors.Is(recvErr, unix.ENOBUFS):
		return SizeEvent{AnyDevice: true}, true, nil // the socket's buffer was full
	case recvErr != nil:
		return SizeEvent{}, false, os.NewSyscallError("recvmsg", recvErr)
	}
	// Any process may send to the socket; the address of the kernel is 0.
	if sender, isNetlink := from.(*unix.SockaddrNetlink); !isNetlink || sender.Pid != 0 {
		return SizeEvent{}, false, nil
	}
	if flags&unix.MSG_TRUNC != 0 {
		return SizeEvent{AnyDevice: true}, true, nil
	}
	event, ok = parseSizeEvent(buf[:n])
	return event, ok, nil
}

// parseSizeEvent reads a message of the kernel: a header "change@/devices/…" and settings
// "KEY=VALUE", each ended by a zero byte (lib/kobject_uevent.c). It reports false for a
// message about anything else than the size of a block device.
func parseSizeEvent(message []byte) (SizeEvent, bool) {
	header, rest, _ := bytes.Cut(message, []byte{0})
	if action, _, ok := bytes.Cut(header, []byte("@")); !ok || string(action) != "change" {
		return SizeEvent{}, false
	}
	settings := map[string]string{}
	for setting := range bytes.SplitSeq(rest, []byte{0}) {
		key, value, _ := bytes.Cut(setting, []byte("="))
		settings[string(key)] = string(value)
	}
	if settings["ACTION"] != "change" || settings["SUBSYSTEM"] != "block" || settings["RESIZE"] != "1" {
		return SizeEvent{}, false
	}
	number, err := ParseNumber(settings["MAJOR"] + ":" + settings["MINOR"])
	return SizeEvent{Major: number.Major, Minor: number.Minor}, err == nil
}
