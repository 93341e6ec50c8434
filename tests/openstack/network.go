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

// addNetwork adds a network interface to the server without Nova: one of QEMU's user mode, through
// which the guest and this machine reach each other. It returns the addresses of this machine that
// lead to the ports of the guest, by port.
func (r *Rig) addNetwork(ctx context.Context, server string, ports []int) (map[int]string, error) {
	// Only administrators see the name of the instance in libvirt.
	s, err := servers.Get(ctx, r.Admin.Compute, server).Extract()
	if err != nil {
		return nil, err
	}
	uri := "qemu+unix:///system?socket=" + filepath.Join(r.Dir, "run/libvirt/libvirt-sock")
	monitor := func(command string) (string, error) {
		out, err := runProgram(ctx, "virsh", "-q", "-c", uri, "qemu-monitor-command", s.InstanceName, "--hmp", command)
		return strings.TrimSpace(out), err
	}
	commands := []string{"netdev_add user,id=tests"}
	for _, port := range ports { // port 0: the kernel of this machine chooses a port
		commands = append(commands, fmt.Sprintf("hostfwd_add tests tcp:127.0.0.1:0-:%d", port))
	}
	// libvirt does not know the interface. It would use the last slot last.
	commands = append(commands, "device_add virtio-net-pci,netdev=tests,id=tests-nic,mac=52:54:00:12:34:56,addr=0x1f")
	for _, command := range commands {
		answer, err := monitor(command)
		if err == nil && answer != "" { // QEMU prints only errors
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
			return nil, fmt.Errorf("QEMU forwards no port to port %d of the guest:\n%s", port, table)
		}
	}
	return addresses, nil
}
