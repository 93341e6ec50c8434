package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/growvol/growvol/tests/guest/internal/protocol"
	"github.com/growvol/growvol/tests/internal/console"
)

// The timeouts of a run besides that of Options.
const (
	// bootTimeout bounds the time until the command starts, which is 2 s on an idle
	// machine.
	bootTimeout = 2 * time.Minute
	// haltTimeout bounds the time from the command's end to the kernel's.
	haltTimeout = 15 * time.Second
	// killTimeout bounds the time from the kill of a guest to the end of its
	// processes.
	killTimeout = 10 * time.Second
)

// defectPattern matches the lines in which the guest's kernel reports a defect of its
// own: never a mere complaint about a disk or a filesystem image.
const defectPattern = `^(\[[ 0-9.]+\] ?)?` +
	`(BUG: |kernel BUG at |WARNING: |Oops: |Kernel panic|INFO: task .* blocked|UBSAN: |general protection fault)`

var errBoot = fmt.Errorf("%w: the command did not start within %v", ErrKernel, bootTimeout)

// Run boots a guest, runs the command in it and returns the command's exit code.
// The error is nil if the command exited by itself, with any code, and the kernel
// logged no defect.
//
// Otherwise the error is a *SignalError (the code is then 128 plus the signal, as
// in a shell), has ErrKernel in its chain, is the context's error, or says why the
// command did not start. The code is -1 if the command did not end.
//
// All processes and files of the guest are gone when Run returns.
func Run(ctx context.Context, cmd Command, opts Options) (exitCode int, err error) {
	dir, err := makeTempDir()
	if err != nil {
		return -1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return runInDir(ctx, dir, cmd, opts)
}

// makeTempDir makes the directory for the files of a guest. The caller removes it.
// If this process is killed before, the supervisor removes it.
func makeTempDir() (string, error) {
	dir, err := os.MkdirTemp("", "growvol-guest-")
	if err != nil {
		return "", fmt.Errorf("make a directory for the guest: %w", err)
	}
	return dir, nil
}

// runInDir is Run with the directory for the guest's files.
func runInDir(ctx context.Context, dir string, cmd Command, opts Options) (exitCode int, err error) {
	if opts.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, opts.Timeout,
			fmt.Errorf("%w: run took longer than %v", context.DeadlineExceeded, opts.Timeout))
		defer cancel()
	}
	argv, err := prepare(ctx, kernelFile, dir, cmd, opts)
	if err != nil {
		return -1, fmt.Errorf("prepare the guest: %w", err)
	}
	r := &run{console: console.New(opts.Console, defectPattern)}
	return r.result(r.execute(ctx, dir, argv, opts))
}

// run is a guest from its boot to its end.
type run struct {
	console    *console.Console
	hasStarted bool
	wasKilled  bool            // by this program
	final      protocol.Report // zero until the command ended
}

// execute starts the supervisor and waits until all processes of the guest have
// ended. It returns nil if the kernel halted by itself.
func (r *run) execute(parent context.Context, dir string, argv []string, opts Options) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	lines, err := newSerialLines(3)
	if err != nil {
		return err
	}
	defer lines.close()
	stdin, stdinWriter, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = stdin.Close() }()

	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, r.console, r.console
	cmd.ExtraFiles = slices.Clone(lines.write)
	if opts.Network != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, opts.Network.Port) // networkDescriptor
	}
	cmd.Env = []string{} // the kernel reads its command line only
	cmd.SysProcAttr = namespaceAttributes()
	// The supervisor ends the guest and cleans up. Should it hang, the context
	// package's way (SIGKILL) follows after killTime, and ends the guest too.
	cmd.Cancel = stdinWriter.Close
	cmd.WaitDelay = killTimeout
	defer func() { _ = stdinWriter.Close() }()
	if err := cmd.Start(); err != nil {
		return startError(err)
	}
	lines.closeWriters()
	// The timer bounds the boot first, and then the halt of the kernel.
	timer := time.AfterFunc(bootTimeout, func() { cancel(errBoot) })
	defer timer.Stop()

	var group sync.WaitGroup
	group.Go(func() { copyAndDiscard(opts.Stdout, lines.read[0]) })
	group.Go(func() { copyAndDiscard(opts.Stderr, lines.read[1]) })
	group.Go(func() {
		r.readReports(lines.read[2], func(rep protocol.Report) {
			timer.Stop()
			if rep.IsFinal() {
				timer.Reset(haltTimeout)
			}
		})
	})
	err = cmd.Wait()
	group.Wait()
	if ctx.Err() != nil {
		r.wasKilled = true
		return context.Cause(ctx)
	}
	return err
}

// readReports reads the reports of the guest's init until the guest's end, and
// passes each to onReport.
func (r *run) readReports(from io.Reader, onReport func(protocol.Report)) {
	dec := json.NewDecoder(from)
	for {
		var rep protocol.Report
		if err := dec.Decode(&rep); err != nil {
			return // end of file, or an incomplete line of a guest that was killed
		}
		r.hasStarted = true
		if rep.IsFinal() {
			r.final = rep
		}
		onReport(rep)
	}
}

// result returns the results of Run from the last report and the error of the
// kernel's process.
func (r *run) result(end error) (int, error) {
	code, err := -1, error(nil)
	switch r.final.Event {
	case protocol.EventExited:
		code = r.final.Code
	case protocol.EventSignaled:
		code, err = 128+r.final.Code, &SignalError{Signal: syscall.Signal(r.final.Code)}
	case protocol.EventFailed:
		err = fmt.Errorf("run the command in the guest: %s", r.final.Message)
	default:
		err = r.unfinishedError(end)
	}
	if defect := r.console.Defect(); defect != "" && !errors.Is(err, ErrKernel) {
		err = errors.Join(err, fmt.Errorf("%w: it logged %q; the end of its log:\n%s", ErrKernel, defect, r.console.Tail()))
	}
	return code, err
}

// unfinishedError returns the error of a guest that ended before its command did.
func (r *run) unfinishedError(end error) error {
	when := "while the command ran"
	if !r.hasStarted {
		when = "before the command started"
	}
	if r.wasKilled {
		return fmt.Errorf("the guest was killed %s: %w; the end of its kernel log:\n%s", when, end, r.console.Tail())
	}
	var reason any = "it halted"
	if defect := r.console.Defect(); defect != "" {
		reason = defect
	} else if end != nil {
		reason = end
	}
	return fmt.Errorf("%w %s: %v; the end of its log:\n%s", ErrKernel, when, reason, r.console.Tail())
}

// copyAndDiscard copies, and discards the rest if the copy fails or to is nil: a
// guest whose output is not read would block.
func copyAndDiscard(to io.Writer, from io.Reader) {
	if to != nil {
		_, _ = io.Copy(to, from)
	}
	_, _ = io.Copy(io.Discard, from)
}

// serialLines are the pipes that the guest's serial lines are connected to.
type serialLines struct{ read, write []*os.File }

// newSerialLines makes n pipes.
func newSerialLines(n int) (*serialLines, error) {
	l := new(serialLines)
	for range n {
		r, w, err := os.Pipe()
		if err != nil {
			l.close()
			return nil, err
		}
		l.read, l.write = append(l.read, r), append(l.write, w)
	}
	return l, nil
}

// closeWriters closes this process's writing ends, which the guest has inherited.
func (l *serialLines) closeWriters() {
	for _, w := range l.write {
		_ = w.Close()
	}
	l.write = nil
}

func (l *serialLines) close() {
	l.closeWriters()
	for _, r := range l.read {
		_ = r.Close()
	}
}
