package main

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// relay copies what is written to in to a serial line, byte for byte. The command
// gets a pipe instead of the line itself because programs write differently to a
// terminal (buffering, color), and a terminal can hang up.
type relay struct {
	in   *os.File
	done chan error
}

// newRelay opens the serial line and starts to copy.
func newRelay(line string) (*relay, error) {
	tty, err := openRaw(line)
	if err != nil {
		return nil, err
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	r := &relay{in: writer, done: make(chan error, 1)}
	go func() {
		if _, err := io.Copy(tty, reader); err != nil {
			r.done <- fmt.Errorf("copy output to %s: %w", line, err)
			return
		}
		r.done <- drain(tty)
	}()
	return r, nil
}

// wait waits until the machine has everything that was written.
func (r *relay) wait() error { return <-r.done }

// openRaw opens a serial line in raw mode, in which every byte passes unchanged. By
// default \n becomes \r\n.
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

// drain waits until the line's buffer is empty, as tcdrain(3).
func drain(tty *os.File) error {
	if err := unix.IoctlSetInt(int(tty.Fd()), unix.TCSBRK, 1); err != nil {
		return fmt.Errorf("drain %s: %w", tty.Name(), err)
	}
	return nil
}
