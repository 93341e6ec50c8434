package ceph

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/tests/vm"
)

// This file holds port, the connection of a guest to the rig's bridge.

// bridge is the bridge that `up` has made.
const (
	bridge = "br0"
	// maxFrame is larger than any frame: the kernel merges up to 64 KiB of a TCP stream.
	maxFrame = 66 << 10
)

// port connects a guest to the bridge of the namespace in which this process runs. It relays frames
// between a tap device and a socket, and can cut the guest off from Ceph.
type port struct {
	guest *os.File // the end of the guest
	relay *os.File // the other end
	tap   *os.File
	cut   atomic.Bool
}

// newPort adds a port to the bridge; the tap device has the name. The port ends with Close.
func newPort(name string) (*port, error) {
	p := new(port)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("port %s: %w", name, err)
	}
	p.guest, p.relay = os.NewFile(uintptr(pair[0]), name), os.NewFile(uintptr(pair[1]), name)
	if p.tap, err = openTap(name); err != nil {
		return nil, errors.Join(fmt.Errorf("port %s: %w", name, err), p.guest.Close(), p.relay.Close())
	}
	go p.copy(p.relay, p.tap)
	go p.copy(p.tap, p.relay)
	return p, nil
}

// openTap makes a tap device, which ends with the file, and adds it to the bridge. Without
// IFF_VNET_HDR the kernel completes the checksums of the frames that it hands over.
func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	if err := configureTap(fd, name); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil // after TUNSETIFF: before, the file cannot be polled
}

func configureTap(fd int, name string) error {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return fmt.Errorf("make a tap device: %w", err)
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(socket) }()
	if err := unix.IoctlIfreq(socket, unix.SIOCGIFINDEX, req); err != nil {
		return fmt.Errorf("read the index of the tap device: %w", err)
	}
	index := req.Uint32()
	toBridge, err := unix.NewIfreq(bridge)
	if err != nil {
		return err
	}
	toBridge.SetUint32(index)
	if err := unix.IoctlIfreq(socket, unix.SIOCBRADDIF, toBridge); err != nil {
		return fmt.Errorf("add the tap device to the bridge %s: %w", bridge, err)
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("bring the tap device up: %w", err)
	}
	return nil
}

// copy relays frames until one of the files is closed.
func (p *port) copy(to, from *os.File) {
	frame := make([]byte, maxFrame)
	for {
		n, err := from.Read(frame)
		if err != nil {
			return
		}
		if p.cut.Load() && !isControl(frame[:n]) {
			continue
		}
		// An interface that is down refuses a frame, which is then lost as on a wire.
		if _, err := to.Write(frame[:n]); errors.Is(err, os.ErrClosed) {
			return
		}
	}
}

// isControl reports whether the frame belongs to the test, not to Ceph: it is no IPv4, or TCP
// with a port of the agent.
func isControl(frame []byte) bool {
	const ethernet, ipv4 = 14, 20 // minimum lengths of the headers
	if len(frame) < ethernet+ipv4+4 || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_IP {
		return true
	}
	packet := frame[ethernet:]
	header := int(packet[0]&0xf) * 4
	if packet[9] != unix.IPPROTO_TCP || len(packet) < header+4 {
		return false
	}
	control := []uint16{vm.AgentPort, vm.NodePort}
	return slices.Contains(control, binary.BigEndian.Uint16(packet[header:])) ||
		slices.Contains(control, binary.BigEndian.Uint16(packet[header+2:]))
}

// Close removes the port from the bridge.
func (p *port) Close() error { return errors.Join(p.tap.Close(), p.relay.Close(), p.guest.Close()) }
