package guest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/tests/guest"
	"github.com/growvol/growvol/tests/must"
)

// TestMain gives the guests a directory for their files, and fails if anything of a
// guest is left after all tests.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "guests-")
	if err == nil {
		err = os.Setenv("TMPDIR", dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	left, err := findLeftovers(dir)
	if len(left) > 0 || err != nil {
		fmt.Fprintf(os.Stderr, "FAIL: left behind by guests: %q %v\n", left, err)
		code = max(code, 1)
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// runShell runs a script in a guest.
func runShell(t *testing.T, script string, opts guest.Options) (stdout, stderr string, code int, err error) {
	t.Helper()
	var out, errOut bytes.Buffer
	opts.Stdout, opts.Stderr = &out, &errOut
	code, err = guest.Run(t.Context(), guest.Command{Path: "sh", Args: []string{"-c", script}}, opts)
	return out.String(), errOut.String(), code, err
}

// setTempDir gives the guests of one test a directory of their own.
func setTempDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	return dir
}

// findLeftovers returns the files in dir, and the processes and mounts of this
// machine that use a guest's directory in it.
func findLeftovers(dir string) ([]string, error) {
	found, err := filepath.Glob(dir + "/*")
	if err != nil {
		return nil, err
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	for _, path := range processes {
		if line, err := os.ReadFile(path); err == nil && bytes.Contains(line, []byte(dir+"/growvol-guest-")) {
			found = append(found, path+": "+string(bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	if bytes.Contains(mounts, []byte(dir)) {
		found = append(found, "a mount")
	}
	return found, nil
}

func wantNothingLeft(t *testing.T, dir string) {
	t.Helper()
	left, err := findLeftovers(dir)
	if len(left) > 0 || err != nil {
		t.Errorf("left behind: %q %v", left, err)
	}
}

func TestRunReturnsTheExitCode(t *testing.T) {
	t.Parallel()
	for _, want := range []int{0, 1, 255} {
		t.Run(fmt.Sprint(want), func(t *testing.T) {
			t.Parallel()
			_, _, code, err := runShell(t, fmt.Sprintf("exit %d", want), guest.Options{})
			if code != want || err != nil {
				t.Errorf("code %d, error %v; want %d and none", code, err, want)
			}
		})
	}
}

func TestRunReportsTheSignal(t *testing.T) {
	t.Parallel()
	_, _, code, err := runShell(t, "kill -SEGV $$", guest.Options{})
	var killed *guest.SignalError
	if !errors.As(err, &killed) || killed.Signal != syscall.SIGSEGV || code != 128+11 {
		t.Errorf("code %d, error %v; want 139 and SIGSEGV", code, err)
	}
}

func TestRunReturnsStdoutAndStderrUnchanged(t *testing.T) {
	t.Parallel()
	// All 256 bytes, and more output than the buffers in between hold.
	script := `i=0; while [ $i -lt 256 ]; do printf "\\$(printf %03o $i)"; i=$((i+1)); done
		echo err >&2; seq 100000; echo end >&2`
	out, errOut, code, err := runShell(t, script, guest.Options{})
	if code != 0 || err != nil {
		t.Fatalf("code %d, error %v", code, err)
	}
	var want bytes.Buffer
	for i := range 256 {
		want.WriteByte(byte(i))
	}
	for i := range 100000 {
		fmt.Fprintln(&want, i+1)
	}
	if out != want.String() {
		t.Errorf("stdout: got %d bytes, want %d bytes of the same content", len(out), want.Len())
	}
	if errOut != "err\nend\n" {
		t.Errorf("stderr: got %q, want err and end", errOut)
	}
}

func TestRunDoesNotWaitForChildrenOfTheCommand(t *testing.T) {
	t.Parallel()
	out, _, code, err := runShell(t, "sleep 1000 & echo done", guest.Options{Timeout: 5 * time.Minute})
	if out != "done\n" || code != 0 || err != nil {
		t.Errorf("stdout %q, code %d, error %v", out, code, err)
	}
}

func TestRunPassesEnvironmentDirectoryAndShares(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/in", []byte("from the machine"), 0o600); err != nil {
		t.Fatal(err)
	}
	results := t.TempDir()
	var out bytes.Buffer
	code, err := guest.Run(t.Context(), guest.Command{
		Path: "/bin/sh",
		Args: []string{"-ec", `pwd; echo "$A $B"; cat in; touch x 2>/dev/null || echo; echo result >/results/file
			exec 3>/results/held; echo result >&3; sleep 1000 >/dev/null 2>&1 &`},
		Env: []string{"A=a b"},
		Dir: "/shared",
	}, guest.Options{
		Env:    []string{"B=c"},
		Stdout: &out,
		Shares: []guest.Share{{Host: dir, Guest: "/shared"}, {Host: results, Guest: "/results", Writable: true}},
	})
	if code != 0 || err != nil {
		t.Fatalf("code %d, error %v", code, err)
	}
	if want := "/shared\na b c\nfrom the machine\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	for _, name := range []string{"file", "held"} {
		if got, err := os.ReadFile(filepath.Join(results, name)); string(got) != "result\n" {
			t.Errorf("writable share: %s: %q, %v", name, got, err)
		}
	}
}

func TestRunWorksInAVeryLongDirectory(t *testing.T) {
	dir := setTempDir(t)
	long := filepath.Join(dir, strings.Repeat(strings.Repeat("x", 200)+"/", 3))
	if err := os.MkdirAll(long, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", long)
	if _, _, code, err := runShell(t, "true", guest.Options{}); code != 0 || err != nil {
		t.Errorf("code %d, error %v", code, err)
	}
	wantNothingLeft(t, long)
}

func TestRunReportsWhyTheCommandDidNotStart(t *testing.T) {
	t.Parallel()
	_, _, code, err := runShell(t, "true", guest.Options{Modules: []string{"no_such_module"}})
	if code != -1 || err == nil || !strings.Contains(err.Error(), "no_such_module") {
		t.Errorf("code %d, error %v", code, err)
	}
	code, err = guest.Run(t.Context(), guest.Command{Path: "no-such-program"}, guest.Options{})
	if code != -1 || err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("code %d, error %v", code, err)
	}
	_, _, code, err = runShell(t, "true", guest.Options{Shares: []guest.Share{{Host: "/no/such/directory"}}})
	if code != -1 || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("code %d, error %v", code, err)
	}
}

func TestRunReportsPanic(t *testing.T) {
	dir := setTempDir(t)
	out, _, code, err := runShell(t, "echo before; echo c >/proc/sysrq-trigger", guest.Options{})
	if code != -1 || !errors.Is(err, guest.ErrKernel) {
		t.Fatalf("code %d, error %v; want ErrKernel", code, err)
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	if want := "Kernel panic - not syncing: sysrq triggered crash"; !strings.Contains(first, want) {
		t.Errorf("%q lacks %q", first, want)
	}
	if out != "before\n" {
		t.Errorf("stdout before the panic: %q", out)
	}
	wantNothingLeft(t, dir)
}

func TestRunReportsAKilledKernel(t *testing.T) {
	dir := setTempDir(t)
	command := guest.Command{Path: "sh", Args: []string{"-c", "echo up; sleep 1000"}}
	code, err := guest.Run(t.Context(), command, guest.Options{Stdout: onWrite(func() { killKernel(t, dir) })})
	if code != -1 || !errors.Is(err, guest.ErrKernel) || !strings.Contains(err.Error(), "killed") {
		t.Errorf("code %d, error %v; want ErrKernel", code, err)
	}
	wantNothingLeft(t, dir)
}

// killKernel kills the process of the guest's kernel, as the machine does when it
// has no memory left.
func killKernel(t *testing.T, dir string) {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Error(err)
	}
	parents := map[int]int{} // of the processes of the kernel, which starts further ones
	for _, path := range processes {
		line, err := os.ReadFile(path)
		program, args, _ := strings.Cut(string(line), "\x00")
		if err != nil || filepath.Base(program) != "linux.uml" || !strings.Contains(args, dir) {
			continue
		}
		stat, err := os.ReadFile(filepath.Join(filepath.Dir(path), "stat"))
		_, rest, _ := strings.Cut(string(stat), ") ") // after the name: state and parent
		var state string
		var parent int
		if _, scanErr := fmt.Sscan(rest, &state, &parent); err != nil || scanErr != nil {
			continue // it has ended
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			parents[pid] = parent
		}
	}
	for pid, parent := range parents {
		if _, isKernel := parents[parent]; isKernel {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		return
	}
	t.Error("no kernel found")
}

func TestRunReportsAKernelWarning(t *testing.T) {
	t.Parallel()
	const warning = "WARNING: CPU: 0 PID: 1 at a/test.c:1 as_asked+0x1/0x2"
	var log bytes.Buffer
	_, _, code, err := runShell(t, "echo '<4>"+warning+"' >/dev/kmsg; exit 3", guest.Options{Console: &log})
	if code != 3 || !errors.Is(err, guest.ErrKernel) || !strings.Contains(err.Error(), warning) {
		t.Errorf("code %d, error %v; want 3 and the warning", code, err)
	}
	if !strings.Contains(log.String(), "Linux version") || !strings.Contains(log.String(), warning) {
		t.Error("the console lacks the kernel's first line, or the warning")
	}
}

func TestRunKillsTheGuestAtTheTimeout(t *testing.T) {
	dir := setTempDir(t)
	// Many processes, some busy and one stopped.
	script := "echo up; for i in 1 2 3 4 5; do sleep 1000 & done; (while :; do :; done) & kill -STOP $!; " +
		"while :; do :; done"
	for timeout := 8 * time.Second; ; timeout *= 2 { // a busy machine needs longer to boot
		start := time.Now()
		out, _, code, err := runShell(t, script, guest.Options{Timeout: timeout})
		if code != -1 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("code %d, error %v; want deadline exceeded", code, err)
		}
		if took := time.Since(start); took > timeout+22*time.Second {
			t.Errorf("Run took %v, want %v and some seconds", took, timeout)
		}
		wantNothingLeft(t, dir)
		if out == "up\n" && !strings.Contains(fmt.Sprint(err), "Run /guest/bin/init as init process") {
			t.Errorf("the error does not contain the kernel's log: %v", err)
		}
		if out == "up\n" || t.Failed() {
			return
		}
		if timeout > time.Minute {
			t.Fatalf("the guest has not booted within %v: %v", timeout, err)
		}
	}
}

func TestRunObeysTheContext(t *testing.T) {
	dir := setTempDir(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("a reason")
	code, err := guest.Run(ctx, guest.Command{Path: "sh", Args: []string{"-c", "echo up; sleep 1000"}}, guest.Options{
		Stdout: onWrite(func() { cancel(reason) }),
	})
	if code != -1 || !errors.Is(err, reason) || errors.Is(err, guest.ErrKernel) {
		t.Errorf("code %d, error %v; want %v without ErrKernel", code, err, reason)
	}
	wantNothingLeft(t, dir)
}

// onWrite is a writer that calls the function at every write.
type onWrite func()

func (f onWrite) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

func TestGuestEndsWithAKilledCaller(t *testing.T) {
	dir := setTempDir(t)
	program := filepath.Join(t.TempDir(), "growvol-guest")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./cmd/growvol-guest")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	caller := exec.CommandContext(t.Context(), program, "--", "sh", "-c", "echo up; sleep 1000")
	up := make(chan struct{})
	var once sync.Once
	caller.Stdout = onWrite(func() { once.Do(func() { close(up) }) })
	if err := caller.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-up:
	case <-time.After(2 * time.Minute):
		t.Error("the guest has not booted")
	}
	if left, err := findLeftovers(dir); len(left) < 3 || err != nil {
		t.Errorf("got %q, %v of a running guest, want its files and processes", left, err)
	}
	if err := caller.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = caller.Wait()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		if left, err := findLeftovers(dir); len(left) == 0 && err == nil {
			break
		}
	}
	wantNothingLeft(t, dir)
}

func TestTwoGuestsAtOnce(t *testing.T) {
	t.Parallel()
	meet := t.TempDir()
	var group sync.WaitGroup
	for _, names := range [][2]string{{"a", "b"}, {"b", "a"}} {
		group.Go(func() {
			// Each guest ends only when it sees the file of the other.
			script := fmt.Sprintf("touch /meet/%s; while ! sh -c 'test -e /meet/%s'; do sleep 0.1; done", names[0], names[1])
			code, err := guest.Run(t.Context(), guest.Command{Path: "sh", Args: []string{"-c", script}}, guest.Options{
				Shares:  []guest.Share{{Host: meet, Guest: "/meet", Writable: true}},
				Timeout: 5 * time.Minute,
			})
			if code != 0 || err != nil {
				t.Errorf("guest %s: code %d, error %v", names[0], code, err)
			}
		})
	}
	group.Wait()
}

// A frame of the guest arrives at the other end of the port, with the addresses of the options.
func TestNetworkCarriesFrames(t *testing.T) {
	setTempDir(t)
	pair := must.Value(unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0))(t)
	near, far := os.NewFile(uintptr(pair[0]), "near"), os.NewFile(uintptr(pair[1]), "far")
	frames := make(chan []byte, 1)
	go func() {
		defer close(frames)
		for frame := make([]byte, 65536); ; {
			n, err := near.Read(frame)
			if err != nil {
				return
			}
			const arp = "\x08\x06"
			if n >= 42 && string(frame[12:14]) == arp {
				frames <- bytes.Clone(frame[:n])
				return
			}
		}
	}()
	mac := net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}
	_, stderr, code, err := runShell(t, "bash -c 'echo >/dev/udp/10.9.0.1/9'; sleep 1", guest.Options{
		Network: &guest.Network{Port: far, Address: netip.MustParsePrefix("10.9.0.2/24"), MAC: mac},
	})
	if code != 0 || err != nil {
		t.Fatalf("exit code %d, %v: %s", code, err, stderr)
	}
	must.Succeed(t, far.Close())
	must.Succeed(t, near.Close())
	frame := <-frames
	if len(frame) < 42 {
		t.Fatal("no ARP request has arrived")
	}
	// The sender's addresses in an ARP message, RFC 826.
	sender, address, target := frame[22:28], frame[28:32], frame[38:42]
	want := []byte{10, 9, 0, 2, 10, 9, 0, 1}
	if !bytes.Equal(sender, mac) || !bytes.Equal(append(bytes.Clone(address), target...), want) {
		t.Errorf("got an ARP request from %x (%v) for %v, want %x (10.9.0.2) for 10.9.0.1", sender, address, target, mac)
	}
}
