// Command release builds a release of growvol into a directory, checks it and pushes its images.
// It needs no Docker engine: the images consist of Go programs and of the Debian packages in
// packages.lock. The Makefile runs it:
//
//	release build --version VERSION [OPTION...]   binaries, images, chart, manifests, SBOMs, checksums
//	release push --registry HOST/PATH             pushes the images and the chart
//	release check                                 starts the programs in the roots of the images
//	release lock                                  renews packages.lock
//
// main.go has the command line; the other files are named after what they make.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "release: %v\n", err)
		os.Exit(1)
	}
}

// run runs the command that the first argument names. It writes results to stdout.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	name := strings.Join(args[:min(1, len(args))], "")
	switch name {
	case "build":
		return buildRelease(ctx, args[1:])
	case "check":
		return checkRelease(ctx, args[1:], stdout)
	case "push":
		return pushRelease(ctx, args[1:], stdout)
	case "lock":
		return lockPackages(ctx, args[1:])
	}
	return errors.New("usage: release build|push|check|lock [OPTION...]")
}

// parseFlags parses options, after which no argument may follow.
func parseFlags(fs *flag.FlagSet, args []string) error {
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	return nil
}
