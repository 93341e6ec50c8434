package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/internal/console"
	"github.com/growvol/growvol/tests/vm/internal/protocol"
)

// Defaults of Options.
const (
	DefaultMemory = 768 * volume.MiB
	DefaultCPUs   = 2
)

// bootTimeout bounds Start, which takes about ten seconds on an idle machine.
const bootTimeout = 3 * time.Minute

// defectPattern matches the lines in which the guest's kernel reports a defect of its
// own, and the one in which the agent reports that it cannot continue.
const defectPattern = `^(\[[ 0-9.]+\] ?)?` +
	`(BUG: |kernel BUG at |Oops: |Kernel panic|general protection fault|` + protocol.FailedLine + `)`

// Options are the properties of a machine.
type Options struct {
	Image   Image
	Memory  volume.Size // 0 means DefaultMemory
	CPUs    int         // 0 means DefaultCPUs
	Console io.Writer   // gets what the guest prints on its console; may be nil
}

// Machine is a running QEMU machine whose guest runs the agent.
type Machine struct {
	*Agent

	// BootTime is the time from the start of QEMU to the agent's first answer.
	BootTime time.Duration
	// Kernel is the version of the guest's kernel.
	Kernel string

	cmd       *exec.Cmd
	monitor   *monitor
	console   *console.Console
	dir       string        // of the disks' files
	exited    chan struct{} // closed when QEMU is gone
	waitErr   error         // of Wait, set before exited is closed
	closeOnce sync.Once

	mu    sync.Mutex
	disks map[string]Disk // plugged in, by name
	slots []int           // free PCI slots; the first has been free longest
}

// Start boots a machine and waits for its agent. The machine runs until Close, and
// ends with this process. Its disks are files in a temporary directory.
func Start(ctx context.Context, opts Options) (*Machine, error) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	m, err := startQEMU(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	if err := m.boot(ctx); err != nil {
		return nil, errors.Join(m.withConsole(err), m.Close())
	}
	m.BootTime = time.Since(start)
	return m, nil
}

// startQEMU starts the QEMU process and connects to its monitor.
func startQEMU(ctx context.Context, opts Options) (*Machine, error) {
	path, err := findProgram("qemu-system-x86_64")
	if err != nil {
		return nil, fmt.Errorf("%w (next step: install the Debian package qemu-system-x86)", err)
	}
	conn, qemuEnd, err := newMonitorPair()
	if err != nil {
		return nil, err
	}
	defer qemuEnd.Close() //nolint:errcheck // QEMU has its own descriptor
	dir, err := os.MkdirTemp("", "growvol-vm-")
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	m := &Machine{
		console: console.New(opts.Console, defectPattern),
		dir:     dir,
		exited:  make(chan struct{}),
		disks:   map[string]Disk{},
	}
	// ctx bounds only the start; the machine runs on.
	m.cmd = exec.CommandContext(context.WithoutCancel(ctx), path, qemuArguments(opts)...) //nolint:gosec // of tests
	m.cmd.Stdout, m.cmd.Stderr = m.console, m.console
	m.cmd.ExtraFiles = []*os.File{qemuEnd}
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.cmd.Start(); err != nil {
		return nil, errors.Join(err, conn.Close(), os.RemoveAll(dir))
	}
	go func() {
		m.waitErr = m.cmd.Wait()
		close(m.exited)
	}()
	if m.monitor, err = newMonitor(ctx, conn); err != nil {
		return nil, errors.Join(m.withConsole(err), m.Close())
	}
	return m, nil
}

// newMonitorPair returns the two ends of a connection for QMP. It has no path and
// no port, so that no other program can connect.
func newMonitorPair() (conn net.Conn, qemuEnd *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	own, qemuEnd := os.NewFile(uintptr(fds[0]), "qmp"), os.NewFile(uintptr(fds[1]), "qmp of QEMU")
	conn, err = net.FileConn(own) // with a descriptor of its own
	return conn, qemuEnd, errors.Join(err, own.Close())
}

