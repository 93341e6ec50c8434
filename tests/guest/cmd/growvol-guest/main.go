// Command growvol-guest runs a command as root in a guest (see package guest), to
// try something or to debug a test:
//
//	go run ./tests/guest/cmd/growvol-guest -- \
//		sh -c 'truncate -s 1G /tmp/i && mkfs.ext4 -q /tmp/i && mount /tmp/i /mnt && df /mnt'
//
// The guest sees the directory of a command that is given by its absolute path, and
// with --here the working directory. Both make it usable for go test -exec.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/guest"
)

func main() {
	os.Exit(run())
}

// run runs the command and returns the exit code.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	opts := guest.Options{Stdout: os.Stdout, Stderr: os.Stderr}
	memory := flag.Int64("memory", int64(guest.DefaultMemory/volume.MiB), "memory of the guest in MiB")
	flag.DurationVar(&opts.Timeout, "timeout", 0, "kill the guest after this time")
	console := flag.Bool("console", false, "show the kernel's log on standard error")
	dir := flag.String("dir", "", "working directory in the guest")
	shareWorkDir := flag.Bool("here", false, "share the present directory read-only and work in it")
	flag.Func("share", "HOST[:GUEST[:rw]], a directory to share, read-only by default (repeatable)", func(s string) error {
		share, err := parseShare(s)
		opts.Shares = append(opts.Shares, share)
		return err
	})
	flag.Func("module", "kernel module to load (repeatable)", func(s string) error {
		opts.Modules = append(opts.Modules, s)
		return nil
	})
	flag.Func("env", "NAME=value for the command (repeatable)", func(s string) error {
		opts.Env = append(opts.Env, s)
		return nil
	})
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: growvol-guest [FLAG...] -- COMMAND [ARG...]")
		flag.PrintDefaults()
		return 2
	}
	if *shareWorkDir {
		wd, err := os.Getwd()
		if err != nil {
			fmt.Fprintln(os.Stderr, "growvol-guest:", err)
			return 125
		}
		*dir = wd
		opts.Shares = append(opts.Shares, guest.Share{Host: wd})
	}
	if program := flag.Arg(0); filepath.IsAbs(program) && !strings.HasPrefix(program, "/usr/") {
		opts.Shares = append(opts.Shares, guest.Share{Host: filepath.Dir(program)})
	}
	opts.Memory = volume.Size(*memory) * volume.MiB
	if *console {
		opts.Console = os.Stderr
	}
	code, err := guest.Run(ctx, guest.Command{Path: flag.Arg(0), Args: flag.Args()[1:], Dir: *dir}, opts)
	if err != nil {
		fmt.Fprintln(os.Stderr, "growvol-guest:", err)
	}
	if code < 0 {
		return 125 // as docker run does: not an exit code of the command
	}
	return code
}

// parseShare parses HOST[:GUEST[:MODE]].
func parseShare(s string) (guest.Share, error) {
	host, rest, _ := strings.Cut(s, ":")
	inside, mode, _ := strings.Cut(rest, ":")
	if mode != "" && mode != "rw" && mode != "ro" {
		return guest.Share{}, fmt.Errorf("got %q as the third part of a share, want ro or rw", mode)
	}
	return guest.Share{Host: host, Guest: inside, Writable: mode == "rw"}, nil
}
