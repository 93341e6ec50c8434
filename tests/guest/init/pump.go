package main

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// pump carries what is written to in over a serial line to the host, byte for
// byte. The command gets a pipe and not the line itself: a terminal would
// change how programs write (buffering, color), and could hang up on them.
type pump struct {
	in   *os.File
	done chan error
}

func newPump(line string) (*pump, error) {
	tty, err := openRaw(line)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p := &pump{in: w, done: make(chan error, 1)}
	go func() {
		if _, err := io.Copy(tty, r); err != nil {
			p.done <- fmt.Errorf("carry output over %s: %w", line, err)
			return
		}
		p.done <- drain(tty)
	}()
	return p, nil
}

// wait returns when everything written was handed to the host.
func (p *pump) wait() error { return <-p.done }

// openRaw opens a serial line so that every byte passes unchanged: by default
// it would write \n as \r\n.
func openRaw(line string) (*os.File, error) {
	f, err := os.OpenFile(line, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", line, err)
	}
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t); err != nil {
		return nil, fmt.Errorf("%s: set raw mode: %w", line, err)
	}
	return f, nil
}

// drain waits until the line's buffer is empty (tcdrain).
func drain(tty *os.File) error {
	if err := unix.IoctlSetInt(int(tty.Fd()), unix.TCSBRK, 1); err != nil {
		return fmt.Errorf("drain %s: %w", tty.Name(), err)
	}
	return nil
}
