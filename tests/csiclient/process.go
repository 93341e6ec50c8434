// Package csiclient plays the container orchestrator of the CSI specification: it
// starts the plugins, calls them in the order a CO must, and writes to their
// volumes meanwhile. Tests, benchmarks and the demo share it.
package csiclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// startTimeout bounds how long a plugin may take from exec to its first
// answer; it takes some 20 ms.
const startTimeout = 20 * time.Second

// Plugin is a running plugin process and a connection to it.
type Plugin struct {
	Conn          *grpc.ClientConn
	StartDuration time.Duration // from exec until Probe answered
	PID           int

	cmd     *exec.Cmd
	exited  chan struct{} // closed when the process is gone
	waitErr error         // of Wait; set before exited is closed
}

// StartPlugin executes the program with --endpoint and the further arguments,
// its log going to the writer, and waits until it answers a Probe.
func StartPlugin(ctx context.Context, log io.Writer, program, socket string, args ...string) (*Plugin, error) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	// The process must outlive ctx, which bounds only its start.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), program, append([]string{"--endpoint=unix://" + socket}, args...)...) //nolint:gosec // the programs under test
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Plugin{cmd: cmd, PID: cmd.Process.Pid, exited: make(chan struct{})}
	go func() {
		p.waitErr = cmd.Wait()
		close(p.exited)
	}()
	if err := p.connect(ctx, socket); err != nil {
		p.Kill()
		return nil, fmt.Errorf("%s did not answer within %s: %w", program, time.Since(start).Round(time.Millisecond), err)
	}
	p.StartDuration = time.Since(start)
	return p, nil
}

func (p *Plugin) connect(ctx context.Context, socket string) error {
	var err error
	p.Conn, err = grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	identity := csi.NewIdentityClient(p.Conn)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err = identity.Probe(ctx, &csi.ProbeRequest{}); err == nil {
			return nil
		}
		p.Conn.ResetConnectBackoff()
		select {
		case <-p.exited:
			return errors.Join(errors.New("the program has ended"), p.waitErr)
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// Kill ends the plugin as a crash would, without warning.
func (p *Plugin) Kill() { p.signalAndWait(syscall.SIGKILL) }

// Stop ends the plugin as Kubernetes would and returns what it exited with.
func (p *Plugin) Stop() error {
	p.signalAndWait(syscall.SIGTERM)
	return p.waitErr
}

func (p *Plugin) signalAndWait(sig syscall.Signal) {
	if p.Conn != nil {
		_ = p.Conn.Close() // the process is ended in any case
	}
	_ = p.cmd.Process.Signal(sig) // an error means that it has ended
	<-p.exited
}
