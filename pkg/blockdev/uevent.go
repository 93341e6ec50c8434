package blockdev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

const (
	// kernelGroup is the multicast group of the messages that the kernel itself
	// sends. Those that udev has worked on come in group 2, and only where udev runs.
	kernelGroup = 1
	// eventBufferSize holds some thousand messages: enough for a node on which many
	// disks and network interfaces come and go at once.
	eventBufferSize = 4 << 20
	// maxEventSize is larger than any message of the kernel (UEVENT_BUFFER_SIZE of
	// <linux/kobject.h> and the device's path).
	maxEventSize = 16 << 10
)

// SizeEvent says that the size of a block device has changed.
type SizeEvent struct {
	// Major and Minor are the number of the device that announced a new size.
	Major, Minor uint32
	// AnyDevice says that any device may have a new size, because events were missed.
	// Major and Minor are zero then.
	AnyDevice bool
}

// WatchSizes calls changed for each block device that announces a new size,
// milliseconds after the kernel has learned of it, until ctx ends. Its first
// event, as soon as it listens, has All set, and so has one after each loss of
// events: the caller then reads the sizes of all devices that it cares for. An
// event is a reason to read the size, never the size itself.
//
// Calls of changed are made one after the other. While one runs, the kernel
// keeps what it sends, and drops it when too much waits.
//
// The events of all devices come in any network namespace of the initial user
// namespace, as containers without user namespaces have it. Kernels before 5.10
// announce the size of fewer kinds of device. WatchSizes returns the error of
// ctx, or why the kernel cannot be listened to (kind Internal).
func (s *System) WatchSizes(ctx context.Context, changed func(SizeEvent)) error {
	events, err := openEventSocket(eventBufferSize)
	if err != nil {
		return volume.Errorf(volume.KindInternal, "listen to the kernel's device events: %w", err).
			WithRemedy("let this process open netlink sockets (AF_NETLINK, NETLINK_KOBJECT_UEVENT)")
	}
	defer events.Close() //nolint:errcheck // only read from
	changed(SizeEvent{AnyDevice: true})
	return forwardSizeEvents(ctx, events, changed)
}

// openEventSocket opens the socket on which the kernel tells of its devices.
func openEventSocket(buffer int) (*os.File, error) {
	const flags = unix.SOCK_DGRAM | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	fd, err := unix.Socket(unix.AF_NETLINK, flags, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "kernel device events")
	// Beyond the limit of net.core.rmem_max only CAP_NET_ADMIN may go.
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer)
	if err != nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer)
	}
	if err != nil {
		return nil, errors.Join(os.NewSyscallError("setsockopt", err), f.Close())
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		return nil, errors.Join(os.NewSyscallError("bind", err), f.Close())
	}
	return f, nil
}

// forwardSizeEvents reads from the socket until ctx ends.
func forwardSizeEvents(ctx context.Context, events *os.File, changed func(SizeEvent)) error {
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
			changed(event)
		}
	}
}

// receiveSizeEvent waits for one message. ok is false for a message that says nothing
// of a block device's size.
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
	// Any process may send to the socket's address; the kernel's own is 0.
	if sender, isNetlink := from.(*unix.SockaddrNetlink); !isNetlink || sender.Pid != 0 {
		return SizeEvent{}, false, nil
	}
	if flags&unix.MSG_TRUNC != 0 {
		return SizeEvent{AnyDevice: true}, true, nil
	}
	event, err = parseSizeEvent(buf[:n])
	return event, err == nil, nil
}

// errNotSizeEvent says that a message of the kernel tells of something else than
// the size of a block device.
var errNotSizeEvent = errors.New("not a new size of a block device")

// parseSizeEvent reads a message of the kernel: a header "change@/devices/…"
// and settings "KEY=VALUE", each ended by a zero byte.
func parseSizeEvent(message []byte) (SizeEvent, error) {
	header, rest, _ := bytes.Cut(message, []byte{0})
	if action, _, ok := bytes.Cut(header, []byte("@")); !ok || string(action) != "change" {
		return SizeEvent{}, errNotSizeEvent
	}
	settings := map[string]string{}
	for setting := range bytes.SplitSeq(rest, []byte{0}) {
		key, value, _ := bytes.Cut(setting, []byte("="))
		settings[string(key)] = string(value)
	}
	if settings["ACTION"] != "change" || settings["SUBSYSTEM"] != "block" || settings["RESIZE"] != "1" {
		return SizeEvent{}, errNotSizeEvent
	}
	major, err1 := strconv.ParseUint(settings["MAJOR"], 10, 32)
	minor, err2 := strconv.ParseUint(settings["MINOR"], 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return SizeEvent{}, fmt.Errorf("number of a block device with a new size: %w", err)
	}
	return SizeEvent{Major: uint32(major), Minor: uint32(minor)}, nil
}
