package openstack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/growvol/growvol/tests/vm"
)

// bootTimeout bounds Boot. Without hardware virtualization a boot takes some ten seconds on an idle
// machine.
const bootTimeout = 15 * time.Minute

// Bus is the bus of an instance's disks.
type Bus string

// The buses.
const (
	BusVirtioBlk  Bus = "virtio"
	BusVirtioSCSI Bus = "scsi"
)

// IDs of flavors; rig/configure.py has all of them.
const (
	// FlavorMedium has 512 MiB of memory and one CPU: the smallest flavor that holds the initramfs of
	// a guest.
	FlavorMedium = "2"
	// FlavorNode has 2 GiB of memory, two CPUs and a root disk of 2 GiB, as a Kubernetes node needs.
	FlavorNode = "4"
)

// Options describes an instance.
type Options struct {
	Name   string   // of the server
	Image  vm.Image // kernel and initramfs
	Bus    Bus
	Flavor string // ID
	// Disk is the path of a raw image, which may have holes, of the beginning of the root disk. The
	// flavor sets the size of the root disk. If Disk is empty, the root disk is blank.
	Disk string
	// Ports of the guest that are reachable from this machine, besides those of the agent and the node
	// plugin.
	Ports []int
}

// Instance is a running Nova instance with its agent.
type Instance struct {
	*vm.Agent
	ID string

	cloud     *Cloud
	addresses map[int]string // addresses of this machine, by the port of the guest
}

// Boot creates a server, makes its ports reachable and returns when its agent answers. Concurrent
// calls are allowed. If the boot fails, Boot deletes the server and returns an error with the end
// of its console.
func (r *Rig) Boot(ctx context.Context, o Options) (*Instance, error) {
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	image, err := r.ensureImage(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("boot %s: %w", o.Name, err)
	}
	create := servers.CreateOpts{
		Name:        o.Name,
		ImageRef:    image,
		FlavorRef:   o.Flavor,
		Networks:    "none",
		ConfigDrive: new(true),
	}
	server, err := servers.Create(ctx, r.User.Compute, create, nil).Extract()
	if err != nil {
		return nil, fmt.Errorf("boot %s: %w", o.Name, err)
	}
	i := &Instance{ID: server.ID, cloud: r.User}
	if err := r.awaitAgent(ctx, i, o.Ports); err != nil {
		return nil, i.deleteFailed(ctx, fmt.Errorf("boot %s: %w", o.Name, err))
	}
	return i, nil
}

// awaitAgent returns when the agent in the guest answers; it sets the fields of the instance.
func (r *Rig) awaitAgent(ctx context.Context, i *Instance, ports []int) error {
	if err := i.awaitActive(ctx); err != nil {
		return err
	}
	var err error
	if i.addresses, err = r.addNetwork(ctx, i.ID, append([]int{vm.AgentPort, vm.NodePort}, ports...)); err != nil {
		return err
	}
	i.Agent = vm.Dial(i.Address(vm.AgentPort), i.Address(vm.NodePort))
	_, _, err = i.AwaitReady(ctx)
	return err
}

// awaitActive waits until Nova has started the server. The kernel boots after that.
func (i *Instance) awaitActive(ctx context.Context) error {
	return WaitUntil(ctx, "server "+i.ID+" is active", func(ctx context.Context) (bool, error) {
		s, err := servers.Get(ctx, i.cloud.Compute, i.ID).Extract()
		if err == nil && s.Status == "ERROR" {
			return false, fmt.Errorf("server %s: %s", i.ID, s.Fault.Message)
		}
		return err == nil && s.Status == "ACTIVE", err
	})
}

// deleteFailed deletes an instance whose boot has failed. It returns the cause with the end of the
// console.
func (i *Instance) deleteFailed(ctx context.Context, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute) // bootTimeout may be over
	defer cancel()
	console, err := i.Console(ctx)
	return errors.Join(cause, fmt.Errorf("end of its console:\n%s", console), err, i.Destroy(ctx))
}

// Address returns the address of this machine (HOST:PORT) that leads to a port of the guest, or ""
// if the port is not among those of Boot.
func (i *Instance) Address(port int) string { return i.addresses[port] }

// Console returns the last 100 lines of the serial console, to which the guest's kernel and agent
// write.
func (i *Instance) Console(ctx context.Context) (string, error) {
	return servers.ShowConsoleOutput(ctx, i.cloud.Compute, i.ID, servers.ShowConsoleOutputOpts{Length: 100}).Extract()
}

// Destroy deletes the server and returns when it is gone.
func (i *Instance) Destroy(ctx context.Context) error {
	if i.Agent != nil {
		i.Close()
	}
	err := servers.Delete(ctx, i.cloud.Compute, i.ID).ExtractErr()
	if err == nil {
		err = WaitUntil(ctx, "server "+i.ID+" is gone", func(ctx context.Context) (bool, error) {
			err := servers.Get(ctx, i.cloud.Compute, i.ID).Err
			return false, err
		})
	}
	if gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
		return nil
	}
	return err
}
