package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The addresses of QEMU's user-mode network.
const (
	guestAddress = "10.0.2.15"
	guestMask    = "255.255.255.0"
	gateway      = "10.0.2.2"
)

// watchNetwork configures every network device, also those that are plugged in
// later. It passes the errors of single devices to warn and returns only when it
// cannot watch any more.
func watchNetwork(warn func(error)) error {
	// It subscribes before it reads the interfaces, so that it misses none.
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("watch network interfaces: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK}); err != nil {
		return fmt.Errorf("watch network interfaces: %w", err)
	}
	buf := make([]byte, 64<<10)
	for {
		if err := configureAll(); err != nil {
			warn(err)
		}
		// The content of the message does not matter: configureAll reads all interfaces.
		_, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("watch network interfaces: %w", err)
		}
	}
}

// configureAll configures the interfaces that have no address yet.
func configureAll() error {
	interfaces, err := net.Interfaces()
	if err != nil {
		return err
	}
	var errs []error
	for _, i := range interfaces {
		switch addresses, err := i.Addrs(); {
		case err != nil:
			errs = append(errs, err)
		case i.Flags&net.FlagLoopback != 0:
			if i.Flags&net.FlagUp == 0 {
				errs = append(errs, configure(i.Name, "127.0.0.1", "255.0.0.0"))
			}
		case isDevice(i.Name) && !hasIPv4(addresses):
			errs = append(errs, configure(i.Name, guestAddress, guestMask), addDefaultRoute())
		}
	}
	return errors.Join(errs...)
}

// isDevice reports whether the interface is a device of the machine, and not made
// by software as the bridges of containers are.
func isDevice(name string) bool {
	_, err := os.Stat(filepath.Join("/sys/class/net", name, "device"))
	return err == nil
}

func hasIPv4(addresses []net.Addr) bool {
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil {
			return true
		}
	}
	return false
}

// configure sets the address of an interface and brings the interface up.
func configure(name, address, mask string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	for _, step := range []struct {
		request uint
		value   string
	}{{unix.SIOCSIFADDR, address}, {unix.SIOCSIFNETMASK, mask}, {unix.SIOCSIFFLAGS, ""}} {
		req, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if step.value == "" {
			req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		} else if err := req.SetInet4Addr(net.ParseIP(step.value).To4()); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, step.request, req); err != nil {
			return fmt.Errorf("configure %s: ioctl %#x: %w", name, step.request, err)
		}
	}
	return nil
}

// route is struct rtentry of <linux/route.h> on 64-bit machines. Its addresses are
// struct sockaddr_in.
type route struct {
	_                         uint64
	destination, gateway, net [16]byte
	flags                     uint16
	_                         [62]byte
}

// addDefaultRoute adds the default route, to the host.
func addDefaultRoute() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	const up, viaGateway = 0x1, 0x2 // RTF_UP, RTF_GATEWAY
	r := route{flags: up | viaGateway}
	for _, a := range []*[16]byte{&r.destination, &r.gateway, &r.net} {
		a[0] = unix.AF_INET
	}
	copy(r.gateway[4:], net.ParseIP(gateway).To4())
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCADDRT, uintptr(unsafe.Pointer(&r)))
	if errno != 0 && errno != unix.EEXIST {
		return fmt.Errorf("add the default route: %w", errno)
	}
	return nil
}
