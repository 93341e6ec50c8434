package recording

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/operation"
)

// Prompt is what a shell prints on its terminal when it waits for a command.
const Prompt = "$ "

// Terminal is a shell on a pseudo terminal, whose output is recorded.
type Terminal struct {
	pty   *os.File
	shell *exec.Cmd
	start time.Time
	done  chan struct{} // closed when everything is read
	// keep keeps the terminal open after the end of the context.
	keep func() bool

	mutex   sync.Mutex
	changed chan struct{} // closed and replaced at each output
	cast    Cast
	text    strings.Builder // of all outputs
	readErr error
}

// Start starts a shell on a terminal of that size. argv is the command that starts it, with the
// prompt of the variable PS1, which is Prompt. The shell is killed when ctx ends. The caller closes
// the terminal.
func Start(ctx context.Context, columns, rows uint16, argv ...string) (*Terminal, error) {
	shell := exec.CommandContext(ctx, argv[0], argv[1:]...) //nolint:gosec // the caller's command
	shell.Env = append(os.Environ(), "PS1="+Prompt, "TERM=xterm-256color", "LC_ALL=C.UTF-8")
	f, err := pty.StartWithSize(shell, &pty.Winsize{Cols: columns, Rows: rows})
	if err != nil {
		return nil, fmt.Errorf("start %s on a pseudo terminal: %w", argv[0], err)
	}
	if f, err = withoutBlocking(f); err != nil {
		return nil, err
	}
	t := &Terminal{
		pty: f, shell: shell, start: time.Now(), done: make(chan struct{}), changed: make(chan struct{}),
		cast: Cast{Columns: int(columns), Rows: int(rows)},
	}
	// A process that outlives the shell has the terminal open, so that the read would not end.
	t.keep = context.AfterFunc(ctx, func() { _ = f.Close() }) // Close has the error
	go t.read()
	return t, nil
}

// withoutBlocking returns the file in the mode in which Close ends a read.
func withoutBlocking(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(unix.SetNonblock(fd, true), f.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("open the pseudo terminal without blocking: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// read records the output until the shell has ended.
func (t *Terminal) read() {
	defer close(t.done)
	buffer := make([]byte, 4096)
	var partial []byte // the begin of a character whose other bytes follow
	for {
		n, err := t.pty.Read(buffer)
		partial = append(partial, buffer[:n]...)
		complete := completeLength(partial)
		t.record(string(partial[:complete]), err)
		partial = partial[complete:]
		if err != nil {
			return
		}
	}
}

// completeLength returns the number of bytes without a character at the end that is not complete.
func completeLength(b []byte) int {
	for last := 1; last < utf8.UTFMax && last <= len(b); last++ {
		if c := b[len(b)-last]; utf8.RuneStart(c) {
			if !utf8.FullRune(b[len(b)-last:]) {
				return len(b) - last
			}
			break
		}
	}
	return len(b)
}

func (t *Terminal) record(text string, err error) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if text != "" {
		t.cast.Outputs = append(t.cast.Outputs, Output{At: time.Since(t.start), Text: text})
		t.text.WriteString(text)
	}
	// Linux reports EIO when no process has the terminal open any more.
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.EIO) {
		t.readErr = fmt.Errorf("read from the pseudo terminal: %w", err)
	}
	close(t.changed)
	t.changed = make(chan struct{})
}

// readingTime is how many keys a user could type in the time of reading what is on the terminal.
const readingTime = 25

// Run types a command as a user does, with the pause after each key and a longer one before, and
// waits until the shell has printed its prompt again. It returns what the command has printed.
func (t *Terminal) Run(ctx context.Context, command string, pause time.Duration) (string, error) {
	if _, err := t.awaitPrompt(ctx, 0); err != nil {
		return "", err
	}
	if err := wait(ctx, readingTime*pause); err != nil {
		return "", err
	}
	for _, key := range command {
		if err := t.press(ctx, string(key), pause); err != nil {
			return "", err
		}
	}
	begin := t.length()
	if err := t.press(ctx, "\r", 0); err != nil {
		return "", err
	}
	out, err := t.awaitPrompt(ctx, begin)
	if err != nil {
		return "", fmt.Errorf("%s: %w", command, err)
	}
	return strings.TrimSuffix(out, Prompt), nil
}

// press sends the key, and waits until the terminal has shown it and the pause is over.
func (t *Terminal) press(ctx context.Context, key string, pause time.Duration) error {
	before := t.length()
	if _, err := t.pty.WriteString(key); err != nil {
		return fmt.Errorf("write to the pseudo terminal: %w", err)
	}
	if _, err := t.await(ctx, func(text string) bool { return len(text) > before }); err != nil {
		return err
	}
	return wait(ctx, pause)
}

// wait waits for the pause of a user who types.
func wait(ctx context.Context, pause time.Duration) error {
	if err := operation.Sleep(ctx, pause); err != nil {
		return fmt.Errorf("wait before the next key: %w", err)
	}
	return nil
}

func (t *Terminal) length() int {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	return t.text.Len()
}

// awaitPrompt waits until the text from begin on ends with a prompt at the begin of a line, and
// returns the text.
func (t *Terminal) awaitPrompt(ctx context.Context, begin int) (string, error) {
	text, err := t.await(ctx, func(text string) bool {
		text = text[begin:]
		return begin == 0 && text == Prompt || strings.HasSuffix(text, "\n"+Prompt)
	})
	if err != nil {
		return "", fmt.Errorf("wait for the prompt: %w; the terminal has shown %q", err, text[begin:])
	}
	return text[begin:], nil
}

// await waits until the text of all outputs fulfills the condition, and returns the text.
func (t *Terminal) await(ctx context.Context, isWanted func(text string) bool) (string, error) {
	for {
		t.mutex.Lock()
		text, changed := t.text.String(), t.changed
		t.mutex.Unlock()
		if isWanted(text) {
			return text, nil
		}
		select {
		case <-ctx.Done():
			return text, fmt.Errorf("wait for output: %w", context.Cause(ctx))
		case <-t.done:
			return text, errors.New("the shell has ended")
		case <-changed:
		}
	}
}

// Close ends the shell, and returns what it has shown up to now.
func (t *Terminal) Close() (Cast, error) {
	t.mutex.Lock()
	cast := t.cast
	t.mutex.Unlock()
	_, err := t.pty.WriteString("\x04") // end of input
	if err == nil {
		err = t.shell.Wait()
	}
	<-t.done
	t.keep()
	return cast, errors.Join(err, t.pty.Close(), t.readErr)
}
