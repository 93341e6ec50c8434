package csiserver

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

// Exit codes of a plugin.
const (
	ExitOK     = 0 // stopped gracefully, or told what was asked for
	ExitFailed = 1 // it could not start, or did not end well
	ExitUsage  = 2 // the command line is wrong
)

// Program is the frame that all plugins share: the command line, the version,
// the logger, and how an end is told.
type Program struct {
	Name     string
	Flags    *Flags              // with the defaults
	Register func(*flag.FlagSet) // further options
	// Serve opens what the plugin serves and serves it until ctx ends.
	Serve func(ctx context.Context, log *slog.Logger) error
}

// Main runs the program with the arguments of the process until SIGINT or
// SIGTERM arrives, and exits the process with the code that Run returns.
func (p Program) Main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := p.Run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// Run parses the arguments, serves until ctx ends, and returns the exit code.
func (p Program) Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	err := p.parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return ExitOK
	case err != nil:
		return ExitUsage
	case p.Flags.ShowVersion:
		_, _ = fmt.Fprintln(stdout, p.Name, Version()) // nobody to tell
		return ExitOK
	}
	log, err := p.Flags.Logger(stderr)
	if err == nil {
		err = p.Serve(ctx, log)
	}
	if err != nil {
		p.tell(stderr, err)
		return ExitFailed
	}
	return ExitOK
}

func (p Program) parse(args []string, stderr io.Writer) error {
	fs := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	fs.SetOutput(stderr)
	p.Flags.Register(fs)
	p.Register(fs)
	if err := fs.Parse(args); err != nil {
		return err // the flag package has told it
	}
	if fs.NArg() > 0 {
		err := fmt.Errorf("unexpected argument %q", fs.Arg(0))
		p.tell(stderr, err)
		return err
	}
	return nil
}

func (p Program) tell(stderr io.Writer, err error) {
	_, _ = fmt.Fprintf(stderr, "%s: %v\n", p.Name, err) // nobody to tell
}
