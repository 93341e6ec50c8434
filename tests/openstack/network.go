package openstack

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/growvol/growvol/tests/vm"
)

// plugNetwork gives the server a network interface behind Nova's back: one in
// QEMU's user mode, in which the guest reaches this machine, and this machine
// ports of the guest. It returns the addresses of this machine that lead to
// them.
func (r *Rig) plugNetwork(ctx context.Context, server string, ports []int) (map[int]string, error) {
	// Only administrators are told.
	s, err := servers.Get(ctx, r.Admin.Compute, server).Extract()
	if err != nil {
		return nil, err
	}
	uri := "qemu+unix:///system?socket=" + filepath.Join(r.Dir, "run/libvirt/libvirt-sock")
	monitor := func(command string) (string, error) {
		out, err := output(ctx, "virsh", "-q", "-c", uri, "qemu-monitor-command", s.InstanceName, "--hmp", command)
		return strings.TrimSpace(out), err
	}
	commands := []string{"netdev_add user,id=tests"}
	for _, port := range ports { // this machine's kernel chooses what leads to it
		commands = append(commands, fmt.Sprintf("hostfwd_add tests tcp:127.0.0.1:0-:%d", port))
	}
	// libvirt does not know of it: the last slot is the last that it would use.
	commands = append(commands, "device_add virtio-net-pci,netdev=tests,id=tests-nic,mac=52:54:00:12:34:56,addr=0x1f")
	for _, command := range commands {
		answer, err := monitor(command)
		if err == nil && answer != "" { // QEMU says nothing when all is well
			err = errors.New(answer)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", command, err)
		}
	}
	table, err := monitor("info usernet")
	if err != nil {
		return nil, err
	}
	addresses := vm.ParseForwardedPorts(table)
	for _, port := range ports {
		if addresses[port] == "" {
			return nil, fmt.Errorf("QEMU forwards nothing to port %d of the guest:\n%s", port, table)
		}
	}
	return addresses, nil
}
