package guest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// testTimeoutGrace is the time between -test.timeout, when the testing package in
// the guest panics and prints all goroutines, and the kill of the guest. It is
// shorter than the minute after which the go command kills the test binary.
const testTimeoutGrace = 30 * time.Second

// Main runs the tests of a package in a guest. TestMain calls it and exits with the
// code that it returns.
//
// On the machine, Main boots a guest and runs the same test binary there, with the
// same arguments, as root in the same directory. In the guest, Main runs the tests.
// All flags of go test work, also for profiles and -json, except that -fuzz is
// refused. -list needs no guest. The output appears while the tests run. The go
// command never caches the result, because it does not know the guest's kernel.
//
// The guest gets the environment variables that begin with GROWVOL_ and those of
// the Go runtime (GODEBUG, GOTRACEBACK, GOMAXPROCS, GOGC, GOMEMLIMIT, GORACE).
//
// With -race the test binary is built again without the race detector, which does
// not work in a guest.
//
// The exit code is that of the run in the guest. It is at least 1 if the guest's
// kernel panics, hangs or logs a defect; standard error then gives the reason.
func Main(m interface{ Run() int }, opts Options) int {
	if Inside() {
		return m.Run()
	}
	flag.Parse()
	if isFlagSet("test.list") {
		return m.Run()
	}
	code, err := runTests(opts)
	if err == nil {
		return code
	}
	fmt.Fprintln(os.Stderr, "guest:", err)
	return max(code, 1)
}

// runTests runs this test binary in a guest.
func runTests(opts Options) (code int, err error) {
	// The go command sends SIGQUIT some time after the tests' timeout.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	defer stop()
	dir, err := makeTempDir()
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
	program, err := testProgram(ctx, out)
	if err != nil {
		return -1, err
	}
	files := outputFiles{hostDir: out, guestDir: "/guest/out"}
	args, err := files.guestArguments(flag.CommandLine)
	if err != nil {
		return -1, err
	}
	opts.Shares = append([]Share{
		{Host: filepath.Dir(program)},
		{Host: moduleRoot(work)},
		{Host: out, Guest: files.guestDir, Writable: true},
	}, opts.Shares...)
	opts.Timeout = runTimeout(opts.Timeout)
	opts.Env = append(inheritedEnv(os.Environ()), opts.Env...)
	if opts.Stdout == nil {
		opts.Stdout = os.Stdout
	}
	if opts.Stderr == nil {
		opts.Stderr = os.Stderr
	}
	code, err = runInDir(ctx, dir, Command{Path: program, Args: args, Dir: work}, opts)
	return code, errors.Join(err, files.copyBack())
}

// moduleRoot returns the nearest directory above dir that has a go.mod, or dir if
// there is none.
func moduleRoot(dir string) string {
	for root := dir; ; root = filepath.Dir(root) {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			return root
		}
		if root == filepath.Dir(root) {
			return dir
		}
	}
}

// runTimeout returns the shorter of the timeout of Options and -test.timeout with
// its grace. 0 means no timeout.
func runTimeout(timeout time.Duration) time.Duration {
	f := flag.Lookup("test.timeout")
	if f == nil {
		return timeout
	}
	getter, ok := f.Value.(flag.Getter)
	if !ok {
		return timeout
	}
	testTimeout, ok := getter.Get().(time.Duration)
	switch {
	case !ok || testTimeout == 0:
		return timeout
	case timeout == 0:
		return testTimeout + testTimeoutGrace
	}
	return min(timeout, testTimeout+testTimeoutGrace)
}

// inheritedEnv returns the variables of the machine's environment that the guest
// gets too.
func inheritedEnv(all []string) []string {
	goRuntime := []string{"GODEBUG", "GOTRACEBACK", "GOMAXPROCS", "GOGC", "GOMEMLIMIT", "GORACE"}
	var inherited []string
	for _, e := range all {
		name, _, _ := strings.Cut(e, "=")
		isOurs := strings.HasPrefix(name, "GROWVOL_") && name != insideVariable
		if isOurs || slices.Contains(goRuntime, name) {
			inherited = append(inherited, e)
		}
	}
	return inherited
}

// isFlagSet reports whether a command line flag has another value than its default.
func isFlagSet(name string) bool {
	f := flag.Lookup(name)
	return f != nil && f.Value.String() != f.DefValue
}
