package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/growvol/growvol/tests/guest/internal/protocol"
	"github.com/growvol/growvol/tests/internal/console"
)

const (
	// bootTime bounds the time until the command starts. It takes 2 s on an
	// idle machine.
	bootTime = 2 * time.Minute
	// haltTime bounds the time from the command's end to the kernel's.
	haltTime = 15 * time.Second
	// killTime bounds the time a killed guest needs to vanish.
	killTime = 10 * time.Second
)

// defectPattern matches the lines in which the guest's kernel reports a defect
// of its own: never a mere complaint about a disk or a filesystem image.
const defectPattern = `^(\[[ 0-9.]+\] ?)?` +
	`(BUG: |kernel BUG at |WARNING: |Oops: |Kernel panic|INFO: task .* blocked|UBSAN: |general protection fault)`

var errBoot = fmt.Errorf("%w: the command did not start within %v", ErrKernel, bootTime)

// Run boots a guest, runs the command in it and returns the command's exit
// code. The error is nil when the command exited by itself and the kernel kept
// well, whatever the code.
//
// Otherwise the error says what happened: a *SignalError (the code is then 128
// plus the signal, as in a shell), ErrKernel, the context's error, or what kept
// the command from starting. The code is -1 when the command has none.
//
// When Run returns, all processes and files of the guest are gone.
func Run(ctx context.Context, cmd Command, opts Options) (exitCode int, err error) {
	dir, err := makeDir()
	if err != nil {
		return -1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return runIn(ctx, dir, cmd, opts)
}

// makeDir makes the directory for all files of a guest. Who made it removes it;
// the supervisor does when this process is killed.
func makeDir() (string, error) {
	dir, err := os.MkdirTemp("", "growvol-guest-")
	if err != nil {
		return "", fmt.Errorf("directory for the guest: %w", err)
	}
	return dir, nil
}

func runIn(ctx context.Context, dir string, cmd Command, opts Options) (exitCode int, err error) {
	if opts.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, opts.Timeout,
			fmt.Errorf("%w: run took longer than %v", context.DeadlineExceeded, opts.Timeout))
		defer cancel()
	}
	argv, err := prepare(ctx, dir, cmd, opts)
	if err != nil {
		return -1, fmt.Errorf("prepare guest: %w", err)
	}
	r := &run{console: console.New(opts.Console, defectPattern)}
	return r.result(r.execute(ctx, dir, argv, opts))
}

// run is one life of a guest.
type run struct {
	console *console.Console
	started bool
	killed  bool            // by this program
	final   protocol.Report // zero until the command ended
}

// execute starts the supervisor and stays until everything has ended. It
// returns nil when the kernel halted by itself.
func (r *run) execute(parent context.Context, dir string, argv []string, opts Options) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	lines, err := newLines(3)
	if err != nil {
		return err
	}
	defer lines.close()
	alive, lifeline, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = alive.Close() }()

	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = alive, r.console, r.console
	cmd.ExtraFiles = lines.write
	cmd.Env = []string{} // what the kernel wants is on its command line
	cmd.SysProcAttr = namespaces()
	// The supervisor ends the guest and cleans up. Should it hang, the context
	// package's way (SIGKILL) follows after killTime, and ends the guest too.
	cmd.Cancel = lifeline.Close
	cmd.WaitDelay = killTime
	defer func() { _ = lifeline.Close() }()
	if err := cmd.Start(); err != nil {
		return startError(err)
	}
	lines.closeWriters()
	// First for the time until the command starts, then for the time that the
	// kernel takes to halt.
	watch := time.AfterFunc(bootTime, func() { cancel(errBoot) })
	defer watch.Stop()

	var group sync.WaitGroup
	group.Go(func() { copyAll(opts.Stdout, lines.read[0]) })
	group.Go(func() { copyAll(opts.Stderr, lines.read[1]) })
	group.Go(func() {
		r.follow(lines.read[2], func(rep protocol.Report) {
			watch.Stop()
			if rep.Final() {
				watch.Reset(haltTime)
			}
		})
	})
	err = cmd.Wait()
	group.Wait()
	if ctx.Err() != nil {
		r.killed = true
		return context.Cause(ctx)
	}
	return err
}

// follow reads reports until the guest's end.
func (r *run) follow(from io.Reader, seen func(protocol.Report)) {
	dec := json.NewDecoder(from)
	for {
		var rep protocol.Report
		if err := dec.Decode(&rep); err != nil {
			// End of file, or half a line of a guest that died: what counts
			// is the last whole report.
			return
		}
		r.started = true
		if rep.Final() {
			r.final = rep
		}
		seen(rep)
	}
}

// result turns the last report and the end of the kernel into the answer.
func (r *run) result(end error) (int, error) {
	code, err := -1, error(nil)
	switch r.final.Event {
	case protocol.Exited:
		code = r.final.Code
	case protocol.Signaled:
		code, err = 128+r.final.Code, &SignalError{Signal: syscall.Signal(r.final.Code)}
	case protocol.Failed:
		err = fmt.Errorf("run command in the guest: %s", r.final.Message)
	default:
		err = r.unfinished(end)
	}
	if defect := r.console.Defect(); defect != "" && !errors.Is(err, ErrKernel) {
		err = errors.Join(err, fmt.Errorf("%w: it logged %q; the end of its log:\n%s", ErrKernel, defect, r.console.Tail()))
	}
	return code, err
}

// unfinished explains a guest that ended before its command.
func (r *run) unfinished(end error) error {
	when := "while the command ran"
	if !r.started {
		when = "before the command started"
	}
	if r.killed {
		return fmt.Errorf("guest killed %s: %w; the end of its kernel log:\n%s", when, end, r.console.Tail())
	}
	var reason any = "it halted"
	if defect := r.console.Defect(); defect != "" {
		reason = defect
	} else if end != nil {
		reason = end
	}
	return fmt.Errorf("%w %s: %v; the end of its log:\n%s", ErrKernel, when, reason, r.console.Tail())
}

// copyAll never stops reading: a guest whose output nobody takes would stand
// still.
func copyAll(to io.Writer, from io.Reader) {
	if to != nil {
		_, _ = io.Copy(to, from)
	}
	_, _ = io.Copy(io.Discard, from)
}

// lines are the pipes behind the guest's serial lines.
type lines struct{ read, write []*os.File }

func newLines(n int) (*lines, error) {
	l := new(lines)
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

func (l *lines) closeWriters() {
	for _, w := range l.write {
		_ = w.Close()
	}
	l.write = nil
}

func (l *lines) close() {
	l.closeWriters()
	for _, r := range l.read {
		_ = r.Close()
	}
}
