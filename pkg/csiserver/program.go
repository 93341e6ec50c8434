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

	"github.com/growvol/growvol/pkg/version"
)

// Program is a plugin's main function: it parses the command line, creates the logger,
// serves, and reports errors on stderr.
type Program struct {
	Name     string
	Flags    *Flags
	Register func(*flag.FlagSet) // defines further options
	// Serve creates the plugin's services and serves them until ctx ends.
	Serve func(ctx context.Context, log *slog.Logger) error
}

// Exit codes of a plugin.
const (
	ExitOK     = 0 // stopped gracefully, or printed the help or the version
	ExitFailed = 1 // could not start, or failed to stop gracefully
	ExitUsage  = 2 // the command line is wrong
)

// Main runs the program with the arguments of the process until SIGINT or SIGTERM
// arrives, and exits the process with the code that Run returns.
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
	case p.Flags.showVersion:
		_, _ = fmt.Fprintln(stdout, p.Name, version.String()) // a failed write cannot be reported
		return ExitOK
	}
	log, err := p.Flags.logger(ctx, stderr)
	if err == nil {
		err = p.Serve(ctx, log)
	}
	if err != nil {
		p.printError(stderr, err)
		return ExitFailed
	}
	return ExitOK
}

// parse parses the command line. It prints an error to stderr before it returns the error.
func (p Program) parse(args []string, stderr io.Writer) error {
	fs := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	fs.SetOutput(stderr)
	p.Flags.register(fs)
	p.Register(fs)
	if err := fs.Parse(args); err != nil {
		return err // package flag has printed it
	}
	if fs.NArg() > 0 {
		err := fmt.Errorf("unexpected argument %q", fs.Arg(0))
		p.printError(stderr, err)
		return err
	}
	return nil
}

func (p Program) printError(stderr io.Writer, err error) {
	_, _ = fmt.Fprintf(stderr, "%s: %v\n", p.Name, err) // a failed write cannot be reported
}
