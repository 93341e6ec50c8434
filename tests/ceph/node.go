package ceph

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/guest"
	"github.com/growvol/growvol/tests/vm"
)

// This file holds Node: a guest that is a client of the rig.

// bootTimeout bounds Boot, which takes 3 s on an idle machine.
const bootTimeout = 2 * time.Minute

// NodeOptions describe a node.
type NodeOptions struct {
	// Number is from 1 to 99 and different for each node; Address returns its address.
	Number int
	// Programs is the directory of programs for the node, which has the program "agent" of package
	// vm. The node sees it at the same path.
	Programs string
	// Shares are directories of the machine that the node sees besides Programs and /usr.
	Shares []guest.Share
	// Memory of the guest; zero: 512 MiB.
	Memory volume.Size
	// Console gets the log of the guest's kernel.
	Console io.Writer
}

// Node is a running guest with its agent.
type Node struct {
	*vm.Agent
	Address netip.Addr // as a client of Ceph

	port *port
	stop context.CancelFunc
	done chan struct{} // closed when the guest has ended
	err  error         // of the run, set before done is closed
}

// Address returns the address of the node with this number.
func Address(number int) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, 0, byte(10 + number)}) }

// Boot starts a guest and returns when its agent answers. Concurrent calls are allowed. The caller
// ends it with Kill.
func (r *Rig) Boot(ctx context.Context, o NodeOptions) (*Node, error) {
	if o.Memory == 0 {
		o.Memory = 512 * volume.MiB
	}
	p, err := newPort(fmt.Sprintf("guest%d", o.Number))
	if err != nil {
		return nil, err
	}
	address := Address(o.Number)
	opts := guest.Options{
		Memory:  o.Memory,
		Shares:  append([]guest.Share{{Host: o.Programs}}, o.Shares...),
		Modules: []string{"libceph", "rbd", "cbc"},
		Network: &guest.Network{
			Port:    p.guest,
			Address: netip.PrefixFrom(address, 24),
			MAC:     net.HardwareAddr{0x52, 0x54, 0, 0x77, 0, byte(o.Number)},
		},
		Console: o.Console,
	}
	// ctx bounds only the boot; the guest runs until Kill.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	n := &Node{Address: address, port: p, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(n.done)
		code, err := guest.Run(running, guest.Command{Path: filepath.Join(o.Programs, "agent")}, opts)
		n.err = fmt.Errorf("the guest %d has ended with exit code %d: %w", o.Number, code, err)
	}()
	n.Agent = vm.Dial(fmt.Sprintf("%s:%d", address, vm.AgentPort), fmt.Sprintf("%s:%d", address, vm.NodePort))
	if err := n.awaitAgent(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("boot the node %d: %w", o.Number, err), n.Kill())
	}
	return n, nil
}

// awaitAgent returns when the agent answers, or an error when the guest has ended.
func (n *Node) awaitAgent(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	go func() {
		select {
		case <-n.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	_, _, err := n.AwaitReady(ctx)
	return err
}

// NodeAddress is the address (host:port) of the node plugin's socket.
func (n *Node) NodeAddress() string { return fmt.Sprintf("%s:%d", n.Address, vm.NodePort) }

// Cut drops all packets between the node and Ceph until Restore. The agent and the node plugin stay
// reachable from this process.
func (n *Node) Cut() { n.port.cut.Store(true) }

// Restore ends Cut.
func (n *Node) Restore() { n.port.cut.Store(false) }

// Kill ends the guest as a loss of power does. It returns an error if the guest had ended by
// itself, or if its kernel has logged a defect.
func (n *Node) Kill() error {
	n.Close()
	n.stop()
	<-n.done
	err := n.err
	if errors.Is(err, context.Canceled) && !errors.Is(err, guest.ErrKernel) {
		err = nil
	}
	return errors.Join(err, n.port.Close())
}

// Script runs a shell script in the node and returns its output.
func (n *Node) Script(ctx context.Context, script string) (string, error) {
	out, err := n.Run(ctx, vm.Command{Argv: []string{"bash", "-euc", script}, Timeout: 3 * time.Minute})
	return strings.TrimSpace(out), err
}
