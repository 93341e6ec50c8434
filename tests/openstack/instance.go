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

// bootTimeout bounds Boot. Without hardware virtualization it takes some ten
// seconds on an idle machine.
const bootTimeout = 15 * time.Minute

// Bus is how an instance sees its disks.
type Bus string

// The buses.
const (
	VirtioBlk  Bus = "virtio"
	VirtioSCSI Bus = "scsi"
)

// Ids of flavors; rig/configure.py has them all.
const (
	// FlavorMedium is the smallest that holds a guest's initial RAM
	// filesystem: 512 MiB, one CPU.
	FlavorMedium = "2"
	// FlavorNode has what a node of Kubernetes needs: 2 GiB, two CPUs, a root
	// disk of 2 GiB.
	FlavorNode = "4"
)

// Options say what an instance is like.
type Options struct {
	Name   string   // of the server
	Image  vm.Image // what it boots
	Bus    Bus
	Flavor string // id
	// Disk is the path of a raw image, holes and all, that the root disk begins
	// with; it is as large as the flavor says. Empty: the disk is blank.
	Disk string
	// Ports of the guest to make reachable from this machine, besides those of
	// the agent and of the node plugin.
	Ports []int
}

// Instance is a Nova instance that runs, with its agent.
type Instance struct {
	*vm.Agent
	ID string

	cloud     *Cloud
	addresses map[int]string // of this machine, by the guest's ports that they lead to
}

// Boot creates a server, makes its ports reachable and returns when its agent
// answers. Several may boot at the same time. A server that does not get that
// far is deleted; the error has the end of its console.
func (r *Rig) Boot(ctx context.Context, o Options) (*Instance, error) {
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	image, err := r.image(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("boot %s: %w", o.Name, err)
	}
	create := servers.CreateOpts{Name: o.Name, ImageRef: image, FlavorRef: o.Flavor, Networks: "none", ConfigDrive: new(true)}
	server, err := servers.Create(ctx, r.User.Compute, create, nil).Extract()
	if err != nil {
		return nil, fmt.Errorf("boot %s: %w", o.Name, err)
	}
	i := &Instance{ID: server.ID, cloud: r.User}
	if err := r.boot(ctx, i, o.Ports); err != nil {
		return nil, i.discard(ctx, fmt.Errorf("boot %s: %w", o.Name, err))
	}
	return i, nil
}

func (r *Rig) boot(ctx context.Context, i *Instance, ports []int) error {
	if err := i.awaitActive(ctx); err != nil {
		return err
	}
	var err error
	if i.addresses, err = r.plugNetwork(ctx, i.ID, append([]int{vm.AgentPort, vm.NodePort}, ports...)); err != nil {
		return err
	}
	i.Agent = vm.Dial(i.Address(vm.AgentPort), i.Address(vm.NodePort))
	_, _, err = i.AwaitReady(ctx)
	return err
}

// awaitActive waits until Nova has started the server, whose kernel then boots.
func (i *Instance) awaitActive(ctx context.Context) error {
	return Eventually(ctx, "server "+i.ID+" is active", func(ctx context.Context) (bool, error) {
		s, err := servers.Get(ctx, i.cloud.Compute, i.ID).Extract()
		if err == nil && s.Status == "ERROR" {
			return false, fmt.Errorf("server %s: %s", i.ID, s.Fault.Message)
		}
		return err == nil && s.Status == "ACTIVE", err
	})
}

// discard deletes an instance that is of no use, and returns why it is with
// what is known of it.
func (i *Instance) discard(ctx context.Context, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute) // the time to boot may be over
	defer cancel()
	console, err := i.Console(ctx)
	return errors.Join(why, fmt.Errorf("end of its console:\n%s", console), err, i.Destroy(ctx))
}

// Address is an address of this machine (host:port) that leads to one of the
// ports of the guest that Boot was asked for; empty for any other.
func (i *Instance) Address(port int) string { return i.addresses[port] }

// Console returns the end of what the guest's kernel and agent have written to
// the serial console.
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
		err = Eventually(ctx, "server "+i.ID+" is gone", func(ctx context.Context) (bool, error) {
			err := servers.Get(ctx, i.cloud.Compute, i.ID).Err
			return false, err
		})
	}
	if gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
		return nil
	}
	return err
}
