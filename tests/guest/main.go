package guest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// timeoutGrace is what Main adds to -test.timeout before it kills the guest:
// in the guest the testing package panics at the timeout and shows all
// goroutines, which says more. It is less than the minute that the go command
// adds.
const timeoutGrace = 30 * time.Second

// Main runs the tests of a package in a guest. Call it from TestMain and exit
// with what it returns.
//
// On the machine it boots a guest and runs this same test binary there, with
// the same arguments, as root in the same directory; in the guest it runs the
// tests. All flags of go test work, profiles and -json included; -fuzz is
// refused, and -list needs no guest. Output comes as it is written. Results
// are never cached by the go command: the kernel is not among the inputs it
// knows.
//
// Environment variables that begin with GROWVOL_ and the Go runtime's own
// (GODEBUG, GOTRACEBACK, GOMAXPROCS, GOGC, GOMEMLIMIT, GORACE) are passed on.
//
// With -race the tests run too, but built anew without the race detector, which
// does not fit into a guest.
//
// The exit code is that of the run in the guest. A kernel that panics, hangs or
// logs a defect of its own makes it 1 at least, with the reason on
// standard error.
func Main(m interface{ Run() int }, opts Options) int {
	if Inside() {
		return m.Run()
	}
	flag.Parse()
	if isSet("test.list") {
		return m.Run()
	}
	code, err := runTests(opts)
	if err == nil {
		return code
	}
	fmt.Fprintln(os.Stderr, "guest:", err)
	return max(code, 1)
}

func runTests(opts Options) (code int, err error) {
	// The go command sends SIGQUIT when the tests outlive their timeout.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	defer stop()
	dir, err := makeDir()
	if err != nil {
		return -1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	out := filepath.Join(dir, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		return -1, err
	}
	work, err := os.Getwd()
	if err != nil {
		return -1, err
	}
	program, err := programFor(ctx, out)
	if err != nil {
		return -1, err
	}
	files := outputFiles{hostDir: out, guestDir: "/guest/out"}
	args, err := files.arguments(flag.CommandLine)
	if err != nil {
		return -1, err
	}
	opts.Shares = append([]Share{
		{Host: filepath.Dir(program)},
		{Host: moduleRoot(work)},
		{Host: out, Guest: files.guestDir, Writable: true},
	}, opts.Shares...)
	opts.Timeout = runTimeout(opts.Timeout)
	opts.Env = append(passedEnv(os.Environ()), opts.Env...)
	if opts.Stdout == nil {
		opts.Stdout = os.Stdout
	}
	if opts.Stderr == nil {
		opts.Stderr = os.Stderr
	}
	code, err = runIn(ctx, dir, Command{Path: program, Args: args, Dir: work}, opts)
	return code, errors.Join(err, files.deliver())
}

// moduleRoot returns the directory of the go.mod that dir belongs to, else
// dir.
func moduleRoot(dir string) string {
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			return at
		}
		if at == filepath.Dir(at) {
			return dir
		}
	}
}

// runTimeout is the shorter one of the given timeout and that of go test with
// its grace.
func runTimeout(given time.Duration) time.Duration {
	f := flag.Lookup("test.timeout")
	if f == nil {
		return given
	}
	getter, ok := f.Value.(flag.Getter)
	if !ok {
		return given
	}
	tests, ok := getter.Get().(time.Duration)
	switch {
	case !ok || tests == 0:
		return given
	case given == 0:
		return tests + timeoutGrace
	}
	return min(given, tests+timeoutGrace)
}

func passedEnv(all []string) []string {
	goRuntime := map[string]bool{
		"GODEBUG": true, "GOTRACEBACK": true, "GOMAXPROCS": true, "GOGC": true, "GOMEMLIMIT": true, "GORACE": true,
	}
	var passed []string
	for _, e := range all {
		name, _, _ := strings.Cut(e, "=")
		if goRuntime[name] || (strings.HasPrefix(name, "GROWVOL_") && name != insideEnv) {
			passed = append(passed, e)
		}
	}
	return passed
}

func isSet(name string) bool {
	f := flag.Lookup(name)
	return f != nil && f.Value.String() != f.DefValue
}