// qemuArguments returns QEMU's command line. There are two SCSI controllers: one
// notifies the guest of a disk's resize, the other does not. The kernel of this
// machine chooses the forwarded ports. The CPU is QEMU's default, without vector
// instructions, which are slow to emulate.
func qemuArguments(opts Options) []string {
	memory, cpus := opts.Memory, opts.CPUs
	if memory == 0 {
		memory = DefaultMemory
	}
	if cpus == 0 {
		cpus = DefaultCPUs
	}
	return []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "pc", "-accel", "tcg,thread=multi", "-smp", strconv.Itoa(cpus),
		"-m", strconv.FormatInt(memory.Bytes()>>20, 10),
		"-kernel", opts.Image.Kernel, "-initrd", opts.Image.Initrd,
		"-append", CommandLine + " loglevel=4 panic=-1 mitigations=off",
		"-serial", "stdio",
		"-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control",
		"-netdev", fmt.Sprintf("user,id=net,hostfwd=tcp:127.0.0.1:0-:%d,hostfwd=tcp:127.0.0.1:0-:%d",
			AgentPort, NodePort),
		"-device", "virtio-net-pci,netdev=net,romfile=",
		"-device", "virtio-rng-pci",
		"-object", "secret,id=" + luksSecretID + ",data=" + luksPassphrase,
		"-device", "virtio-scsi-pci,id=" + notifyingControllerID,
		"-device", "virtio-scsi-pci,id=" + silentControllerID + ",param_change=off",
	}
}

// boot finds the forwarded ports and waits for the agent.
func (m *Machine) boot(ctx context.Context) error {
	table, err := m.monitor.executeHuman(ctx, "info usernet")
	if err != nil {
		return err
	}
	addresses := ParseForwardedPorts(table)
	for _, port := range []int{AgentPort, NodePort} {
		if addresses[port] == "" {
			return fmt.Errorf("QEMU forwards nothing to port %d of the guest:\n%s", port, table)
		}
	}
	if m.slots, err = m.monitor.freeSlots(ctx); err != nil {
		return err
	}
	m.Agent = Dial(addresses[AgentPort], addresses[NodePort])
	ctx, cancel := m.untilGuestEnds(ctx)
	defer cancel()
	m.Kernel, _, err = m.AwaitReady(ctx)
	return err
}

// ParseForwardedPorts returns the addresses of this machine by the port of the guest
// that they lead to. The table is the answer of QEMU's monitor to "info usernet", with
// lines such as "TCP[HOST_FORWARD]  13  127.0.0.1 38121  10.0.2.15  9000  0  0".
func ParseForwardedPorts(table string) map[int]string {
	addresses := map[int]string{}
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[0] != "TCP[HOST_FORWARD]" {
			continue
		}
		if port, err := strconv.Atoi(fields[5]); err == nil {
			addresses[port] = net.JoinHostPort(fields[2], fields[3])
		}
	}
	return addresses
}

// untilGuestEnds returns a context that also ends when the guest fails or ends.
func (m *Machine) untilGuestEnds(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-m.exited:
		case <-m.console.Failed():
		case <-ctx.Done():
		}
		cancel()
	}()
	return ctx, cancel
}

// Err returns nil while the guest runs without a defect of its kernel, and
// otherwise what happened, with the end of the console.
func (m *Machine) Err() error {
	if line := m.console.Defect(); line != "" {
		return fmt.Errorf("the guest has failed: %s\nend of its console:\n%s", line, m.console.Tail())
	}
	select {
	case <-m.exited:
		return fmt.Errorf("the guest has ended (QEMU: %v)\nend of its console:\n%s",
			m.waitErr, m.console.Tail()) //nolint:errorlint // may be nil
	default:
		return nil
	}
}

// Failed returns a channel that is closed when the guest's kernel reports a defect.
func (m *Machine) Failed() <-chan struct{} { return m.console.Failed() }

// withConsole adds the result of Err, or the end of the console, to an error of the
// start.
func (m *Machine) withConsole(err error) error {
	if guestErr := m.Err(); guestErr != nil {
		return errors.Join(err, guestErr)
	}
	return fmt.Errorf("%w\nend of the guest's console:\n%s", err, m.console.Tail())
}

// Close ends the machine at once and removes its disks. Further calls do nothing.
func (m *Machine) Close() (err error) {
	m.closeOnce.Do(func() {
		if m.Agent != nil {
			m.Agent.Close()
		}
		_ = m.cmd.Process.Kill() // fails only when the process has ended
		<-m.exited
		if m.monitor != nil {
			err = m.monitor.close()
		}
		err = errors.Join(err, os.RemoveAll(m.dir))
	})
	return err
}
