package csiclient

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// startTimeout bounds the time from the start of a plugin's process to its first
// answer, which takes about 20 ms.
const startTimeout = time.Minute

// Plugin is a running plugin process and a connection to it.
type Plugin struct {
	Conn          *grpc.ClientConn
	StartDuration time.Duration // from the start of the process to the answer of Probe
	PID           int

	cmd     *exec.Cmd
	exited  chan struct{} // closed when the process has ended
	waitErr error         // of cmd.Wait, set before exited is closed
}

// StartPlugin starts the program with --endpoint=unix://SOCKET and the further
// arguments, and waits until it answers Probe. The program's output goes to log.
func StartPlugin(ctx context.Context, log io.Writer, program, socket string, args ...string) (*Plugin, error) {
	return StartPluginWith(ctx, nil, log, program, socket, args...)
}

// StartPluginWith is StartPlugin with variables ("NAME=value") besides the environment of this
// process.
func StartPluginWith(
	ctx context.Context, variables []string, log io.Writer, program, socket string, args ...string,
) (*Plugin, error) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	args = append([]string{"--endpoint=unix://" + socket}, args...)
	// ctx bounds only the start; the process runs on.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), program, args...) //nolint:gosec // the programs under test
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, append(os.Environ(), variables...)
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

// connect connects to the socket and waits until Probe succeeds, the process ends
// or ctx does.
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
			return fmt.Errorf("the program has ended: %v", p.waitErr) //nolint:errorlint // may be nil
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// Kill ends the plugin with SIGKILL, as a crash does.
func (p *Plugin) Kill() { p.signalAndWait(syscall.SIGKILL) }

// Stop ends the plugin with SIGTERM, as Kubernetes does, and returns the error of
// its exit.
func (p *Plugin) Stop() error {
	p.signalAndWait(syscall.SIGTERM)
	return p.waitErr
}

// signalAndWait closes the connection, sends the signal and waits for the end of the
// process.
func (p *Plugin) signalAndWait(sig syscall.Signal) {
	if p.Conn != nil {
		_ = p.Conn.Close() // the signal ends the process in any case
	}
	_ = p.cmd.Process.Signal(sig) // fails only when the process has ended
	<-p.exited
}
